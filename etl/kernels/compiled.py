"""The hot loops compiled by numba; `etl.kernels.plain` says what each means, and the tests that they are equal.

Measured on 512x512x120 voxels with 15 labels (`make bench` measures again): areas and boxes of all planes of three
axes in one pass over runs instead of one `find_objects` a plane; grey values by a table instead of float64
arithmetic; sagittal planes in blocks, so that a cache line is read once for 32 planes instead of once a plane.
"""

# mypy: disable-error-code="untyped-decorator"

from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etl.kernels.marks import block_sums, digest, fingerprints, repeats

__all__ = [
    "block_sums", "connected", "digest", "extents", "fingerprints", "histogram", "looked_up", "looked_up_across",
    "measured", "repeats", "rle", "scaled", "straight",
]  # fmt: skip

Voxels = NDArray[Any]
Extents = NDArray[np.int32]
Places = NDArray[np.int64]
TILE = 16  # lines of the fast axis that are read together, few enough to stay in the first-level cache


@njit(cache=True, nogil=True)
def _extents(labels, slow, middle, fast):  # type: ignore[no-untyped-def]
    for s in range(labels.shape[0]):
        for m in range(labels.shape[1]):
            f = 0
            while f < labels.shape[2]:
                value = labels[s, m, f]
                start = f
                while f < labels.shape[2] and labels[s, m, f] == value:
                    f += 1
                if value == 0:
                    continue
                _grow(slow, s, value, f - start, m, m, start, f - 1)
                _grow(middle, m, value, f - start, s, s, start, f - 1)
                for at in range(start, f):
                    _grow(fast, at, value, 1, s, s, m, m)


@njit(cache=True, nogil=True, inline="always")
def _grow(table, index, value, area, low_a, high_a, low_b, high_b):  # type: ignore[no-untyped-def]
    cell = table[index, value]
    if cell[0] == 0:
        cell[1], cell[2], cell[3], cell[4] = low_a, high_a, low_b, high_b
    else:
        cell[1], cell[2] = min(cell[1], low_a), max(cell[2], high_a)
        cell[3], cell[4] = min(cell[3], low_b), max(cell[4], high_b)
    cell[0] += area


def extents(labels: Voxels, count: int) -> tuple[Extents, Extents, Extents]:
    """See `etl.kernels.plain.extents`."""
    slow, middle, fast = (np.zeros((n, count, 5), np.int32) for n in labels.shape)
    _extents(labels, slow, middle, fast)
    return slow, middle, fast


@njit(cache=True, nogil=True)
def _looked_up(plane, table, first, out):  # type: ignore[no-untyped-def]
    for r in range(plane.shape[0]):
        for c in range(plane.shape[1]):
            out[r, c] = table[np.int64(plane[r, c]) - first]


def looked_up(plane: Voxels, table: NDArray[np.uint8], first: int) -> NDArray[np.uint8]:
    """See `etl.kernels.plain.looked_up`."""
    out = np.empty(plane.shape, np.uint8)
    _looked_up(plane, table, first, out)
    return out


@njit(cache=True, nogil=True)
def _straight(plane, lower, scale, turned_rows, turned_columns, out):  # type: ignore[no-untyped-def]
    rows, columns = plane.shape
    ties = np.float32(12582912)  # adding 1.5 * 2**23 leaves no bit for a fraction: rounds half to even
    last = np.uint64(columns - 1)  # of no sign: numba takes others from the end, which would cost a factor 5
    straight = np.empty(columns, np.uint8)
    for r in range(rows):
        line = out[rows - 1 - r if turned_rows else r]
        for c in range(columns):
            y = min(max((np.float32(plane[r, c]) - lower) * scale, np.float32(0)), np.float32(255))
            straight[c] = np.uint8(np.int32((y + ties) - ties))
        if turned_columns:
            for c in range(np.uint64(columns)):
                line[c] = straight[last - c]
        else:
            line[:] = straight


def straight(plane: Voxels, lower: np.float32, scale: np.float32, turned: tuple[bool, bool]) -> NDArray[np.uint8]:
    """See `etl.kernels.plain.straight`: no look-up, so that many pixels are worked on at a time."""
    out = np.empty(plane.shape, np.uint8)
    _straight(plane, lower, scale, turned[0], turned[1], out)
    return out


@njit(cache=True, nogil=True)
def _looked_up_across(volume, table, first, start, stop, out):  # type: ignore[no-untyped-def]
    for s in range(volume.shape[0]):
        for left in range(0, volume.shape[1], TILE):
            right = min(left + TILE, volume.shape[1])
            for f in range(start, stop):
                for m in range(left, right):
                    out[f - start, s, m] = table[np.int64(volume[s, m, f]) - first]


def looked_up_across(
    volume: Voxels, table: NDArray[np.uint8], first: int, start: int, stop: int
) -> NDArray[np.uint8]:
    """See `etl.kernels.plain.looked_up_across`."""
    out = np.empty((stop - start, *volume.shape[:2]), np.uint8)
    _looked_up_across(volume, table, first, start, stop, out)
    return out


@njit(cache=True, nogil=True)
def _runs(part, value, corner_row, corner_column, rows, columns, runs):  # type: ignore[no-untyped-def]
    """Alternating lengths of background and mask down the columns, COCO's order; returns how many there are."""
    n = 0
    at = 0  # end of the last run that was written
    for c in range(part.shape[1]):
        offset = (corner_column + c) * rows + corner_row
        r = 0
        while r < part.shape[0]:
            while r < part.shape[0] and part[r, c] != value:
                r += 1
            if r == part.shape[0]:
                break
            start = offset + r
            while r < part.shape[0] and part[r, c] == value:
                r += 1
            if n and start == at:  # goes on from the foot of the column before
                runs[n - 1] += offset + r - start
            else:
                runs[n] = start - at
                runs[n + 1] = offset + r - start
                n += 2
            at = offset + r
    if at < rows * columns:
        runs[n] = rows * columns - at
        n += 1
    return n


