"""Pictures to network input: one size rule for training, evaluation and inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from glip.config import ModelConfig

MEAN = (103.53, 116.28, 123.675)
STD = (57.375, 57.12, 58.395)
"""Per channel in the order blue, green, red, of values 0 … 255."""
STEP = 32
"""Canvas sides are multiples of this."""


def scaled_size(height: int, width: int, config: ModelConfig) -> tuple[int, int]:
    """(height, width) after scaling: shorter side `short_side` unless the longer one would exceed `long_side`."""
    low, high = min(height, width), max(height, width)
    side = config.short_side
    if high / low * side > config.long_side:
        side = max(1, round(config.long_side * low / high))
    long = int(side * high / low)
    return (side, long) if height <= width else (long, side)


def canvas(height: int, width: int) -> tuple[int, int]:
    """The canvas of an image of this (scaled) size: each side rounded up to a multiple of 32."""
    return -(-height // STEP) * STEP, -(-width // STEP) * STEP


def rgb(array: NDArray[Any]) -> NDArray[np.uint8]:
    """(rows, columns) or (rows, columns, 3) uint8 → (rows, columns, 3)."""
    return np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array


def to_input(array: NDArray[np.uint8], config: ModelConfig) -> Tensor:
    """A uint8 picture (rows, columns[, 3]) → float (3, h, w): scaled, blue first, normalised."""
    size = scaled_size(array.shape[0], array.shape[1], config)
    picture = Image.fromarray(rgb(array)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    bgr = np.asarray(picture)[..., ::-1].astype(np.float32)
    values = (bgr - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def stack(images: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """((B, 3, H, W) of images of one canvas, zero below and to the right; their own (height, width))."""
    sizes = [(i.shape[1], i.shape[2]) for i in images]
    canvases = {canvas(*size) for size in sizes}
    if len(canvases) != 1:
        raise ValueError(f"images of different canvases in one batch: {sorted(canvases)}")
    height, width = canvases.pop()
    out = torch.zeros(len(images), 3, height, width)
    for row, image in zip(out, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return out, sizes
