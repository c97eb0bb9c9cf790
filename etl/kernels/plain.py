"""The plain twins of `etl.kernels.compiled`: what each kernel means, in NumPy."""

from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

Voxels = NDArray[Any]
Extents = NDArray[np.int32]
Places = NDArray[np.int64]
Codes = NDArray[np.uint64]
CHUNK = 1 << 22  # values looked at together
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX = np.uint64(0xBF58476D1CE4E5B9)
NEAR = np.uint32(0x85EBCA6B)
LOCAL = np.uint32(0xC2B2AE35)
SELECT = np.uint32(26)  # bits of 32 that are no matter: one neighbourhood in 64 is looked at


def extents(labels: Voxels, count: int) -> tuple[Extents, Extents, Extents]:
    """Area and box of each value 1 … `count` - 1 on each plane across each axis of `labels` [slow, middle, fast].

    One table an axis, [index, value, 5]: area, then first and last index along the two other axes, slower one
    first. An area of 0 says that the value is not on the plane.
    """
    tables = tuple(np.zeros((n, count, 5), np.int32) for n in labels.shape)
    for axis, table in enumerate(tables):
        for index in range(labels.shape[axis]):
            plane = np.take(labels, index, axis).astype(np.int32)
            areas = np.bincount(plane.ravel())
            for value, box in enumerate(ndimage.find_objects(plane, count - 1), 1):
                if box is not None:
                    table[index, value] = (areas[value], box[0].start, box[0].stop - 1, box[1].start, box[1].stop - 1)
    return tables[0], tables[1], tables[2]


def looked_up(plane: Voxels, table: NDArray[np.uint8], first: int) -> NDArray[np.uint8]:
    """`table[plane - first]` of an integer plane (rows, columns), in C order."""
    return np.ascontiguousarray(table[plane.astype(np.int64) - first])


def straight(plane: Voxels, lower: np.float32, scale: np.float32, turned: tuple[bool, bool]) -> NDArray[np.uint8]:
    """(plane - lower) * scale in float32, rounded half to even and cut at 0 and 255, in C order; `turned` says whether
    the rows and the columns come out in reverse."""
    values = np.clip((plane.astype(np.float32) - lower) * scale, np.float32(0), np.float32(255))
    grey = np.rint(values).astype(np.uint8)
    return np.ascontiguousarray(grey[:: -1 if turned[0] else 1, :: -1 if turned[1] else 1])


def straight_across(
    volume: Voxels, planes: tuple[int, int, int], lower: np.float32, scale: np.float32, turned: tuple[bool, bool]
) -> NDArray[np.uint8]:
    """`straight` of the planes from … to (without) across the middle or fast axis, `planes` being (axis, from, to):
    [plane, slow, the other axis]."""
    axis, start, stop = planes
    return np.stack([straight(np.take(volume, n, axis), lower, scale, turned) for n in range(start, stop)])


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


def measured(
    planes: Voxels, where: Places, numbers: Places, boxes: NDArray[np.int32], split: NDArray[np.bool_], least: float
) -> tuple[NDArray[np.bool_], list[bytes | None]]:
    """Of each value `numbers[n]` of the plane `planes[where[n]]`, with `boxes[n]` (area, x, y, width, height): whether
    it is one region, and its RLE if so and its area is `least` or more. One that is not `split` is one region, else if
    it is connected."""
    whole, codes = np.empty(numbers.size, np.bool_), list[bytes | None]()
    listed = zip(where.tolist(), numbers.tolist(), boxes.tolist(), strict=True)
    for n, (index, number, (area, x, y, width, height)) in enumerate(listed):
        part = planes[index, y : y + height, x : x + width]
        whole[n] = not split[n] or connected(part, number)
        kept = whole[n] and area >= least
        codes.append(rle(part, number, (y, x), (planes.shape[1], planes.shape[2])) if kept else None)
    return whole, codes


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


