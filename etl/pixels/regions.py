"""Regions of integer planes and volumes: area, tight box, RLE, components. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from etl import kernels
from etl.pixels import geometry, planes

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
    found = ndimage.find_objects(dense.astype(np.int32, copy=False))
    numbers = np.array([number for number, box in enumerate(found, 1) if box is not None])
    boxes = np.array([_measures(dense, number, found[number - 1]) for number in numbers.tolist()], np.int32)
    wanted = _wanted(len(found) + 1, values, split)
    yield from _on_plane(dense, numbers, boxes, wanted[numbers], values,
                         least_area(rle_from, plane.shape))  # fmt: skip


def _measures(plane: Array, number: int, box: tuple[slice, slice]) -> tuple[int, int, int, int, int]:
    rows, columns = box
    area = int(np.count_nonzero(plane[box] == number))
    return area, columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start


@dataclass(frozen=True, slots=True)
class Columns:
    """Regions of several planes, plane by plane, as columns of `Found`: `plane` (n) is the index of each one's plane,
    `box` (n, 5) its area, x, y, width and height."""

    plane: npt.NDArray[np.int64]
    value: npt.NDArray[np.int64]
    box: npt.NDArray[np.int32]
    rle: list[bytes | None]


def columns(found: Iterable[tuple[int, Found]]) -> Columns:
    """Regions, each with the index of its plane, as columns."""
    rows = list(found)
    boxes = [(r.area, r.x, r.y, r.width, r.height) for _, r in rows]
    return Columns(np.array([index for index, _ in rows], np.int64), np.array([r.value for _, r in rows], np.int64),
                   np.array(boxes, np.int32).reshape(-1, 5), [r.rle for _, r in rows])  # fmt: skip


class VolumeRegions:
    """The regions of every plane of a canonical label volume (i, j, k), as `regions` gives them for one."""

    def __init__(self, labels: Array, split: frozenset[int] = frozenset(), *, rle_from: float = 0) -> None:
        self._labels, self._values = _dense(labels)
        self._rle_from = rle_from
        count = int(self._labels.max()) + 1
        self._wanted = _wanted(count, self._values, split)
        self._tables = planes.extents(planes.in_memory(self._labels), count)

    def along(self, axis: str, stride: int = 1) -> Columns:
        """The regions of every `stride`th slice of an axis."""
        table = self._tables[axis][::stride]
        where, numbers = np.nonzero(table[..., 0])
        boxes = np.ascontiguousarray(table[where, numbers])
        shown = geometry.planes(self._labels, axis)[::stride]
        least = least_area(self._rle_from, shown.shape[1:])
        whole, codes = kernels.measured(shown, where, numbers, boxes, self._wanted[numbers], least)
        values = numbers if self._values is None else self._values[numbers]
        found = Columns(where * stride, values, boxes, codes)
        return found if whole.all() else self._with_components(found, shown, where, numbers, whole, least)

    def _with_components(
        self, found: Columns, shown: Array, where: Array, numbers: Array, whole: npt.NDArray[np.bool_], least: float
    ) -> Columns:
        """The same with the components of each region that is not `whole` in its place."""
        parts: dict[int, list[Found]] = {}
        for n in np.flatnonzero(~whole).tolist():
            _, x, y, width, height = found.box[n].tolist()
            part = shown[where[n], y : y + height, x : x + width] == numbers[n]
            parts[n] = list(_components(part, int(found.value[n]), (y, x), shown.shape[1:], least))
        times = np.ones(whole.size, np.int64)
        times[list(parts)] = [len(some) for some in parts.values()]
        boxes, starts = np.repeat(found.box, times, axis=0), np.cumsum(times) - times
        for n, some in parts.items():
            boxes[starts[n] : starts[n] + len(some)] = [(r.area, r.x, r.y, r.width, r.height) for r in some]
        codes = [[r.rle for r in parts[n]] if n in parts else [code] for n, code in enumerate(found.rle)]
        return Columns(np.repeat(found.plane, times), np.repeat(found.value, times), boxes, list(chain(*codes)))


def _wanted(count: int, values: Array | None, split: frozenset[int]) -> npt.NDArray[np.bool_]:
    """Of each number, whether its value is in `split`."""
    return np.isin(np.arange(count) if values is None else values, sorted(split))


def _on_plane(
    plane: Array, numbers: Array, boxes: Array, split: npt.NDArray[np.bool_], values: Array | None, least: float
) -> Iterator[Found]:
    """The regions of the `numbers` on a plane; `boxes` are (area, x, y, width, height) of each."""
    whole, codes = kernels.measured(plane[None], np.zeros_like(numbers), numbers, boxes, split, least)
    for number, box, one, code in zip(numbers.tolist(), boxes.tolist(), whole.tolist(), codes, strict=True):
        area, x, y, width, height = box
        value = number if values is None else int(values[number])
        if one:
            yield Found(value, x, y, width, height, area, code)
        else:
            part = plane[y : y + height, x : x + width] == number
            yield from _components(part, value, (y, x), (plane.shape[0], plane.shape[1]), least)


def _components(
    part: Array, value: int, corner: tuple[int, int], size: tuple[int, int], least: float
) -> Iterator[Found]:
    """The 8-connected parts of a mask that lies at `corner` (row, column) of a plane, by first pixel in rows."""
    labelled, _ = ndimage.label(part, EIGHT)
    areas = np.bincount(labelled.ravel()).tolist()
    for component, box in enumerate(ndimage.find_objects(labelled), 1):
        y, x = corner[0] + box[0].start, corner[1] + box[1].start
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
