"""Optimizer groups, learning-rate schedule, moving average."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from etl.errors import UsageError
from glip.experts import MedGLIP
from glip.recipe import TrainConfig

TEXT_LAYER = re.compile(r"dyhead_tower\.\d+\.(attention|intermediate|output)\.")
"""Names of the parameters of the head's text layers."""


def freeze(model: MedGLIP, parts: tuple[str, ...]) -> None:
    """Takes parts out of training; they also stay in evaluation mode."""
    for module in frozen_modules(model, parts):
        module.requires_grad_(False)


def frozen_modules(model: MedGLIP, parts: tuple[str, ...]) -> Iterator[nn.Module]:
    """The modules that the names of parts mean."""
    for part in parts:
        if part in ("language", "shared"):
            yield model.shared.language_backbone
        if part in ("head", "shared"):
            yield model.shared.rpn
        if part in ("trunk", "fpn"):
            for expert in model.modalities:
                yield model.expert(expert).body if part == "trunk" else model.expert(expert).fpn


def optimizer(model: MedGLIP, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over groups of equal rate and decay; the official grouping goes by substrings of the names."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(_rate_and_decay(name, parameter, config), []).append(parameter)
    chosen = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    if not groups:
        raise UsageError(f"--freeze {' '.join(config.freeze)} leaves nothing to train")
    parts = [{"params": p, "lr": r, "initial_lr": r, "weight_decay": d} for (r, d), p in groups.items()]
    return chosen(parts, foreach=True)


def _rate_and_decay(name: str, parameter: nn.Parameter, config: TrainConfig) -> tuple[float, float]:
    rate = config.lr
    if ".body." in name and name.startswith("experts."):
        rate *= config.trunk_lr
    elif ".language_backbone." in name:
        rate *= config.language_lr
    elif TEXT_LAYER.search(name):
        rate *= config.text_layer_lr
    if "bias" in name:  # also the relative position tables, bias_lang and bias0
        return rate * config.bias_lr, 0.0
    return rate, config.weight_decay if config.decay_norms or parameter.ndim > 1 else 0.0


def rate_factor(update: int, total: int, config: TrainConfig) -> float:
    """What every group's rate is multiplied with at an update."""
    if update < config.warmup:
        return (update + 1) / config.warmup
    share = update / max(total, 1)
    if config.schedule == "cosine":
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    if config.schedule == "step":
        return 0.1 ** ((share >= 0.67) + (share >= 0.89))
    return 1.0


def set_rate(chosen: torch.optim.Optimizer, factor: float) -> None:
    """Scales the rate of every group from its initial one."""
    for group in chosen.param_groups:
        group["lr"] = group["initial_lr"] * factor


class Average:
    """Exponential moving average of the parameters that train."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.values = {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Moves towards the model; faster at the beginning, when the average knows little."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(list(self.values.values()), list(self.parameters.values()), 1 - decay)

    def swap(self) -> None:
        """Exchanges the model's weights and the averaged ones; twice restores."""
        for name, parameter in self.parameters.items():
            current: Tensor = parameter.data
            parameter.data, self.values[name] = self.values[name], current