def block_sums(plane: Voxels, grid: int) -> NDArray[np.int64]:
    """Sums of a plane (rows, columns) of integers over `grid` x `grid` equal parts of its sides, times `grid` squared:
    a pixel that lies in several parts counts in each by its share, in whole numbers."""
    rows, columns = (_shares(n, grid) for n in plane.shape)
    return np.rint(rows @ plane.astype(np.float64) @ columns.T).astype(np.int64)  # float64 is exact to 2^53


@lru_cache(maxsize=64)
def _shares(length: int, grid: int) -> NDArray[np.float64]:
    """(grid, length): how much of each pixel lies in each part; pixels are `grid` long and parts `length`."""
    part, at = length * np.arange(grid)[:, None], grid * np.arange(length)
    return np.asarray(np.clip(np.minimum(part + length, at + grid) - np.maximum(part, at), 0, None), np.float64)


def digest(data: NDArray[np.uint8]) -> tuple[int, int]:
    """Two 64-bit sums over the words of some bytes, each mixed with its place: no two images share both by chance."""
    words = np.frombuffer(data.tobytes() + bytes(-data.size % 8), "<u8")
    places = np.arange(1, words.size + 1, dtype=np.uint64)
    mixed = _mixed(words + places * MIX)
    return int(mixed.sum(dtype=np.uint64)), int((mixed * (places * np.uint64(2) + np.uint64(1))).sum(dtype=np.uint64))


def repeats(volume: Voxels) -> tuple[int, int, int]:
    """How many pairs of neighbouring planes across each axis are equal; planes of one value do not count."""
    counts = [
        sum(np.array_equal(a, b) and bool((a != a.flat[0]).any()) for a, b in pairwise(np.moveaxis(volume, axis, 0)))
        for axis in range(3)
    ]
    return counts[0], counts[1], counts[2]


def fingerprints(codes: NDArray[np.uint32], bound: int) -> Codes:
    """Hashes up to `bound` of the neighbourhoods in an array of two or three axes, in any order.

    A neighbourhood is a value and those around it by distance: up to 1 along each of three axes, up to 2 of two
    without the corners. One in 64 is chosen by its nearest values; those of one value are left out.
    """
    rings = neighbours(codes.ndim)
    reach = 1 if codes.ndim == 3 else 2
    inner = tuple(slice(reach, n - reach) for n in codes.shape)
    center = codes[inner]
    near = np.zeros(center.shape, np.uint32)
    for offset in rings[0]:
        near += codes[tuple(slice(s.start + o, s.stop + o) for s, o in zip(inner, offset, strict=True))]
    local = (near * NEAR ^ center) * LOCAL
    flat = near == center * np.uint32(len(rings[0]))
    chosen = np.flatnonzero((local >> SELECT == 0) & ~flat)  # the high bits: low ones of float32 codes are 0
    places = np.unravel_index(chosen, center.shape)
    result = _mixed(codes[tuple(p + reach for p in places)].astype(np.uint64))
    for ring in rings:
        total = np.zeros(chosen.size, np.uint64)
        for offset in ring:
            total += _mixed(codes[tuple(p + reach + o for p, o in zip(places, offset, strict=True))].astype(np.uint64))
        result = _mixed(result ^ total)
    return result[result <= np.uint64(bound)]


@lru_cache(maxsize=2)
def neighbours(dimensions: int) -> list[list[tuple[int, ...]]]:
    """The offsets around a place grouped by distance, nearest first."""
    reach = 1 if dimensions == 3 else 2
    rings: dict[int, list[tuple[int, ...]]] = {}
    for offset in product(range(-reach, reach + 1), repeat=dimensions):
        rings.setdefault(sum(o * o for o in offset), []).append(offset)
    return [rings[d] for d in sorted(rings) if 0 < d <= 5]


def _mixed(x: Codes) -> Codes:
    """A well-mixed 64-bit hash of each number."""
    x = (x + GOLDEN) * MIX
    x ^= x >> np.uint64(31)
    x = x * GOLDEN
    return x ^ (x >> np.uint64(29))
