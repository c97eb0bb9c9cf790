"""Training of the baselines: random augmented samples, AdamW, checkpoints that an interrupted run goes on from."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from etl.errors import Failure
from glip.augment import RECIPES, augment
from glip.checkpoint import load_state, save_state
from glip.data import Sample, Source
from glip.images import rgb

SAVE_EVERY = 100
TOLD_EVERY = 20
CLIP = 0.1
"""Largest norm of the gradient, as DETR and its successors have it."""
DECAY = 1e-4
WARM = 0.05
"""Share of the steps over which the rate rises; it then falls as a cosine."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How long and how fast."""

    steps: int
    batch: int
    lr: float
    seed: int


def fit(
    model: nn.Module, source: Source, loss: Callable[[Sequence[Sample], np.random.Generator], Tensor], settings: Fit,
    checkpoint: Path,
) -> None:  # fmt: skip
    """Trains in place, from the checkpoint on if there is one; `loss` is that of some samples.

    Samples and augmentation depend on seed and step alone. Failure where the loss is no number.
    """
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], settings.lr, weight_decay=DECAY)
    done = 0
    torch.manual_seed(settings.seed)
    if checkpoint.is_file():
        state = load_state(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        done = state["done"]
    model.train()
    begun = time.monotonic()
    for step in range(done, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * rate(step, settings.steps)
        rng = np.random.default_rng([settings.seed, zlib.crc32(b"sample"), step])
        value = loss([_drawn(source, rng) for _ in range(settings.batch)], rng)
        if not torch.isfinite(value):
            raise Failure(f"step {step}: the loss is not a number; a lower lr usually helps")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if (step + 1) % TOLD_EVERY == 0:
            seconds = time.monotonic() - begun
            print(f"step {step + 1}/{settings.steps}  loss {value.item():.3f}  {seconds:.0f} s", file=sys.stderr)
        if (step + 1) % SAVE_EVERY == 0:
            save_state(checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                                    "random": torch.get_rng_state(), "done": step + 1})  # fmt: skip


def rate(step: int, steps: int) -> float:
    """The factor on the learning rate."""
    warm = max(1, round(WARM * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def _drawn(source: Source, rng: np.random.Generator) -> Sample:
    sample = source.read(int(rng.integers(len(source.rows))))
    image, regions, absent = augment(
        sample.image, sample.regions, sample.absent, recipe=RECIPES[sample.modality], axis=sample.axis,
        labels=set(source.labels), rng=rng,
    )  # fmt: skip
    return replace(sample, image=image, regions=regions, absent=absent)


def pixels(image: NDArray[np.uint8], height: int, width: int) -> Tensor:
    """(3, height, width) of 0 … 1, red first."""
    picture = Image.fromarray(rgb(image)).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def centred(sample: Sample) -> Tensor:
    """(n, 4): the boxes as shares of the image, centre x, centre y, width, height."""
    height, width = sample.image.shape[:2]
    boxes = torch.tensor([r.box for r in sample.regions], dtype=torch.float32).view(-1, 4)
    boxes[:, :2] += boxes[:, 2:] / 2
    return boxes / torch.tensor([width, height, width, height])


def cornered(boxes: Tensor, sample: Sample) -> Tensor:
    """(n, 4): the reverse, [x, y, width, height] in pixels, clipped to the image."""
    height, width = sample.image.shape[:2]
    low = ((boxes[:, :2] - boxes[:, 2:] / 2) * torch.tensor([width, height])).clamp(min=0)
    high = torch.minimum((boxes[:, :2] + boxes[:, 2:] / 2) * torch.tensor([width, height]),
                         torch.tensor([float(width), float(height)]))  # fmt: skip
    return torch.cat([low, (high - low).clamp(min=0)], dim=1)


def best(scores: Tensor, most: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """(score, row, column) of the largest of a matrix, largest first."""
    value, place = scores.flatten().topk(min(most, scores.numel()))
    return value, place // scores.shape[1], place % scores.shape[1]
