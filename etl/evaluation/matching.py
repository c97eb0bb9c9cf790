"""Which detection finds which box: COCO's matching, compiled, for all thresholds and areas in one pass.

The rules are pycocotools' `COCOeval.evaluateImg`, to the bit: detections of an image and category in order of score
take the free box of largest overlap, ignored boxes last; crowd boxes may be taken by many.
"""

# mypy: disable-error-code="untyped-decorator"

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etl.evaluation.detections import Detections, Truth

Bits = NDArray[np.uint16]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
"""All, small, medium, large: bounds of the area in pixels, both included."""
MOST = 100
"""Detections of an image and category that count, the best ones."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Detections with what became of them; bit t of a word is the t-th threshold.

    `good`, `bad`: (areas, detections) right and wrong finds, neither where ignored. `taken`: (boxes,) found at any
    area. `counted`: (areas, boxes) bool, boxes to be found. `unknown`: detections left out because the image does
    not say whether it shows their category; `forgiven`: wrong at the least threshold, but not exhaustive there.
    """

    found: Detections
    good: Bits
    bad: Bits
    taken: Bits
    counted: NDArray[np.bool_]
    unknown: int
    forgiven: int


def match(truth: Truth, detections: Detections, federated: bool) -> Matches:
    """Detections matched to boxes.

    `federated`: as in LVIS, a category counts on an image only where it has boxes or is negative, and where it is
    not exhaustive a detection that matches nothing is ignored.
    """
    kept = detections.rank < MOST
    cell = detections.image * len(truth.categories) + detections.category
    if federated:
        known = truth.cells() if truth.negative is None else np.union1d(truth.cells(), truth.negative)
        kept &= np.isin(cell, known)
    unknown = int(np.count_nonzero((detections.rank < MOST) & ~kept))
    found, cell = detections.take(kept), cell[kept]
    lenient = np.zeros(len(cell), bool)
    if federated and truth.not_exhaustive is not None:
        lenient = np.isin(cell, truth.not_exhaustive)
    outside = [(truth.area < low) | (truth.area > high) for low, high in AREAS]
    counted = ~(truth.crowd | np.array(outside).reshape(len(AREAS), -1))
    matched, ignored, taken = _matched(truth, found, cell, counted)
    size = found.box[:, 2] * found.box[:, 3]
    beyond = np.array([(size < low) | (size > high) | lenient for low, high in AREAS]).reshape(len(AREAS), -1)
    bad = np.where(beyond, 0, ~matched & (1 << len(THRESHOLDS)) - 1).astype(np.uint16)
    forgiven = int(np.count_nonzero(lenient & (matched[0] & 1 == 0)))
    return Matches(found, matched & ~ignored, bad, taken, counted, unknown, forgiven)


def _matched(truth: Truth, found: Detections, cell: Any, counted: NDArray[np.bool_]) -> tuple[Bits, Bits, Bits]:
    """(areas, detections) matched; (areas, detections) matched to an ignored box; (boxes,) taken at any area."""
    matched, ignored = np.zeros((2, len(AREAS), len(cell)), np.uint16)
    taken = np.zeros(len(truth.area), np.uint16)
    boxes = truth.cells()
    both = np.intersect1d(boxes, cell)
    if len(both):
        first, last = np.searchsorted(boxes, both, "left"), np.searchsorted(boxes, both, "right")
        begin, end = np.searchsorted(cell, both, "left"), np.searchsorted(cell, both, "right")
        least = np.minimum(THRESHOLDS, 1 - 1e-10)
        _match(first, last, begin, end, truth.box, truth.crowd, counted, found.box, least, matched, ignored, taken)
    return matched, ignored, taken


@njit(cache=True, nogil=True)
def _match(  # type: ignore[no-untyped-def]
    first, last, begin, end, box, crowd, counted, found, least, matched, ignored, taken
):
    most = np.max(last - first)
    overlap = np.empty((np.max(end - begin), most))
    order = np.empty(most, np.int64)
    free = np.empty(most, np.bool_)
    for n in range(len(first)):
        g, d = first[n], begin[n]
        boxes, detections = last[n] - g, end[n] - d
        for i in range(detections):
            for j in range(boxes):
                overlap[i, j] = _overlap(found[d + i], box[g + j], crowd[g + j])
        for a in range(len(counted)):
            put = 0
            for wanted in (True, False):
                for j in range(boxes):
                    if counted[a, g + j] == wanted:
                        order[put] = j
                        put += 1
            for t in range(len(least)):
                bit = np.uint16(1 << t)
                free[:boxes] = True
                for i in range(detections):
                    at = _best(overlap[i], order[:boxes], free, crowd[g:], counted[a, g:], least[t])
                    if at < 0:
                        continue
                    free[at] = False
                    matched[a, d + i] |= bit
                    if not counted[a, g + at]:
                        ignored[a, d + i] |= bit
                    if a == 0:
                        taken[g + at] |= bit


@njit(cache=True, nogil=True, inline="always")
def _best(overlap, order, free, crowd, counted, least):  # type: ignore[no-untyped-def]
    """The box that a detection takes, -1 for none; a later one of equal overlap wins, as in COCO."""
    at = -1
    for j in order:
        if not free[j] and not crowd[j]:
            continue
        if at >= 0 and counted[at] and not counted[j]:
            break
        if overlap[j] < least:
            continue
        least = overlap[j]
        at = j
    return at


@njit(cache=True, nogil=True, inline="always")
def _overlap(found, box, crowd):  # type: ignore[no-untyped-def]
    """Intersection over union of two boxes; over the detection alone where the box is a crowd."""
    width = min(found[2] + found[0], box[2] + box[0]) - max(found[0], box[0])
    height = min(found[3] + found[1], box[3] + box[1]) - max(found[1], box[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    area = found[2] * found[3]
    return shared / (area if crowd else area + box[2] * box[3] - shared)