@njit(cache=True, nogil=True)
def _packed(runs, n, out):  # type: ignore[no-untyped-def]
    """COCO's string form: from the third on the difference to the run before last, 5 bits and a flag a letter."""
    size = 0
    for i in range(n):
        x = runs[i] - (runs[i - 2] if i > 2 else 0)
        more = True
        while more:
            letter = x & 0x1F
            x >>= 5
            more = x != -1 if letter & 0x10 else x != 0
            out[size] = (letter | 0x20 if more else letter) + 48
            size += 1
    return size


def rle(part: Voxels, value: int, corner: tuple[int, int], shape: tuple[int, int]) -> bytes:
    """See `etl.kernels.plain.rle`."""
    runs = np.empty(part.shape[1] * (part.shape[0] + 1) + 2, np.int64)
    n = _runs(part, value, corner[0], corner[1], shape[0], shape[1], runs)
    letters = np.empty(13 * n, np.uint8)
    return letters[: _packed(runs, n, letters)].tobytes()


@njit(cache=True, nogil=True)
def _connected(part, value, starts, ends, parents):  # type: ignore[no-untyped-def]
    """Union-find over the runs of each row and of the row before it."""
    roots = n = before = 0  # runs of the row before are numbered from `before` to where this row began
    for r in range(part.shape[0]):
        began, c = n, 0
        above = before
        while c < part.shape[1]:
            if part[r, c] != value:
                c += 1
                continue
            start = c
            while c < part.shape[1] and part[r, c] == value:
                c += 1
            starts[n], ends[n], parents[n] = start, c, n
            roots += 1
            while above < began and ends[above] < start:
                above += 1
            over = above
            while over < began and starts[over] <= c:
                one, other = n, over
                while parents[one] != one:
                    one = parents[one]
                while parents[other] != other:
                    other = parents[other]
                if one != other:
                    parents[max(one, other)] = min(one, other)
                    roots -= 1
                over += 1
            n += 1
        before = began
    return roots <= 1


def connected(part: Voxels, value: int) -> bool:
    """See `etl.kernels.plain.connected`."""
    most = part.shape[0] * (part.shape[1] // 2 + 1)
    starts, ends, parents = np.empty((3, most), np.int64)
    return bool(_connected(part, value, starts, ends, parents))


@njit(cache=True, nogil=True)
def _measured(planes, where, numbers, boxes, split, least, whole, ends):  # type: ignore[no-untyped-def]
    """Returns the letters of all RLE one after another; those of value n end at `ends[n]`."""
    letters, size, most = np.empty(4096, np.uint8), 0, 0
    for n in range(boxes.shape[0]):
        most = max(most, boxes[n, 3] * (boxes[n, 4] + 1))
    runs, chains = np.empty(most + 2, np.int64), np.empty((3, most), np.int64)
    for n in range(numbers.shape[0]):
        area, x, y, width, height = boxes[n]
        plane = planes[where[n]]
        part = plane[y : y + height, x : x + width]
        whole[n] = True
        if split[n] and area < width * height:
            whole[n] = _connected(part, numbers[n], chains[0], chains[1], chains[2])
        if whole[n] and area >= least:
            count = _runs(part, numbers[n], y, x, plane.shape[0], plane.shape[1], runs)
            if size + 13 * count > letters.shape[0]:
                more = np.empty(2 * (size + 13 * count), np.uint8)
                more[:size] = letters[:size]
                letters = more
            size += _packed(runs, count, letters[size:])
        ends[n] = size
    return letters[:size]


def measured(
    planes: Voxels, where: Places, numbers: Places, boxes: Extents, split: NDArray[np.bool_], least: float
) -> tuple[NDArray[np.bool_], list[bytes | None]]:
    """See `etl.kernels.plain.measured`: one call for all planes of an axis, as calls cost more than small regions."""
    whole, ends = np.empty(numbers.size, np.bool_), np.empty(numbers.size, np.int64)
    letters = _measured(planes, where, numbers, boxes, split, least, whole, ends).tobytes()
    bounds = [0, *ends.tolist()]
    return whole, [letters[a:b] or None for a, b in pairwise(bounds)]


@njit(cache=True, nogil=True)
def _scaled(plane, lower, upper, out):  # type: ignore[no-untyped-def]
    for r in range(plane.shape[0]):
        for c in range(plane.shape[1]):
            x = (np.float64(plane[r, c]) - lower) / (upper - lower)
            out[r, c] = np.rint(255 * min(max(x, 0.0), 1.0)) if np.isfinite(x) else 0.0


def scaled(plane: Voxels, lower: float, upper: float) -> NDArray[np.uint8]:
    """See `etl.kernels.plain.scaled`."""
    out = np.empty(plane.shape, np.uint8)
    _scaled(plane, lower, upper, out)
    return out


@njit(cache=True, nogil=True)
def _histogram(flat, first, counts):  # type: ignore[no-untyped-def]
    for value in flat:
        counts[np.int64(value) - first] += 1


def histogram(values: Voxels, first: int, size: int) -> NDArray[np.int64]:
    """See `etl.kernels.plain.histogram`."""
    counts = np.zeros(size, np.int64)
    _histogram(values.ravel(order="K"), first, counts)
    return counts
