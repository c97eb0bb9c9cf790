"""The plain twins of `etl.kernels_numba`: what each kernel means, in NumPy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

Voxels = NDArray[Any]
Extents = NDArray[np.int32]


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


def rle(plane: Voxels, value: int, box: tuple[int, int, int, int]) -> bytes:
    """COCO compressed RLE counts of where `plane` (rows, columns) is `value`, which is inside `box`
    (first row, last row, first column, last column) only."""
    mask = np.zeros(plane.shape, np.uint8, order="F")
    inside = (slice(box[0], box[1] + 1), slice(box[2], box[3] + 1))
    mask[inside] = plane[inside] == value
    counts: bytes = coco_mask.encode(mask)["counts"]
    return counts
