"""Feature maps of a Med-GLIP expert, and what of them lies under boxes. Torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from glip.config import STRIDES
from glip.downstream.items import Region, Size
from glip.downstream.vision import pooled
from glip.experts import load_bundle
from glip.images import stack, to_input

LEVEL = 0
"""Of the pyramid: the finest, of stride 8."""
CELLS = 16
"""A map is brought to this many rows and columns, whatever the image's shape."""


@torch.no_grad()
def expert_maps(
    bundle: Path, root: Path, images: Sequence[str], modality: dict[str, str | None]
) -> dict[str, NDArray[np.float32]]:
    """Image → (C, 16, 16) of its modality's expert; zeros where there is no expert for it.

    An image of unknown modality takes the only expert of a bundle that has one, else it has none.
    """
    model, _ = load_bundle(bundle)
    only = model.modalities[0] if len(model.modalities) == 1 else None
    out: dict[str, NDArray[np.float32]] = {}
    for image in images:
        expert = modality.get(image) or only
        if expert not in model.modalities:
            out[image] = np.zeros((model.config.head.channels, CELLS, CELLS), np.float32)
            continue
        with Image.open(root / image) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        batch, ((height, width),) = stack([to_input(pixels, model.config)])
        level = model.expert(str(expert))(batch)[LEVEL]
        inside = level[:, :, : -(-height // STRIDES[LEVEL]), : -(-width // STRIDES[LEVEL])]
        out[image] = F.adaptive_avg_pool2d(inside, CELLS)[0].numpy()
    return out


def region_features(maps: NDArray[np.float32], regions: Sequence[Region], size: Size) -> NDArray[np.float32]:
    """(regions, C): the mean of a map (C, h, w) under each box in pixels of an image of (width, height)."""
    if not regions:
        return np.zeros((0, len(maps)), np.float32)
    corners = np.array([r.corners(size) for r in regions], np.float32)
    found: NDArray[np.float32] = pooled(torch.from_numpy(maps)[None], torch.from_numpy(corners)[None])[0].numpy()
    return found
