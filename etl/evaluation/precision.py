"""Precision and recall from matches, for any weights of the images: COCO's twelve numbers for each category."""

# mypy: disable-error-code="untyped-decorator"

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etl.evaluation.detections import Ints, Truth
from etl.evaluation.matching import MOST, THRESHOLDS, Bits, Matches

Floats = NDArray[np.float64]
RECALLS = np.linspace(0, 1, 101)
METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
           "AR@1", "AR@10", "AR@100", "AR_small", "AR_medium", "AR_large")  # fmt: skip
AT_50, AT_75 = 0, 5  # where in THRESHOLDS


@dataclass(frozen=True, slots=True)
class Ranked:
    """Matches by category and falling score, the order in which precision is counted; ties by image, then rank.

    `starts`: (categories + 1,) bounds; `image`, `rank`: (detections,); `good`, `bad`: (areas, detections);
    `box_image`, `box_category`: (boxes,); `counted`: (areas, boxes).
    """

    starts: Ints
    image: Ints
    rank: Ints
    good: Bits
    bad: Bits
    box_image: Ints
    box_category: Ints
    counted: NDArray[np.bool_]

    def within(self, images: NDArray[np.bool_]) -> "Ranked":
        """Only what lies on these images, (images,) bool."""
        mine, boxes = images[self.image], images[self.box_image]
        before = np.concatenate([[0], np.cumsum(mine)])
        return Ranked(
            before[self.starts], self.image[mine], self.rank[mine], self.good[:, mine],
            self.bad[:, mine], self.box_image[boxes], self.box_category[boxes], self.counted[:, boxes],
        )  # fmt: skip


def ranked(truth: Truth, matches: Matches) -> Ranked:
    """The matches in order of category and score."""
    found = matches.found
    order = np.lexsort((-found.score, found.category))
    starts = np.searchsorted(found.category[order], np.arange(len(truth.categories) + 1))
    good, bad = np.ascontiguousarray(matches.good[:, order]), np.ascontiguousarray(matches.bad[:, order])
    image, rank = found.image[order], found.rank[order]
    return Ranked(starts, image, rank, good, bad, truth.image, truth.category, matches.counted)


def boxes_of(table: Ranked, weights: Ints, area: int = 0) -> Ints:
    """(categories,) how many boxes there are to find."""
    counted = table.counted[area]
    found = np.bincount(table.box_category[counted], weights[table.box_image[counted]], len(table.starts) - 1)
    return found.astype(np.int64)


def curves(table: Ranked, weights: Ints) -> Floats:
    """Precision (categories, thresholds, 101 recalls); NaN where a category has no box.

    `weights`: (images,) how often each image counts. Precision at a recall is the best at that or a higher one, as
    in `COCOeval.accumulate`.
    """
    boxes = boxes_of(table, weights)
    precision = np.full((len(boxes), len(THRESHOLDS), len(RECALLS)), np.nan)
    both = np.full((2, len(boxes), len(THRESHOLDS)), np.nan)
    _accumulate(table.starts, table.image, table.rank, table.good[0], table.bad[0], weights, boxes, MOST, RECALLS,
                both[0], both[1], precision)  # fmt: skip
    return precision


def scores(table: Ranked, weights: Ints, *, area: int = 0, most: int = MOST) -> tuple[Floats, Floats]:
    """Average precision and final recall, both (categories, thresholds); NaN where a category has no box."""
    boxes = boxes_of(table, weights, area)
    both = np.full((2, len(boxes), len(THRESHOLDS)), np.nan)
    _accumulate(table.starts, table.image, table.rank, table.good[area], table.bad[area], weights, boxes, most, RECALLS,
                both[0], both[1], np.empty((0, 0, 0)))  # fmt: skip
    return both[0], both[1]


@njit(cache=True, nogil=True)
def _accumulate(  # type: ignore[no-untyped-def]
    starts, image, rank, good, bad, weights, boxes, most, recalls, average, recall, precision
):
    thresholds, points = average.shape[1], len(recalls)
    right, wrong = np.empty(thresholds), np.empty(thresholds)
    reached = np.empty(thresholds, np.int64)
    best = np.empty((thresholds, points + 1))  # [n]: the best precision while n recalls are reached
    for k in range(len(boxes)):
        if boxes[k] == 0:
            continue
        right[:], wrong[:], reached[:], best[:] = 0, 0, 0, 0
        for d in range(starts[k], starts[k + 1]):
            weight = weights[image[d]]
            if weight == 0 or rank[d] >= most:
                continue
            for t in range(thresholds):
                if bad[d] >> t & 1:
                    wrong[t] += weight
                elif good[d] >> t & 1:
                    right[t] += weight
                    share = right[t] / boxes[k]
                    while reached[t] < points and share >= recalls[reached[t]]:
                        reached[t] += 1
                    now = right[t] / (wrong[t] + right[t] + 2.220446049250313e-16)
                    best[t, reached[t]] = max(best[t, reached[t]], now)
        for t in range(thresholds):
            recall[k, t] = right[t] / boxes[k]
            top, total = 0.0, 0.0
            for r in range(points - 1, -1, -1):
                top = max(top, best[t, r + 1])
                total += top
                if len(precision):
                    precision[k, t, r] = top
            average[k, t] = total / points


def measured(table: Ranked, weights: Ints) -> Floats:
    """(metrics, categories) METRICS; NaN where a category has no box of that area."""
    average, recall = scores(table, weights)
    areas = [scores(table, weights, area=n) for n in (1, 2, 3)]
    return np.array([
        average.mean(axis=1), average[:, AT_50], average[:, AT_75], *(a.mean(axis=1) for a, _ in areas),
        *(scores(table, weights, most=n)[1].mean(axis=1) for n in (1, 10)), recall.mean(axis=1),
        *(r.mean(axis=1) for _, r in areas),
    ])  # fmt: skip


def averaged(values: Floats, members: Floats) -> Floats:
    """(groups, metrics) means over those categories of each group that have boxes; NaN without any.

    `values`: (metrics, categories); `members`: (groups, categories), 1 where a category belongs to the group.
    """
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: Floats = (members @ np.where(there, values, 0.0).T) / (members @ there.T)
    return mean
