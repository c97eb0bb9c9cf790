"""Token focal loss, GIoU and centerness (GLIP's training objective on ATSS targets)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from glip import boxes
from glip.assign import Targets, assign
from glip.config import MAX_TOKENS
from glip.head import Outputs

ALPHA, GAMMA = 0.25, 2.0
REGRESSION_WEIGHT = 2.0
EPS = 1e-7


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars; `total` is what is minimised, their sum with the regression already doubled."""

    token: Tensor
    regression: Tensor
    centerness: Tensor

    @property
    def total(self) -> Tensor:
        """The sum."""
        return self.token + self.regression + self.centerness


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Element-wise sigmoid focal loss (Lin et al. 2017), alpha 0.25 and gamma 2; target is 0 or 1."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    miss = p + target - 2 * p * target
    return entropy * miss.pow(GAMMA) * (1 - ALPHA + (2 * ALPHA - 1) * target)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """(n,): generalised IoU (Rezatofighi et al. 2019) of pairs of boxes, with plain areas (no pixel added)."""
    side = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    both, enclosing = side.prod(1), hull.prod(1) + EPS
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both + EPS
    return both / union - (enclosing - union) / enclosing


def centerness_target(anchors: Tensor, truth: Tensor) -> Tensor:
    """(n,): 1 where an anchor's centre is its box's centre, falling to 0 at the box's sides."""
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    low, high = center - truth[:, :2], truth[:, 2:] - center
    return (torch.minimum(low, high) / torch.maximum(low, high)).prod(1).sqrt()


@dataclass(frozen=True, slots=True)
class Matches:
    """The anchors of a batch that own a box. They do not depend on the network's outputs."""

    owners: Tensor
    """(B, A): the number of the box of its image that each anchor owns, −1 for none."""
    image: Tensor
    """(P,): the image of each owning anchor."""
    place: Tensor
    """(P,): its number among the image's anchors."""
    truth: Tensor
    """(P, 4): its box."""
    centerness: Tensor
    """(P,): its centerness target."""

    def totals(self) -> Tensor:
        """(2,): what losses are divided by: owning anchors, and the sum of their centerness targets."""
        return torch.stack((self.centerness.new_tensor(len(self.place)), self.centerness.sum()))


def match(anchors: list[Tensor], targets: Sequence[Targets]) -> Matches:
    """Which anchors own which boxes, for a batch."""
    everything = torch.cat(anchors)
    owners = torch.stack([assign(anchors, t.boxes) for t in targets])
    image, place = (owners >= 0).nonzero(as_tuple=True)
    first = torch.tensor([0, *(len(t.boxes) for t in targets)], device=owners.device).cumsum(0)
    truth = torch.cat([t.boxes for t in targets])[first[image] + owners[image, place]]
    truth = boxes.decode(boxes.encode(truth, everything[place]), everything[place])
    return Matches(owners, image, place, truth, centerness_target(everything[place], truth))


def mean_over_ranks(value: Tensor) -> Tensor:
    """The value averaged over all processes of a distributed run."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def compute(
    outputs: Outputs, anchors: list[Tensor], targets: Sequence[Targets], mask: Tensor, *, no_object: bool = False,
    over: Tensor | None = None,
) -> Losses:  # fmt: skip
    """The losses of a batch; `mask` (B, T) is 1 on real tokens.

    They are divided by `over`, the totals of everything that one update learns from; None: by those of this batch,
    averaged over the processes of a distributed run. With `no_object` background anchors want token 255, as in the
    reference, where that matters only for captions that fill all 256 tokens.
    """
    found = match(anchors, targets)
    count, weight = (mean_over_ranks(found.totals()) if over is None else over).unbind()
    count, weight = count.clamp(min=1), weight.clamp(min=EPS)
    wanted = _wanted_tokens(outputs.logits, found.owners, targets)
    if no_object and wanted.shape[2] == MAX_TOKENS:
        wanted[..., MAX_TOKENS - 1] += (found.owners < 0).to(wanted.dtype)
    token = (focal(outputs.logits.float(), wanted) * mask[:, None]).sum() / count
    deltas = outputs.deltas[found.image, found.place].float()
    miss = 1 - giou(boxes.decode(deltas, torch.cat(anchors)[found.place]), found.truth)
    regression = (miss * found.centerness).sum() / weight * REGRESSION_WEIGHT
    seen = outputs.centerness[found.image, found.place].float()
    entropy = F.binary_cross_entropy_with_logits(seen, found.centerness, reduction="sum")
    return Losses(token, regression, entropy / count)


def _wanted_tokens(logits: Tensor, owners: Tensor, targets: Sequence[Targets]) -> Tensor:
    """(B, A, T) of 0 and 1: the tokens of the phrase that each anchor's box has."""
    wanted = torch.zeros(logits.shape, device=logits.device)
    for i, t in enumerate(targets):
        at = (owners[i] >= 0).nonzero().flatten()
        wanted[i, at] = t.tokens[owners[i, at]].float()
    return wanted
