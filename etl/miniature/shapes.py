"""Blocks at known places on a small grid, and the regions that follow from them by counting pixels.

Nothing here shares code with the pipeline: what a build must find is counted from what was drawn.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from etl.demo.shapes import Expected, Mask

WHOLE, FLAT, PICTURE = (38, 36, 33), (40, 36), (48, 60)
"""A volume that is cut along all axes (i, j, k); one of few axial slices (i, j); a picture (rows, columns)."""
FEWEST_SLICES = 4
GAP = 2
SIZES = {
    "native": [(7, 7, 1)],
    "thin": [(6, 6, 1), (5, 5, 1)],
    "whole": [(8, 8, 8), (6, 6, 6), (5, 5, 5), (5, 5, 2)],
}
"""Sizes of blocks, the largest for which there is room is taken; each covers 1.5 % of a slice along an axis."""
Box = tuple[slice, ...]
Owner = TypeVar("Owner")
LEFT, RIGHT = frozenset({"left", "l", "lt"}), frozenset({"right", "r", "rt"})


@dataclass(frozen=True, slots=True)
class Grid:
    """Where a scene is drawn: a RAS+ volume (i, j, k), or frames of a picture (rows, columns, frame).

    `codes` are the axis codes in which a volume is stored, `turned` the degrees by which it lies oblique.
    """

    shape: tuple[int, int, int]
    native: bool
    codes: str = "RAS"
    turned: float = 0.0
    spacing: tuple[float, float, float] = (3.0, 3.5, 5.0)


@dataclass(frozen=True, slots=True)
class Mark:
    """One value to draw: its key in `labels`, its raw label (None: the manifest does not name it), its value.

    Marks of one raw label and `instance` are one region on a slice.
    """

    key: str
    raw: str | None
    value: int
    instance: int
    blocks: int = 1


def slots(grid: Grid, wanted: int) -> list[Box]:
    """At least `wanted` boxes of a grid, if it has room, that do not touch and each keep an odd place."""
    shape = grid.shape
    thin = grid.native or shape[2] < FLAT[1] // 2
    sizes = SIZES["native" if grid.native else "thin" if thin else "whole"]
    found: list[Box] = []
    for size in sizes:
        gaps = (1, 1, 0) if grid.native else (GAP, GAP, 0 if thin else GAP)
        starts = [range(1 if n > size[a] + 1 else 0, n - size[a] + 1, size[a] + gaps[a]) for a, n in enumerate(shape)]
        found = [
            tuple(slice(at, at + size[a]) for a, at in enumerate((i, j, k)))
            for k in starts[2] for j in starts[1] for i in starts[0]
        ]
        if len(found) >= wanted:
            break
    return found


def draw(grid: Grid, boxes: Sequence[Box], *, bitten: bool) -> Mask:
    """The mask of these boxes, each without the columns of one corner where `bitten`."""
    mask = np.zeros(grid.shape, bool)
    for box in boxes:
        mask[box] = True
        if bitten:
            mask[box[0].start, box[1].start, box[2]] = False
    return mask


def arrange(
    grid: Grid, marks: Sequence[tuple[Owner, Mark]], *, bitten: bool, turn: int = 0
) -> list[tuple[tuple[Owner, Mark], list[Mask]]]:
    """Each mark with the masks of its blocks, those with a side on theirs.

    Where there is not room for all, each gets one block and `turn` says which of them are left out.
    """
    places = slots(grid, sum(mark.blocks for _, mark in marks))
    crowded = sum(mark.blocks for _, mark in marks) > len(places)
    start = turn * len(places) % max(len(marks), 1) if crowded else 0
    order = sorted([*marks[start:], *marks[:start]], key=lambda item: _side(item[1], grid) == 0)
    result = []
    for item in order:
        count = 1 if crowded else item[1].blocks
        own = [_take(places, _side(item[1], grid)) for _ in range(count) if places]
        if own:
            result.append((item, [draw(grid, [box], bitten=bitten) for box in own]))
    return result


def _side(mark: Mark, grid: Grid) -> int:
    words = set(re.findall(r"[a-z]+", (mark.raw or "").lower()))
    return 0 if grid.native else -1 if words & LEFT else 1 if words & RIGHT else 0


def _take(places: list[Box], side: int) -> Box:
    """Remove and return the first place; with a side the first one farthest to it (i runs to the right)."""
    best = min(range(len(places)), key=lambda n: -side * places[n][0].start) if side else 0
    return places.pop(best)


def union(masks: Iterable[Mask]) -> Mask:
    """Where any of the masks is set."""
    return np.asarray(np.logical_or.reduce(list(masks)))


def expect(
    rows: Expected, source: str, case: str, grid: Grid, regions: Iterable[tuple[str, Mask]], axes: Sequence[str]
) -> None:
    """Add the regions (raw label, mask on the grid) of an image, on each slice that is cut."""
    for raw, mask in regions:
        found = Expected()
        if grid.native:
            for frame in range(grid.shape[2]):
                found.picture(source, case, [(raw, mask[:, :, frame])], frame)
        else:
            found.volume(source, case, {raw: mask})
        rows.rows += [row for row in found.rows if row["axis"] in (*axes, "native")]


def texture(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float64]:
    """Grey values from 0 to 1 that differ from slice to slice and from image to image."""
    coarse = rng.random([(n + 5) // 6 for n in shape])
    for axis, n in enumerate(shape):
        coarse = np.repeat(coarse, 6, axis)[(slice(None),) * axis + (slice(n),)]
    return np.asarray(0.8 * coarse + 0.2 * rng.random(tuple(shape)))
