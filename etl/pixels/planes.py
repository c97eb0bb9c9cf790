"""Volumes as they lie in memory: the regions and the 8-bit images of all planes, without walking them slice by slice.

A canonical volume is a view on the array of its file, with axes swapped and flipped. The kernels want memory order, so
the swaps and flips are undone here and done again on the few numbers and small images that come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl import kernels
from etl.pixels import geometry, intensity

Array = NDArray[Any]
Line = tuple[np.float32, np.float32]
BLOCK = 32  # planes across the middle or fast axis that are cut together
WORLD = {"sagittal": 0, "coronal": 1, "axial": 2}
COLUMNS = {"sagittal": 1, "coronal": 0, "axial": 0}  # world axis that runs along the columns of a plane
ROWS = {"sagittal": 2, "coronal": 2, "axial": 1}
LINE_BYTES = 64  # of a cache line
TABLE_SIZE = 1 << 16  # grey values that one look-up table covers


@dataclass(frozen=True, slots=True)
class Memory:
    """`array` is C-contiguous [slow, middle, fast]; `axes[m]` is the world axis of memory axis m, and `flipped[m]`
    says whether it runs against it."""

    array: Array
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    def index(self, axis: str, index: int) -> tuple[int, int]:
        """(memory axis, index on it) of a slice of a world axis."""
        m = self.axes.index(WORLD[axis])
        return m, self.array.shape[m] - 1 - index if self.flipped[m] else index


def in_memory(volume: Array) -> Memory:
    """The array below a canonical (i, j, k) view, in memory order; copied only if it is not contiguous."""
    flips = tuple(stride < 0 for stride in volume.strides)
    straight = volume[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    order = sorted(range(3), key=lambda w: (-straight.strides[w], w))
    array = np.ascontiguousarray(straight.transpose(order))
    return Memory(array, (order[0], order[1], order[2]), (flips[order[0]], flips[order[1]], flips[order[2]]))


def extents(memory: Memory, count: int) -> dict[str, NDArray[np.int32]]:
    """Area and box of the values 1 … `count` - 1 on every plane: axis -> [slice, value, (area, x, y, width, height)].

    Boxes are in the pixels of the displayed plane; an area of 0 says that the value is not there.
    """
    tables = kernels.extents(memory.array, count)
    return {axis: _displayed(memory, tables, axis) for axis in WORLD}


def _displayed(memory: Memory, tables: tuple[NDArray[np.int32], ...], axis: str) -> NDArray[np.int32]:
    m = memory.axes.index(WORLD[axis])
    table = tables[m][::-1] if memory.flipped[m] else tables[m]
    others = [a for a in range(3) if a != m]
    out = np.empty_like(table)
    out[..., 0] = table[..., 0]
    for start, size, world in ((1, 3, COLUMNS[axis]), (2, 4, ROWS[axis])):
        a = memory.axes.index(world)
        low, high = (table[..., 1 + 2 * others.index(a) + end] for end in (0, 1))
        # a plane shows both of its axes against the world's direction
        out[..., start] = low if memory.flipped[a] else memory.array.shape[a] - 1 - high
        out[..., size] = high - low + 1
    return out


class Greys:
    """The 8-bit planes of a canonical volume under a window (lower, upper), or as they are (None) if it is uint8;
    every `stride`th of them will be asked for."""

    def __init__(self, volume: Array, bounds: tuple[float, float] | None, stride: int = 1) -> None:
        self._volume, self._bounds = volume, bounds
        self._table, self._first = _table(volume, bounds)
        self._memory = in_memory(volume) if self._table is not None else None
        self._line = None if self._table is None else _line(self._table, self._first, bounds)
        self._together = max(1, BLOCK // stride)
        self._block: tuple[int, int, Array] | None = None

    def plane(self, axis: str, index: int) -> NDArray[np.uint8]:
        """A slice as it is shown, (rows, columns)."""
        if self._table is None or self._memory is None:
            plane = geometry.plane(self._volume, axis, index)
            assert self._bounds is not None
            lower, upper = self._bounds
            if np.issubdtype(plane.dtype, np.floating) and upper > lower:
                return kernels.scaled(plane, lower, upper)
            return intensity.to_uint8(plane, self._bounds)
        if self._line is None:
            return kernels.looked_up(geometry.plane(self._volume, axis, index), self._table, self._first)
        m, at = self._memory.index(axis, index)
        rows, columns = (self._memory.axes.index(world) for world in (ROWS[axis], COLUMNS[axis]))
        if m > 0:
            plane = self._across(self._memory, self._line, m, at)
            return plane if rows < columns else np.ascontiguousarray(plane.T)
        plane = self._memory.array[at]
        turned = not self._memory.flipped[rows], not self._memory.flipped[columns]
        return kernels.straight(plane if rows < columns else plane.T, *self._line, turned)

    def _across(self, memory: Memory, line: Line, m: int, at: int) -> NDArray[np.uint8]:
        """A plane across the middle or the fast axis, from the block of planes around it."""
        first = at - (at - _aligned(memory.array)) % self._together
        start, stop = max(0, first), min(first + self._together, memory.array.shape[m])
        if self._block is None or self._block[:2] != (m, start):
            turned = not memory.flipped[0], not memory.flipped[3 - m]
            block = kernels.straight_across(memory.array, (m, start, stop), *line, turned)
            self._block = m, start, block
        plane: NDArray[np.uint8] = self._block[2][at - start]
        return plane


def _aligned(array: Array) -> int:
    """The first value of a line that begins a cache line: blocks that begin there are read in half the time."""
    return int(-array.ctypes.data % LINE_BYTES // array.itemsize)


def _table(volume: Array, bounds: tuple[float, float] | None) -> tuple[NDArray[np.uint8] | None, int]:
    """(the 8-bit value of each grey value, the first grey value), or None where there are too many."""
    if volume.dtype.kind not in "iub":
        return None, 0
    if volume.dtype.itemsize <= 2:
        limits = np.iinfo(volume.dtype)
        first, last = int(limits.min), int(limits.max)
    else:
        first, last = int(volume.min()), int(volume.max())
    if last - first >= TABLE_SIZE:
        return None, 0
    values = np.arange(first, last + 1)
    table = values.astype(np.uint8) if bounds is None else intensity.to_uint8(values, bounds)
    return table, first


def _line(table: NDArray[np.uint8], first: int, bounds: tuple[float, float] | None) -> Line | None:
    """The window as (lower bound, factor) of float32, if that gives all grey values of the table."""
    lower, upper = (0.0, 255.0) if bounds is None else bounds
    if not upper > lower:
        return None
    line = np.float32(lower), np.float32(255 / (upper - lower))
    values = np.arange(first, first + table.size, dtype=np.float32)
    return line if np.array_equal(kernels.straight(values[None], *line, (False, False))[0], table) else None
