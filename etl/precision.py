"""Precision and recall from matches, for any weights of the images: COCO's twelve numbers for each category."""

# mypy: disable-error-code="untyped-decorator"

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etl.detections import Ints, Truth
from etl.matching import MOST, THRESHOLDS, Bits, Matches

Floats = NDArray[np.float64]
RECALLS = np.linspace(0, 1, 101)
METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
           "AR@1", "AR@10", "AR@100", "AR_small", "AR_medium", "AR_large")  # fmt: skip
AT_50, AT_75 = 0, 5  # where in THRESHOLDS


@dataclass(frozen=True, slots=True)
class Ranked:
    """Matches by category and falling score, the order in which precision is counted; ties by image, then rank.

    `starts`: (categories + 1,) bounds; `image`, `rank`, `score`: (detections,); `good`, `bad`: (areas, detections);
    `box_image`, `box_category`: (boxes,); `counted`: (areas, boxes).
    """

    starts: Ints
    image: Ints
    rank: Ints
    score: Floats
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
            before[self.starts], self.image[mine], self.rank[mine], self.score[mine], self.good[:, mine],
            self.bad[:, mine], self.box_image[boxes], self.box_category[boxes], self.counted[:, boxes],
        )  # fmt: skip


def ranked(truth: Truth, matches: Matches) -> Ranked:
    """The matches in order of category and score."""
    found = matches.found
    order = np.lexsort((-found.score, found.category))
    starts = np.searchsorted(found.category[order], np.arange(len(truth.categories) + 1))
    columns = (part[order] for part in (found.image, found.rank, found.score))
    return Ranked(starts, *columns, np.ascontiguousarray(matches.good[:, order]),
                  np.ascontiguousarray(matches.bad[:, order]), truth.image, truth.category, matches.counted)  # fmt: skip


def curves(table: Ranked, weights: Ints, *, area: int = 0, most: int = MOST) -> tuple[Floats, Floats]:
    """Precision (categories, thresholds, 101 recalls) and final recall (categories, thresholds).

    `weights`: (images,) how often each image counts. NaN where a category has no box. Precision at a recall is the
    best at that or a higher one, as in `COCOeval.accumulate`.
    """
    counted = table.counted[area]
    count = len(table.starts) - 1
    mine = table.box_category[counted]
    boxes = np.bincount(mine, weights[table.box_image[counted]], count).astype(np.int64)
    precision = np.full((count, len(THRESHOLDS), len(RECALLS)), np.nan)
    recall = np.full(precision.shape[:2], np.nan)
    _accumulate(table.starts, table.image, table.rank, table.good[area], table.bad[area], weights, boxes, most, RECALLS,
                precision, recall)  # fmt: skip
    return precision, recall


@njit(cache=True, nogil=True)
def _accumulate(starts, image, rank, good, bad, weights, boxes, most, recalls, precision, recall):  # type: ignore[no-untyped-def]
    thresholds, points = precision.shape[1], len(recalls)
    for k in range(len(boxes)):
        if boxes[k] == 0:
            continue
        right, wrong = np.zeros(thresholds), np.zeros(thresholds)
        reached = np.zeros(thresholds, np.int64)
        best = np.zeros((thresholds, points + 1))  # [n]: the best precision while n recalls are reached
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
            top = 0.0
            for r in range(points - 1, -1, -1):
                top = max(top, best[t, r + 1])
                precision[k, t, r] = top


def measured(table: Ranked, weights: Ints) -> Floats:
    """(metrics, categories) METRICS; NaN where a category has no box of that area."""
    precision, recall = curves(table, weights)
    mean = precision.mean(axis=(1, 2))
    small, medium, large = (curves(table, weights, area=n) for n in (1, 2, 3))
    return np.array([
        mean, precision[:, AT_50].mean(axis=1), precision[:, AT_75].mean(axis=1),
        *(p.mean(axis=(1, 2)) for p, _ in (small, medium, large)),
        *(curves(table, weights, most=n)[1].mean(axis=1) for n in (1, 10)), recall.mean(axis=1),
        *(r.mean(axis=1) for _, r in (small, medium, large)),
    ])  # fmt: skip


def averaged(values: Any, categories: Ints) -> Floats:
    """(metrics,) the mean over those of the categories that have boxes; NaN without any."""
    mine = values[:, categories]
    there = ~np.isnan(mine)
    with np.errstate(invalid="ignore"):
        return np.where(there, mine, 0.0).sum(axis=1) / np.where(there.any(axis=1), there.sum(axis=1), np.nan)
