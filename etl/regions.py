"""Regions of an integer plane: area, tight box, RLE, components. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from scipy import ndimage

Array = npt.NDArray[np.generic]
Mask = npt.NDArray[np.bool_]
EIGHT = np.ones((3, 3), bool)
LARGEST_INDEX = 4096  # find_objects keeps a table up to the largest value


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
    All work after one pass over the plane happens inside each value's box.
    """
    if not plane.any():
        return
    index, values = _indexed(plane)
    for number, box in enumerate(ndimage.find_objects(index), 1):
        if box is not None:
            mask = index[box] == number
            corner = (box[0].start, box[1].start)
            value = number if values is None else int(values[number - 1])
            yield from _of_value(mask, corner, plane.shape, value, value in split)


def _indexed(plane: Array) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer] | None]:
    """The plane with small positive values, and what they stand for where they had to be renumbered."""
    labels = plane.astype(np.int32) if plane.dtype.itemsize < 4 else plane.astype(np.int64)
    if labels.min() >= 0 and labels.max() <= LARGEST_INDEX:
        return labels, None
    values = np.unique(labels)
    values = values[values != 0]
    return np.where(labels == 0, 0, np.searchsorted(values, labels) + 1), values


def _of_value(mask: Mask, corner: tuple[int, int], shape: tuple[int, ...], value: int, split: bool) -> Iterator[Found]:
    if not split:
        yield _measure(mask, corner, shape, value)
        return
    labelled, _ = ndimage.label(mask, EIGHT)
    for component, box in enumerate(ndimage.find_objects(labelled), 1):
        inside = (corner[0] + box[0].start, corner[1] + box[1].start)
        yield _measure(labelled[box] == component, inside, shape, value)


def _measure(mask: Mask, corner: tuple[int, int], shape: tuple[int, ...], value: int) -> Found:
    y, x = corner
    height, width = mask.shape
    return Found(value, x, y, width, height, int(np.count_nonzero(mask)), encode(mask, corner, shape))


def encode(mask: Mask, corner: tuple[int, int], shape: tuple[int, ...]) -> bytes:
    """COCO compressed RLE counts of a plane of `shape` that is `mask` from (row, column) `corner` on and else 0."""
    rows, columns = shape
    edges = np.diff(np.pad(mask.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    column, row = np.nonzero(edges == 1)
    starts = (column + corner[1]) * rows + row + corner[0]
    column, row = np.nonzero(edges == -1)
    ends = (column + corner[1]) * rows + row + corner[0]
    gap = starts[1:] != ends[:-1]  # a run over the foot of one column and the head of the next is one run
    turns = np.empty(2 * (int(gap.sum()) + 1), np.int64)
    turns[0::2] = starts[np.concatenate(([True], gap))]
    turns[1::2] = ends[np.concatenate((gap, [True]))]
    counts = np.diff(turns, prepend=0).tolist()
    if turns[-1] < rows * columns:
        counts.append(rows * columns - int(turns[-1]))
    packed: bytes = coco_mask.frPyObjects({"size": [rows, columns], "counts": counts}, rows, columns)["counts"]
    return packed
