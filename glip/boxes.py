"""Boxes, anchors, coder, IoU and suppression, in plain PyTorch.

Boxes are (x1, y1, x2, y2) with *inclusive* corners, as in the reference: a box of one pixel has x2 = x1 and width 1.
The project's half-open [x, y, width, height] become x2 = x + width − 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
MAX_LOG = math.log(1000 / 16)
"""Largest log scale that a predicted box may have over its anchor."""


def from_xywh(boxes: Tensor) -> Tensor:
    """[x, y, width, height] → inclusive corners; (n, 4)."""
    return torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1), 1)


def to_xywh(boxes: Tensor) -> Tensor:
    """Inclusive corners → [x, y, width, height]; (n, 4)."""
    return torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1), 1)


def area(boxes: Tensor) -> Tensor:
    """(n,): pixels of each box."""
    return (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """(n, m): intersection over union of (n, 4) and (m, 4), counted in whole pixels."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    side = (high - low + 1).clamp(min=0)
    both = side[..., 0] * side[..., 1]
    return both / (area(a)[:, None] + area(b)[None] - both)


def cell_anchor(size: int, stride: int) -> Tensor:
    """(1, 4): the square anchor of the cell at the origin, centred on the stride's pixels."""
    low = (stride - size) // 2
    return torch.tensor([[low, low, low + size - 1, low + size - 1]]).float()


def grid_anchors(cell: Tensor, shape: tuple[int, int], stride: int) -> Tensor:
    """(h · w, 4): the cell's anchor at every place of a map, y-major."""
    h, w = shape
    y = torch.arange(h, device=cell.device, dtype=cell.dtype) * stride
    x = torch.arange(w, device=cell.device, dtype=cell.dtype) * stride
    shift = torch.stack((x.repeat(h), y.repeat_interleave(w)), 1).repeat(1, 2)
    return shift + cell


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(n, 4): the regression targets of boxes for their anchors."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    anchor_size = anchors[:, 2:] - anchors[:, :2] + 1
    shift = ((boxes[:, 2:] + boxes[:, :2]) - (anchors[:, 2:] + anchors[:, :2])) / 2 / anchor_size
    return torch.cat((shift, (size / anchor_size).log()), 1) * shift.new_tensor(WEIGHTS)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """(n, 4): the boxes that regression outputs mean for their anchors."""
    size = anchors[:, 2:] - anchors[:, :2] + 1
    center = (anchors[:, 2:] + anchors[:, :2]) / 2
    deltas = deltas / deltas.new_tensor(WEIGHTS)
    center = center + deltas[:, :2] * size
    half = (deltas[:, 2:].clamp(max=MAX_LOG).exp() * size - 1) / 2
    return torch.cat((center - half, center + half), 1)


def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """The boxes inside an image of this size: corners in [0, width − 1] × [0, height − 1]."""
    limit = boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    return torch.minimum(boxes.clamp(min=0), limit)


def nms(boxes: Tensor, scores: Tensor, labels: Tensor, *, threshold: float) -> Tensor:
    """Indices of the boxes that stay, best first: greedy suppression among boxes of one label, IoU > threshold."""
    order = scores.argsort(descending=True, stable=True)
    keep = torch.zeros(len(order), dtype=torch.bool)
    for label in labels.unique():
        at = (labels[order] == label).nonzero().flatten()
        same = boxes[order[at]]
        overlaps = (iou(same, same) > threshold).cpu().numpy()
        alive = np.ones(len(at), dtype=bool)
        for i in range(len(at) - 1):
            if alive[i]:
                alive[i + 1 :] &= ~overlaps[i, i + 1 :]
        keep[at.cpu()] = torch.from_numpy(alive)
    return order[keep.to(order.device)]
