"""Regions of integer planes and volumes: area, tight box, RLE, components. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from etl import geometry, kernels, planes

Array = npt.NDArray[Any]
EIGHT = np.ones((3, 3), bool)
LARGEST_VALUE = 1023  # larger ones are renumbered: tables have a place for each value up to the largest
SPAN = 1 << 16


@dataclass(frozen=True, slots=True)
class Found:
    """One region on a plane: `value` of the label array, box [x, y, width, height] and area in pixels,
    `rle` the counts of a COCO compressed RLE of the whole plane; None for a given box, or where not asked for."""

    value: int
    x: int
    y: int
    width: int
    height: int
    area: int
    rle: bytes | None


def least_area(share: float, shape: tuple[int, ...]) -> float:
    """The least area of a region that takes this share of a plane of `shape` (rows, columns).

    In this order everywhere: in float64 another order of the factors decides otherwise about an area just at it.
    """
    return share * shape[1] * shape[0]


def regions(plane: Array, split: frozenset[int] = frozenset(), *, rle_from: float = 0) -> Iterator[Found]:
    """Every region of an integer plane (rows, columns), by value; 0 is background.

    Values in `split` give one region for each 8-connected component, ordered by first pixel in rows. Regions under
    `rle_from`, a share of the plane, come without RLE.
    """
    if not plane.any():
        return
    dense, values = _dense(plane)
    for number, box in enumerate(ndimage.find_objects(dense.astype(np.int32, copy=False)), 1):
        if box is not None:
            part = dense[box]
            at = (box[0].start, box[1].start, int(np.count_nonzero(part == number)))
            yield from _of_value(part, number, at, plane.shape, values, split, least_area(rle_from, plane.shape))


class VolumeRegions:
    """The regions of every plane of a canonical label volume (i, j, k), as `regions` gives them for one."""

    def __init__(self, labels: Array, split: frozenset[int] = frozenset(), *, rle_from: float = 0) -> None:
        self._labels, self._values = _dense(labels)
        self._split, self._rle_from = split, rle_from
        largest = int(self._labels.max(initial=0))
        self._tables = planes.extents(planes.in_memory(self._labels), largest + 1)

    def on(self, axis: str, index: int) -> Iterator[Found]:
        """The regions of one slice."""
        table = self._tables[axis][index]
        numbers = np.flatnonzero(table[:, 0]).tolist()
        plane = geometry.plane(self._labels, axis, index)
        for number in numbers:
            area, x, y, width, height = table[number].tolist()
            part = plane[y : y + height, x : x + width]
            least = least_area(self._rle_from, plane.shape)
            yield from _of_value(part, number, (y, x, area), plane.shape, self._values, self._split, least)


def _of_value(
    part: Array, number: int, at: tuple[int, int, int], shape: tuple[int, ...], values: Array | None,
    split: frozenset[int], least: float,
) -> Iterator[Found]:
    """The regions of a value inside its box `part`; `at` is the box's row and column, and the value's area."""
    row, column, area = at
    value = number if values is None else int(values[number])
    size = (shape[0], shape[1])
    if value not in split or kernels.connected(part, number):
        code = kernels.rle(part, number, (row, column), size) if area >= least else None
        yield Found(value, column, row, part.shape[1], part.shape[0], area, code)
        return
    labelled, count = ndimage.label(part == number, EIGHT)
    areas = np.bincount(labelled.ravel(), minlength=count + 1).tolist()
    for component, box in enumerate(ndimage.find_objects(labelled), 1):
        y, x = row + box[0].start, column + box[1].start
        inside = labelled[box]
        code = kernels.rle(inside, component, (y, x), size) if areas[component] >= least else None
        yield Found(value, x, y, inside.shape[1], inside.shape[0], areas[component], code)


def _dense(labels: Array) -> tuple[Array, Array | None]:
    """The labels as small numbers from 0, and the value that each number stands for where they are not the same."""
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high <= LARGEST_VALUE:
        return labels.view(np.uint8) if labels.dtype == bool else labels, None
    if high - low < SPAN:
        present = np.flatnonzero(kernels.histogram(labels, low, high - low + 1)) + low
    else:
        present = np.unique(labels)
    values = np.concatenate(([0], present[present != 0]))
    order = np.argsort(values)
    dense = np.empty_like(labels, np.int32)
    for index in range(labels.shape[-1]):
        dense[..., index] = order[np.searchsorted(values[order], labels[..., index])]
    return dense, values
