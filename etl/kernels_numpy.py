"""The plain twins of `etl.kernels_numba`: what each kernel means, in NumPy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

Voxels = NDArray[Any]
Extents = NDArray[np.int32]
CHUNK = 1 << 22  # values looked at together


def extents(labels: Voxels, count: int) -> tuple[Extents, Extents, Extents]:
    """Area and box of each value 1 … `count` - 1 on each plane across each axis of `labels` [slow, middle, fast].

    One table an axis, [index, value, 5]: area, then first and last index along the two other axes, slower one
    first. An area of 0 says that the value is not on the plane.
    """
    tables = tuple(np.zeros((n, count, 5), np.int32) for n in labels.shape)
    for axis, table in enumerate(tables):
        for index in range(labels.shape[axis]):
            plane = np.take(labels, index, axis).astype(np.int32)
            areas = np.bincount(plane.ravel(), minlength=count)[:count]
            for value, box in enumerate(ndimage.find_objects(plane, count - 1), 1):
                if box is not None:
                    table[index, value] = (areas[value], box[0].start, box[0].stop - 1, box[1].start, box[1].stop - 1)
    return tables[0], tables[1], tables[2]


def looked_up(plane: Voxels, table: NDArray[np.uint8], first: int) -> NDArray[np.uint8]:
    """`table[plane - first]` of an integer plane (rows, columns), in C order."""
    return np.ascontiguousarray(table[plane.astype(np.int64) - first])


def looked_up_across(
    volume: Voxels, table: NDArray[np.uint8], first: int, start: int, stop: int
) -> NDArray[np.uint8]:
    """`table[volume - first]` of the planes `start` … `stop` - 1 across the fast axis: [plane, slow, middle]."""
    block = np.moveaxis(volume[:, :, start:stop], 2, 0)
    return np.ascontiguousarray(table[block.astype(np.int64) - first])


def rle(part: Voxels, value: int, corner: tuple[int, int], shape: tuple[int, int]) -> bytes:
    """COCO compressed RLE counts of a plane of `shape` (rows, columns) that is set where `part`, which lies at
    `corner` (row, column), is `value`, and nowhere else."""
    mask = np.zeros(shape, np.uint8, order="F")
    rows, columns = part.shape
    mask[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns] = part == value
    counts: bytes = coco_mask.encode(mask)["counts"]
    return counts


def connected(part: Voxels, value: int) -> bool:
    """Whether the pixels of `part` (rows, columns) that are `value` are one 8-connected component (or none)."""
    return bool(ndimage.label(part == value, np.ones((3, 3)))[1] <= 1)


def scaled(plane: Voxels, lower: float, upper: float) -> NDArray[np.uint8]:
    """rint(255 * clip((x - lower) / (upper - lower), 0, 1)) in float64 of a plane, in C order; not finite: 0."""
    values = (plane.astype(np.float64) - lower) / (upper - lower)
    values = np.where(np.isfinite(values), np.clip(values, 0, 1), 0)
    return np.ascontiguousarray(np.rint(255 * values).astype(np.uint8))


def histogram(values: Voxels, first: int, size: int) -> NDArray[np.int64]:
    """How often each of `first` … `first` + `size` - 1 is there."""
    counts = np.zeros(size, np.int64)
    flat = values.ravel(order="K")
    for start in range(0, flat.size, CHUNK):
        counts += np.bincount(flat[start : start + CHUNK].astype(np.int64) - first, minlength=size)
    return counts
