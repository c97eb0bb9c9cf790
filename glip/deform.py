"""Deformable sampling in plain PyTorch (modulated deformable convolution, Zhu et al. 2019, without compiled code)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def corners(y: Tensor, x: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """(index, weight), each (…, 4): the row-major places around a point of a height × width map, and their shares.

    Shares of places outside the map are 0, so a point beyond (−1, height) × (−1, width) gives nothing.
    """
    top, left = y.detach().floor(), x.detach().floor()
    dy, dx = y - top, x - left
    rows = torch.stack((top, top, top + 1, top + 1), -1)
    columns = torch.stack((left, left + 1, left, left + 1), -1)
    share = torch.stack(((1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx), -1)
    height, width = height[..., None], width[..., None]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = torch.where(inside, rows * width + columns, 0.0).long()
    return index, share * inside


def sample(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """(n, C): for each of n points the weighted sum of rows of `table` (m, C); index and weight are (n, k).

    Differentiable in the table and the weights. ONNX has no such bag, so an export gathers the rows instead.
    """
    if torch.compiler.is_exporting():
        return (table[index] * weight.to(table.dtype)[..., None]).sum(1)
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight.to(table.dtype))


def sample_points(
    table: Tensor, y: Tensor, x: Tensor, modulation: Tensor, grid: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """(B, n, taps · C): the maps of `table` read bilinearly at (y, x) and multiplied by the modulation.

    `table` (B, N, C) holds maps of several sizes one after another; y, x and modulation are (B, n, taps); `grid` is
    (height, width, first row) of the map that each point reads, each (n, 1) in the dtype of y.
    """
    batch, rows, channels = table.shape
    height, width, first = grid
    index, share = corners(y, x, height, width)
    start = torch.arange(batch, device=table.device)[:, None, None] * rows + first.long()
    weight = share * modulation[..., None]
    read = sample(table.reshape(batch * rows, channels), (index + start[..., None]).view(-1, 4), weight.view(-1, 4))
    return read.view(batch, y.shape[1], -1)
