"""Regions of an integer plane: area, tight box, RLE, components. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from scipy import ndimage

Array = npt.NDArray[np.generic]
EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, slots=True)
class Found:
    """One region on a plane: `value` of the label array, box [x, y, width, height] and area in pixels,
    `rle` the counts of a COCO compressed RLE of the whole plane."""

    value: int
    x: int
    y: int
    width: int
    height: int
    area: int
    rle: bytes


def regions(plane: Array, split: frozenset[int] = frozenset()) -> Iterator[Found]:
    """Every region of an integer plane (rows, columns), by value; 0 is background.

    Values in `split` give one region for each 8-connected component, ordered by first pixel in rows.
    """
    for value in np.unique(plane):
        if value != 0:
            yield from _of_value(plane == value, int(value), int(value) in split)


def _of_value(mask: Array, value: int, split: bool) -> Iterator[Found]:
    if not split:
        yield _measure(mask, value)
        return
    labelled, n = ndimage.label(mask, EIGHT)
    for component in range(1, n + 1):
        yield _measure(labelled == component, value)


def _measure(mask: Array, value: int) -> Found:
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    x, y = int(columns[0]), int(rows[0])
    width, height = int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
    return Found(value, x, y, width, height, int(np.count_nonzero(mask)), rle["counts"])
