"""What the small models see of an image: a grid of cells and, beside it, the regions of the arm.

A region is the mean of the feature map under its box, its place and score, and the words of its phrase. The map is
either learnt here from pixels, or a Med-GLIP expert's (features.py). Torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glip.downstream.items import Region, Size
from glip.downstream.words import Vocabulary


@dataclass(frozen=True, slots=True)
class Sight:
    """A batch of images with their regions. B images, R regions (padded), W words of a phrase (padded)."""

    maps: Tensor
    """(B, C, H, W): grey pixels from −1 to 1, or an expert's feature map."""
    boxes: Tensor
    """(B, R, 4): x1, y1, x2, y2 as shares of width and height."""
    scores: Tensor
    """(B, R)."""
    words: Tensor
    """(B, R, W): 0 is padding."""
    present: Tensor
    """(B, R) bool."""


@dataclass(frozen=True, slots=True)
class SeerConfig:
    """Sizes of the small image side."""

    channels: int = 1
    """Of the maps that come in: 1 for grey pixels, else an expert's."""
    width: int = 64
    """Of the tokens that go out."""
    cells: int = 4
    """The grid is cells × cells."""


class Seer(nn.Module):
    """Tokens (B, cells² + R, width) and their mask from a `Sight`."""

    def __init__(self, config: SeerConfig, vocabulary: int) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.trunk: nn.Module = _trunk(width) if config.channels == 1 else nn.Conv2d(config.channels, width, 1)
        self.grid = nn.AdaptiveAvgPool2d(config.cells)
        self.place = nn.Parameter(torch.zeros(config.cells**2, width))
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        self.geometry = nn.Sequential(nn.Linear(9, width), nn.ReLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, sight: Sight) -> tuple[Tensor, Tensor]:
        """(tokens, mask): the grid's cells, then the regions; the mask is False at padded regions."""
        maps = self.trunk(sight.maps)
        cells = self.grid(maps).flatten(2).transpose(1, 2) + self.place
        counts = (sight.words > 0).sum(-1, keepdim=True).clamp(min=1)
        named = self.words(sight.words).sum(2) / counts
        regions = pooled(maps, sight.boxes) + named + self.geometry(_geometry(sight.boxes, sight.scores))
        tokens = self.norm(torch.cat((cells, regions), 1))
        mask = torch.cat((sight.present.new_ones(cells.shape[:2]), sight.present), 1)
        return tokens, mask


def _trunk(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in pairwise((1, width // 4, width // 2, width)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.ReLU()]
    return nn.Sequential(*layers)


def _geometry(boxes: Tensor, scores: Tensor) -> Tensor:
    """(…, 9): corners, centre, sides and score."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat((boxes, (low + high) / 2, high - low, scores[..., None]), -1)


def pooled(maps: Tensor, boxes: Tensor) -> Tensor:
    """(B, R, C): the mean of maps (B, C, h, w) over boxes (shares of the sides), cells weighted by their overlap."""
    h, w = maps.shape[2:]
    across = _overlap(boxes[..., 0], boxes[..., 2], w)
    down = _overlap(boxes[..., 1], boxes[..., 3], h)
    weights = (down[..., :, None] * across[..., None, :]).flatten(2)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)
    return weights @ maps.flatten(2).transpose(1, 2)


def _overlap(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """(…, cells): the length of each cell inside [low, high], which are shares of the side."""
    edge = torch.arange(cells, device=low.device, dtype=low.dtype)
    a, b = low[..., None] * cells, high[..., None] * cells
    return (torch.minimum(edge + 1, b) - torch.maximum(edge, a)).clamp(min=0)


def sight(
    maps: Sequence[NDArray[np.float32]], regions: Sequence[Sequence[Region]], sizes: Sequence[Size],
    vocabulary: Vocabulary, *, most: int = 12,
) -> Sight:  # fmt: skip
    """A batch from maps (C, H, W), regions in pixels and (width, height) of each image; at most `most` regions."""
    kept = [list(r[:most]) for r in regions]
    count = max(1, *(len(r) for r in kept))
    words = [[vocabulary.encode(r.phrase.lower()) for r in row] for row in kept]
    length = max([1, *(len(w) for row in words for w in row)])
    boxes, scores = np.zeros((len(kept), count, 4), np.float32), np.zeros((len(kept), count), np.float32)
    numbers, present = np.zeros((len(kept), count, length), np.int64), np.zeros((len(kept), count), bool)
    for n, (row, size) in enumerate(zip(kept, sizes, strict=True)):
        for m, found in enumerate(row):
            boxes[n, m] = np.clip(found.corners(size), 0, 1)
            scores[n, m], present[n, m] = found.score, True
            numbers[n, m, : len(words[n][m])] = words[n][m]
    return Sight(torch.from_numpy(np.stack(maps)), *map(torch.from_numpy, (boxes, scores, numbers, present)))
