"""Which anchors are responsible for which box: adaptive training sample selection (Zhang et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glip.boxes import iou

CANDIDATES = 9
"""Anchors per box and level that are looked at."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What one image's network outputs should be: boxes with inclusive corners on the network's input."""

    boxes: Tensor
    """(n, 4); n may be 0."""
    tokens: Tensor
    """(n, T) bool: the sub-word tokens of each box's phrase."""


def assign(anchors: list[Tensor], truth: Tensor) -> Tensor:
    """(A,) int64: the number of the box that each anchor belongs to, −1 for background.

    For each box the 9 anchors of each level with the nearest centres are candidates; those are positive whose IoU
    reaches mean + standard deviation over the candidates and whose centre lies inside the box. An anchor that
    several boxes claim goes to the one with the highest IoU.
    """
    everything = torch.cat(anchors)
    if len(truth) == 0:
        return torch.full((len(everything),), -1, device=everything.device)
    overlap = iou(everything, truth)
    center, truth_center = (everything[:, :2] + everything[:, 2:]) / 2, (truth[:, :2] + truth[:, 2:]) / 2
    distance = (center[:, None] - truth_center[None]).pow(2).sum(-1).sqrt()
    chosen, start = [], 0
    for level in anchors:
        part = distance[start : start + len(level)]
        chosen.append(part.topk(min(CANDIDATES, len(level)), dim=0, largest=False).indices + start)
        start += len(level)
    candidate = torch.cat(chosen)
    ious = overlap.gather(0, candidate)
    reaches = ious >= ious.mean(0) + ious.std(0)
    low = center[candidate] - truth[:, :2]
    high = truth[:, 2:] - center[candidate]
    positive = reaches & (torch.cat((low, high), -1).amin(-1) > 0.01)
    claims = torch.full_like(overlap, -1.0)
    claims.scatter_(0, candidate, torch.where(positive, ious, -1.0))
    best, owner = claims.max(1)
    return torch.where(best >= 0, owner, -1)
