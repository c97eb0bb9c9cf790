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
    "block_sums", "digest", "extents", "fingerprints", "histogram", "looked_up", "measured",
    "repeats", "rle", "scaled", "straight", "straight_across",
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
def _between(volume, start, lower, scale, turned_slow, turned_fast, out):  # type: ignore[no-untyped-def]
    """Planes across the middle axis: their lines lie one after another in memory."""
    for s in range(volume.shape[0]):
        row = volume.shape[0] - 1 - s if turned_slow else s
        for n in range(out.shape[0]):
            _straight(volume[s, start + n : start + n + 1], lower, scale, False, turned_fast, out[n, row : row + 1])


@njit(cache=True, nogil=True)
def _across(volume, start, lower, scale, turned_slow, turned_middle, out):  # type: ignore[no-untyped-def]
    """Planes across the fast axis: a few pixels of some lines at a time, which are then turned. Pixel by pixel the same
    as `_straight`, which is too slow to call for so few."""
    middle, count, ties = volume.shape[1], out.shape[0], np.float32(12582912)
    grey = np.empty((TILE, count), np.uint8)
    for s in range(volume.shape[0]):
        row = volume.shape[0] - 1 - s if turned_slow else s
        for left in range(0, middle, TILE):
            size = min(TILE, middle - left)
            for m in range(size):
                pixels, to = volume[s, left + m, start : start + count], grey[size - 1 - m if turned_middle else m]
                for f in range(count):
                    y = min(max((np.float32(pixels[f]) - lower) * scale, np.float32(0)), np.float32(255))
                    to[f] = np.uint8(np.int32((y + ties) - ties))
            first = middle - left - size if turned_middle else left
            for n in range(count):
                line = out[n, row, first : first + size]
                for m in range(np.uint64(size)):
                    line[m] = grey[m, n]


def straight_across(
    volume: Voxels, planes: tuple[int, int, int], lower: np.float32, scale: np.float32, turned: tuple[bool, bool]
) -> NDArray[np.uint8]:
    """See `etl.kernels.plain.straight_across`."""
    axis, start, stop = planes
    out = np.empty((stop - start, volume.shape[0], volume.shape[3 - axis]), np.uint8)
    (_between if axis == 1 else _across)(volume, start, lower, scale, turned[0], turned[1], out)
    return out


@njit(cache=True, nogil=True)
def _chains(part, value, corner_row, corner_column, height, turned, starts, ends):  # type: ignore[no-untyped-def]
    """The runs of `value` down each column of a part, as places in COCO's order of a plane of this `height`; returns
    how many there are. The part is turned first (into `turned`): a plane lies in memory along its rows, if at all."""
    rows, columns = part.shape
    for r in range(rows):
        for c in range(columns):
            turned[c * rows + r] = part[r, c] == value
    n = 0
    for c in range(columns):
        column = turned[c * rows : (c + 1) * rows]
        offset = (corner_column + c) * height + corner_row
        r = 0
        while r < rows:
            if not column[r]:
                r += 1
                continue
            starts[n] = offset + r
            while r < rows and column[r]:
                r += 1
            ends[n] = offset + r
            n += 1
    return n


@njit(cache=True, nogil=True)
def _one(starts, ends, n, height, parents):  # type: ignore[no-untyped-def]
    """Whether `n` runs are 8-connected: union-find over those of each column and of the column before it."""
    roots, above = n, 0
    for i in range(n):
        parents[i] = i
        column = starts[i] // height
        before, after = starts[i] - height, ends[i] - height  # in the column before, which this one touches
        while above < i and (starts[above] // height < column - 1 or ends[above] < before):
            above += 1
        over = above
        while over < i and starts[over] // height < column and starts[over] <= after:
            one, other = i, over
            while parents[one] != one:
                one = parents[one]
            while parents[other] != other:
                other = parents[other]
            if one != other:
                parents[max(one, other)] = min(one, other)
                roots -= 1
            over += 1
    return roots <= 1


@njit(cache=True, nogil=True)
def _runs(starts, ends, n, size, runs):  # type: ignore[no-untyped-def]
    """Alternating lengths of background and mask in a plane of `size` pixels; returns how many there are."""
    count = at = 0  # end of the last run
    for i in range(n):
        if i and starts[i] == at:  # goes on from the foot of the column before
            runs[count - 1] += ends[i] - starts[i]
        else:
            runs[count] = starts[i] - at
            runs[count + 1] = ends[i] - starts[i]
            count += 2
        at = ends[i]
    if at < size:
        runs[count] = size - at
        count += 1
    return count


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
    turned, (starts, ends, runs) = np.empty(part.size, np.bool_), np.empty((3, 2 * part.size + 2), np.int64)
    n = _chains(part, value, corner[0], corner[1], shape[0], turned, starts, ends)
    count = _runs(starts, ends, n, shape[0] * shape[1], runs)
    letters = np.empty(13 * count, np.uint8)
    return letters[: _packed(runs, count, letters)].tobytes()


@njit(cache=True, nogil=True)
def _measured(planes, where, numbers, boxes, split, least, whole, ends):  # type: ignore[no-untyped-def]
    """Returns the letters of all RLE one after another; those of value n end at `ends[n]`."""
    letters, size, most = np.empty(4096, np.uint8), 0, 0
    for n in range(boxes.shape[0]):
        most = max(most, boxes[n, 3] * boxes[n, 4])
    turned, chains = np.empty(most, np.bool_), np.empty((4, 2 * most + 2), np.int64)
    starts, ends_of, parents, runs = chains[0], chains[1], chains[2], chains[3]
    rows, columns = planes.shape[1:]
    for n in range(numbers.shape[0]):
        area, x, y, width, height = boxes[n]
        whole[n] = not split[n] or area == width * height
        if not whole[n] or area >= least:
            part = planes[where[n], y : y + height, x : x + width]
            count = _chains(part, numbers[n], y, x, rows, turned, starts, ends_of)
            whole[n] = whole[n] or _one(starts, ends_of, count, rows, parents)
            if whole[n] and area >= least:
                count = _runs(starts, ends_of, count, rows * columns, runs)
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
