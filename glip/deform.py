"""Deformable sampling in plain PyTorch (modulated deformable convolution, Zhu et al. 2019, without compiled code)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
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


class _Gather(torch.autograd.Function):
    """`sample`, with the table's gradient gathered as well: rows are visited in the table's order, not scattered."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight)
        ctx.rows = len(table)
        return columns.view_as(columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        if not ctx.needs_input_grad[1]:
            return gradient, None, None, None
        index, weight = ctx.saved_tensors
        order = index.flatten().argsort(stable=True)
        ends = torch.bincount(index.flatten(), minlength=ctx.rows).cumsum(0)
        starts = F.pad(ends, (1, 0))
        share = weight.flatten()[order]
        points = order.div(index.shape[1], rounding_mode="floor")
        back = F.embedding_bag(
            points, gradient.contiguous(), starts, mode="sum", per_sample_weights=share, include_last_offset=True
        )
        return gradient, back, None, None


def sample(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """(n, C): for each of n points the weighted sum of rows of `table` (m, C); index and weight are (n, k).

    Differentiable in the table and the weights. ONNX has no such bag, so an export gathers the rows instead.
    """
    weight = weight.to(table.dtype)
    if torch.compiler.is_exporting():
        return (table[index] * weight[..., None]).sum(1)
    columns = F.embedding_bag(index, table.detach(), mode="sum", per_sample_weights=weight)
    y: Tensor = _Gather.apply(columns, table, index, weight.detach())  # type: ignore[no-untyped-call]
    return y


def places(
    y: Tensor, x: Tensor, modulation: Tensor, grid: tuple[Tensor, Tensor, Tensor], rows: int
) -> tuple[Tensor, Tensor]:
    """(index, weight), each (B, n, taps, 4): which rows of a table (B · rows, C) each of (B, n, taps) points reads.

    The table holds maps of several sizes one after another; `grid` is (height, width, first row) of the map that each
    point reads, each (n, 1) in the dtype of y. The weights are the bilinear shares times the modulation.
    """
    height, width, first = grid
    index, share = corners(y, x, height, width)
    start = torch.arange(len(y), device=y.device)[:, None, None] * rows + first.long()
    return index + start[..., None], share * modulation[..., None]
