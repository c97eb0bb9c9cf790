"""From network outputs to boxes with phrases and scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glip import boxes
from glip.head import Outputs


@dataclass(frozen=True, slots=True)
class DetectConfig:
    """The thresholds of inference; the defaults are the reference's."""

    min_score: float = 0.05
    """A phrase's mean token probability must exceed this, before centerness."""
    per_level: int = 1000
    """Candidates kept on each level."""
    iou: float = 0.6
    """Boxes of one phrase that overlap a better one by more are dropped."""
    per_image: int = 100
    """Boxes kept per image; ties at the limit all stay."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes of one image, best first."""

    boxes: Tensor
    """(n, 4), inclusive corners, pixels of the network's input."""
    scores: Tensor
    """(n,): sqrt(phrase score · centerness)."""
    labels: Tensor
    """(n,) int64: the phrase's number in its prompt, from 1."""


def phrase_scores(logits: Tensor, phrases: Tensor) -> Tensor:
    """(A, P): the mean token probability of each phrase; logits (A, T), phrases (P, T) of 0 and 1."""
    share = phrases.to(torch.float32)
    return logits.float().sigmoid() @ (share / share.sum(1, keepdim=True)).T


def detect(
    outputs: Outputs, anchors: list[Tensor], phrases: list[Tensor], sizes: list[tuple[int, int]],
    config: DetectConfig | None = None,
) -> list[Detections]:  # fmt: skip
    """Detections of each image of a batch; `phrases` (P, T) and (height, width) without padding for each image."""
    config = config or DetectConfig()
    return [_one(outputs, i, anchors, p, s, config) for i, (p, s) in enumerate(zip(phrases, sizes, strict=True))]


def _one(
    outputs: Outputs, image: int, anchors: list[Tensor], phrases: Tensor, size: tuple[int, int], config: DetectConfig
) -> Detections:
    counts = [len(a) for a in anchors]
    score = phrase_scores(outputs.logits[image], phrases)
    center = outputs.centerness[image].float().sigmoid()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    parts = (score.split(counts), center.split(counts), outputs.deltas[image].float().split(counts), anchors)
    for s, c, d, a in zip(*parts, strict=True):
        place, phrase = (s > config.min_score).nonzero(as_tuple=True)
        value, top = (s * c[:, None])[place, phrase].topk(min(config.per_level, len(place)))
        place, phrase = place[top], phrase[top]
        found.append((boxes.clip(boxes.decode(d[place], a[place]), *size), value.sqrt(), phrase + 1))
    box, value, label = (torch.cat(column) for column in zip(*found, strict=True))
    keep = boxes.nms(box, value, label, threshold=config.iou)
    box, value, label = box[keep], value[keep], label[keep]
    if len(value) > config.per_image:
        stay = value >= value[config.per_image - 1]
        box, value, label = box[stay], value[stay], label[stay]
    return Detections(box, value, label)
