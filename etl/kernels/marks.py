"""The compiled kernels of fingerprints and evidence; `etl.kernels.plain` says what each means."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etl.kernels.plain import GOLDEN, LOCAL, MIX, NEAR, SELECT, neighbours

Voxels = NDArray[Any]


@njit(cache=True, nogil=True)
def _block_sums(plane, out):  # type: ignore[no-untyped-def]
    """Whole lines are added first, which the compiler does many columns at a time, then parts of the sum."""
    rows, columns = plane.shape
    grid = out.shape[0]
    line = np.empty(columns, np.int64)
    for part in range(grid):
        line[:] = 0
        top, foot = part * rows, (part + 1) * rows  # of pixels that are `grid` high
        for r in range(top // grid, (foot - 1) // grid + 1):
            share = min(foot, (r + 1) * grid) - max(top, r * grid)
            for c in range(columns):
                line[c] += share * plane[r, c]
        for across in range(grid):
            left, right = across * columns, (across + 1) * columns
            total = 0
            for c in range(left // grid, (right - 1) // grid + 1):
                total += line[c] * (min(right, (c + 1) * grid) - max(left, c * grid))
            out[part, across] = total


def block_sums(plane: Voxels, grid: int) -> NDArray[np.int64]:
    """See `etl.kernels.plain.block_sums`."""
    out = np.empty((grid, grid), np.int64)
    _block_sums(plane, out)
    return out


@njit(cache=True, nogil=True, inline="always")
def _mixed(x):  # type: ignore[no-untyped-def]
    x = (x + GOLDEN) * MIX
    x ^= x >> np.uint64(31)
    x = x * GOLDEN
    return x ^ (x >> np.uint64(29))


@njit(cache=True, nogil=True)
def _digest(words):  # type: ignore[no-untyped-def]
    one = two = place = np.uint64(0)
    for i in range(words.shape[0]):
        place = np.uint64(i + 1)
        x = _mixed(words[i] + place * MIX)
        one += x
        two += x * (place * np.uint64(2) + np.uint64(1))
    return one, two


def digest(data: NDArray[np.uint8]) -> tuple[int, int]:
    """See `etl.kernels.plain.digest`."""
    flat = data.reshape(-1)
    if flat.size % 8:
        flat = np.concatenate((flat, np.zeros(-flat.size % 8, np.uint8)))
    one, two = _digest(flat.view("<u8"))
    return int(one), int(two)


@njit(cache=True, nogil=True)
def _varies(volume, axis, index):  # type: ignore[no-untyped-def]
    """Whether a plane across the slow (0) or the middle axis has more than one value."""
    first = volume[index, 0, 0] if axis == 0 else volume[0, index, 0]
    for i in range(volume.shape[1 - axis]):
        line = volume[index, i] if axis == 0 else volume[i, index]
        different = False
        for f in range(line.shape[0]):
            different |= line[f] != first
        if different:
            return True
    return False


@njit(cache=True, nogil=True)
def _vary_across(volume, differ):  # type: ignore[no-untyped-def]
    """The same of all planes across the fast axis, line by line of memory; those that `differ` are of no interest."""
    varies = differ.copy()
    for s in range(volume.shape[0]):
        for m in range(volume.shape[1]):
            for f in range(differ.shape[0]):
                varies[f] |= volume[s, m, f] != volume[0, 0, f]
        if varies.all():
            break
    return varies


@njit(cache=True, nogil=True)
def _lines_differ(one, other):  # type: ignore[no-untyped-def]
    different = False
    for f in range(one.shape[0]):
        different |= one[f] != other[f]
    return different


@njit(cache=True, nogil=True)
def _repeats(volume, differ):  # type: ignore[no-untyped-def]
    """Whether each plane differs from the next: of the slow, the middle and the fast axis."""
    slow, middle, fast = volume.shape
    for s in range(slow - 1):
        for i in range(middle):
            m = (middle // 2 + i) % middle
            if _lines_differ(volume[s, m], volume[s + 1, m]):
                differ[0, s] = True
                break
    for m in range(middle - 1):
        for i in range(slow):
            s = (slow // 2 + i) % slow
            if _lines_differ(volume[s, m], volume[s, m + 1]):
                differ[1, m] = True
                break
    for i in range(slow):
        s = (slow // 2 + i) % slow
        for j in range(middle):
            line = volume[s, (middle // 2 + j) % middle]
            for f in range(fast - 1):
                differ[2, f] |= line[f] != line[f + 1]
        if differ[2, : fast - 1].all():
            break


def repeats(volume: Voxels) -> tuple[int, int, int]:
    """See `etl.kernels.plain.repeats`."""
    differ = np.zeros((3, max(volume.shape)), np.bool_)
    _repeats(volume, differ)
    slow, middle, fast = (differ[axis, : n - 1] for axis, n in enumerate(volume.shape))
    return (sum(_varies(volume, 0, n) for n in np.flatnonzero(~slow)),
            sum(_varies(volume, 1, n) for n in np.flatnonzero(~middle)),
            int((_vary_across(volume, fast) & ~fast).sum()))  # fmt: skip


@njit(cache=True, nogil=True)
def _fingerprints(codes, reach, offsets, ends, bound, out):  # type: ignore[no-untyped-def]
    """`codes` [a, b, c] is contiguous, `offsets` are of its flat form, those of ring n up to `ends[n]`."""
    flat = codes.reshape(-1)
    _, middle, fast = codes.shape
    nearest = ends[0]
    length = fast - 2 * reach[2]
    near = np.empty(length, np.uint32)
    found = 0
    for a in range(reach[0], codes.shape[0] - reach[0]):
        for b in range(reach[1], middle - reach[1]):
            start = (a * middle + b) * fast + reach[2]
            near[:] = 0
            for n in range(nearest):  # line by line, which the compiler does many places at a time
                moved = flat[start + offsets[n] : start + offsets[n] + length]
                for f in range(length):
                    near[f] += moved[f]
            for f in range(length):
                at = start + f
                center = flat[at]
                local = np.uint32(np.uint32(np.uint32(near[f] * NEAR) ^ center) * LOCAL)
                if local >> SELECT != 0 or near[f] == np.uint32(center * np.uint32(nearest)):
                    continue
                result = _mixed(np.uint64(center))
                first = 0
                for end in ends:
                    total = np.uint64(0)
                    for n in range(first, end):
                        total += _mixed(np.uint64(flat[at + offsets[n]]))
                    result = _mixed(result ^ total)
                    first = end
                if result <= bound:
                    out[found] = result
                    found += 1
    return found


def fingerprints(codes: NDArray[np.uint32], bound: int) -> NDArray[np.uint64]:
    """See `etl.kernels.plain.fingerprints`."""
    rings = neighbours(codes.ndim)
    steps = np.array(codes.strides) // codes.itemsize
    offsets = np.array([int(np.dot(offset, steps)) for ring in rings for offset in ring])
    ends = np.cumsum([len(ring) for ring in rings])
    solid = codes if codes.ndim == 3 else codes[None]
    reach = np.array([1, 1, 1] if codes.ndim == 3 else [0, 2, 2])
    out = np.empty(codes.size, np.uint64)
    return out[: _fingerprints(solid, reach, offsets, ends, np.uint64(bound), out)]
