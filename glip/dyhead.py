"""The dynamic convolution block of the head (Dai et al. 2021): deformable, across levels, with dynamic ReLU.

A pyramid is one tensor (B, N, C): the levels P3 … P7 one after another, each y-major, with its list of (h, w).
Each of the three deformable convolutions is sampled for all its levels in one go.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glip.deform import places, sample

Shapes = tuple[tuple[int, int], ...]
COARSER, SAME, FINER = 0, 1, 2
"""The branches, by the index of their convolution: which level's features a branch reads."""


def split_levels(pyramid: Tensor, shapes: Shapes) -> list[Tensor]:
    """(B, N, C) → maps (B, C, h, w), fine to coarse."""
    parts = pyramid.split([h * w for h, w in shapes], 1)
    return [p.transpose(1, 2).reshape(p.shape[0], -1, h, w) for p, (h, w) in zip(parts, shapes, strict=True)]


def join_levels(maps: list[Tensor]) -> tuple[Tensor, Shapes]:
    """Maps (B, C, h, w) → ((B, N, C), their shapes)."""
    shapes = tuple((m.shape[2], m.shape[3]) for m in maps)
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1), shapes


def branches(levels: int) -> list[tuple[int, int]]:
    """(branch, level) of every deformable convolution of a block, grouped by branch."""
    return (
        [(COARSER, i) for i in range(levels - 1)]
        + [(SAME, i) for i in range(levels)]
        + [(FINER, i) for i in range(1, levels)]
    )


def _base_grid(shapes: Shapes) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The tables of `_new_grid`, kept; an export makes its own, since its tensors are no numbers."""
    return _new_grid(shapes) if torch.compiler.is_exporting() else _kept_grid(shapes)


@lru_cache(maxsize=64)
def _kept_grid(shapes: Shapes) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    return _new_grid(shapes)


def _new_grid(shapes: Shapes) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Un-shifted tap positions y, x (n, 9) of all branches, and the map (height, width, first row) each reads."""
    starts = [sum(h * w for h, w in shapes[:i]) for i in range(len(shapes))]
    tap = torch.arange(9)
    ys, xs, maps = [], [], []
    for branch, level in branches(len(shapes)):
        read = level + 1 - branch
        h, w = shapes[read if branch == COARSER else level]
        step = 2 if branch == FINER else 1
        at = torch.arange(h * w)[:, None]
        ys.append(at // w * step - 1 + tap // 3)
        xs.append(at % w * step - 1 + tap % 3)
        maps.append(torch.tensor([[*shapes[read], starts[read]]]).expand(h * w, 3))
    height, width, first = torch.cat(maps).split(1, 1)
    return torch.cat(ys), torch.cat(xs), (height, width, first)


def reread(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, k, H, W) → (B, k, h, w): the first k·h·w numbers of each sample, in memory order, under a smaller shape.

    This is how the reference's kernel reads the offsets of the branch with the coarser input: it indexes their
    memory with the output's size. The official weights were trained with it; cropping or resizing breaks them.
    """
    h, w = shape
    return values.flatten(1)[:, : values.shape[1] * h * w].view(values.shape[0], values.shape[1], h, w)


class DeformConv(nn.Module):
    """Weights of a deformable 3 × 3 convolution and the group norm after it."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.GroupNorm(groups, channels)
        bound = (9 * channels) ** -0.5
        nn.init.uniform_(self.conv.weight, -bound, bound)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, columns: Tensor) -> Tensor:
        """Columns (B, n, 9 · C), tap-major → (B, n, C), before the norm."""
        weight = self.conv.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(columns, weight, self.conv.bias)


class DyReLU(nn.Module):
    """max(a1·x + b1, a2·x + b2) with coefficients predicted for each channel from the pooled map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, 4 * channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → the same."""
        y = hard_sigmoid(self.fc(x.mean((2, 3))))[..., None, None]
        a1, b1, a2, b2 = y.chunk(4, 1)
        one, two = x * (2 * a1) + (b1 - 0.5), x * (2 * a2 - 1) + (b2 - 0.5)
        return torch.where(one > two, one, two)  # the gradient of `maximum` takes ten passes more


def hard_sigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return F.relu6(x + 3) / 6


class DyConv(nn.Module):
    """One block: every level from itself and its neighbours, at learned places."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.DyConv = nn.ModuleList(DeformConv(channels, groups) for _ in range(3))
        self.AttnConv = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 1, 1), nn.ReLU())
        self.relu = DyReLU(channels)
        self.offset = nn.Conv2d(channels, 27, 3, padding=1)
        attention = self.AttnConv[1]
        assert isinstance(attention, nn.Conv2d)
        assert attention.bias is not None
        nn.init.normal_(attention.weight, 0, 0.01)
        nn.init.zeros_(attention.bias)

    def forward(self, pyramid: Tensor, shapes: Shapes) -> Tensor:
        """(B, N, C) → the same."""
        raw = self._convolved(pyramid, shapes)
        parts: list[list[Tensor]] = [[] for _ in shapes]
        for (branch, level), y in zip(branches(len(shapes)), raw, strict=True):
            y = self._norm(branch)(y)
            if branch == COARSER:
                y = F.interpolate(y, size=shapes[level], mode="bilinear", align_corners=True)
            parts[level].append(y * hard_sigmoid(self.AttnConv(y)))
        levels = [self.relu(torch.stack(p).mean(0) if len(p) > 1 else p[0]) for p in parts]
        return join_levels(levels)[0]

    def _norm(self, branch: int) -> nn.Module:
        block = self.DyConv[branch]
        assert isinstance(block, DeformConv)
        return block.bn

    def _convolved(self, pyramid: Tensor, shapes: Shapes) -> list[Tensor]:
        """The deformable convolutions in the order of `branches`, each (B, C, h, w) at the branch's own size."""
        order = branches(len(shapes))
        sizes = [shapes[level + 1] if branch == COARSER else shapes[level] for branch, level in order]
        y, x, modulation = self._places(pyramid, shapes, sizes)
        height, width, first = (t.to(pyramid.device) for t in _base_grid(shapes)[2])
        index, weight = places(y, x, modulation, (height, width, first), pyramid.shape[1])
        counts = [sum(h * w for (b, _), (h, w) in zip(order, sizes, strict=True) if b == k) for k in range(3)]
        table, joined = pyramid.flatten(0, 1), []
        for conv, at, share in zip(self.DyConv, index.split(counts, 1), weight.split(counts, 1), strict=True):
            columns = sample(table, at.reshape(-1, 4), share.reshape(-1, 4))
            joined.append(conv(columns.view(len(pyramid), at.shape[1], -1)))
        return split_levels(torch.cat(joined, 1), tuple(sizes))

    def _places(
        self, pyramid: Tensor, shapes: Shapes, sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where each tap of each branch reads: y, x and modulation, each (B, n, 9), in float32 or better."""
        shifts, masks = [], []
        exact = torch.promote_types(pyramid.dtype, torch.float32)
        maps = [self.offset(m).to(exact) for m in split_levels(pyramid, shapes)]
        for (_, level), shape in zip(branches(len(shapes)), sizes, strict=True):
            shifts.append(reread(maps[level][:, :18], shape).flatten(2).transpose(1, 2))
            masks.append(reread(maps[level][:, 18:], shape).flatten(2).transpose(1, 2))
        base_y, base_x, _ = _base_grid(shapes)
        shift = torch.cat(shifts, 1)
        y = shift[..., 0::2] + base_y.to(pyramid.device)
        x = shift[..., 1::2] + base_x.to(pyramid.device)
        return y, x, torch.cat(masks, 1).sigmoid()
