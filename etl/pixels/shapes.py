"""Drawn boxes, polygons and run lengths to measured regions of a picture. Pure.

Coordinates are pixels with (0, 0) at the outer corner of the first pixel, x to the right and y down, as in
COCO. A size is (rows, columns).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from etl import kernels
from etl.errors import ItemError
from etl.pixels.regions import Found

Size = tuple[int, int]
NOISE = 6
"""Decimals of a pixel that count: a corner that misses an integer by the noise of float64 is on it."""
FAR = 8
"""A polygon this many picture sides away from the picture is damage, not drawing."""
SIDES = 360
"""Corners of the polygon that stands for a circle."""


def box(x0: float, y0: float, x1: float, y1: float, size: Size) -> Found:
    """The given box between two corners: floored and ceiled to whole pixels and clipped; no mask.

    Raises:
        ItemError: `unreadable` (not finite), `empty_mask` (no extent), `not_placed` (outside the picture).
    """
    if not all(math.isfinite(v) for v in (x0, y0, x1, y1)):
        raise ItemError("unreadable", "a box whose corners are no numbers")
    if x1 <= x0 or y1 <= y0:
        raise ItemError("empty_mask", f"a box without extent ({x0:g}, {y0:g} to {x1:g}, {y1:g})")
    left, top = max(0, math.floor(round(x0, NOISE))), max(0, math.floor(round(y0, NOISE)))
    right, bottom = min(size[1], math.ceil(round(x1, NOISE))), min(size[0], math.ceil(round(y1, NOISE)))
    if right <= left or bottom <= top:
        raise ItemError("not_placed", f"box {x0:g}, {y0:g} to {x1:g}, {y1:g} is outside the picture {_by(size)}")
    return Found(0, left, top, right - left, bottom - top, (right - left) * (bottom - top), None)


def polygons(parts: Iterable[Sequence[float]], size: Size) -> Found:
    """The union of polygons [x, y, x, y, …] as pycocotools rasterises them.

    Raises:
        ItemError: `unreadable` (fewer than three corners, not finite, far away), `empty_mask` (no pixel),
            `not_placed` (outside the picture).
    """
    rings = [[float(v) for v in part] for part in parts]
    reach = FAR * max(size)
    for ring in rings:
        if len(ring) < 6 or len(ring) % 2:
            raise ItemError("unreadable", f"a polygon of {len(ring)} numbers; it needs three corners or more")
        if not all(-reach <= v <= reach + max(size) for v in ring):
            raise ItemError("unreadable", "a polygon with corners that are no numbers, or far outside the picture")
    if not rings:
        raise ItemError("empty_mask", "a polygon without corners")
    coded = coco_mask.merge(coco_mask.frPyObjects(rings, *size))
    if not coco_mask.area(coded) and not any(_touches(ring, size) for ring in rings):
        raise ItemError("not_placed", f"its polygon is outside the picture {_by(size)}")
    return measured(coded)


def circle(center: Sequence[float], edge: Sequence[float], size: Size) -> Found:
    """A disc from its centre and a point on its edge (x, y), as a polygon of 360 corners."""
    radius = math.hypot(edge[0] - center[0], edge[1] - center[1])
    turns = np.linspace(0, 2 * np.pi, SIDES, endpoint=False)
    ring = np.stack([center[0] + radius * np.cos(turns), center[1] + radius * np.sin(turns)], axis=1)
    return polygons([ring.ravel().tolist()], size)


def rle(coded: Any, size: Size) -> Found:
    """A COCO run-length encoding, compressed (``counts`` text) or not (a list).

    Raises:
        ItemError: `shape_mismatch` (of another size), `unreadable` (runs that do not fill the picture),
            `empty_mask`.
    """
    try:
        given = tuple(int(n) for n in coded["size"])
        counts = coded["counts"]
        counts = _uncompressed(counts) if isinstance(counts, str) else [int(n) for n in counts]
    except (KeyError, TypeError, ValueError) as error:
        raise ItemError("unreadable", f"a run-length encoding without valid size and counts ({error})") from error
    if given != size:
        raise ItemError("shape_mismatch", f"run lengths for {_by(given)} on a picture {_by(size)} (rows x columns)")
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise ItemError("unreadable", f"run lengths of {sum(counts)} pixels for a picture {_by(size)}")
    edges = np.cumsum(counts)
    return runs(edges[0::2][: len(counts) // 2], np.asarray(counts[1::2]), size)


def runs(starts: Any, lengths: Any, size: Size) -> Found:
    """Runs of pixels in column-major order: starts from 0, and lengths.

    Raises:
        ItemError: `unreadable` (runs outside the picture), `empty_mask`.
    """
    starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
    total = size[0] * size[1]
    if starts.size and (starts.min() < 0 or lengths.min() < 0 or (starts > total - lengths).any()):
        raise ItemError("unreadable", f"runs outside the picture {_by(size)}")
    order = np.argsort(starts[lengths > 0])
    begins, ends = starts[lengths > 0][order], (starts + lengths)[lengths > 0][order]
    if not begins.size:
        raise ItemError("empty_mask", "no pixel is inside it")
    reached = np.maximum.accumulate(ends)
    apart = begins[1:] > reached[:-1]  # runs that touch or overlap are one
    turns = np.empty(2 * (int(apart.sum()) + 1), np.int64)
    turns[0::2] = begins[np.concatenate(([True], apart))]
    turns[1::2] = reached[np.concatenate((apart, [True]))]
    counts = np.diff(turns, prepend=0).tolist()
    if turns[-1] < total:
        counts.append(total - int(turns[-1]))
    return measured(coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size))


def bitmap(mask: Any, corner: tuple[int, int], size: Size) -> Found:
    """A mask (bool, rows, columns) whose first pixel lies at (row, column) ``corner`` of the picture.

    Raises:
        ItemError: `not_placed` (not all inside the picture), `empty_mask`.
    """
    (row, column), (height, width) = corner, mask.shape
    if row < 0 or column < 0 or row + height > size[0] or column + width > size[1]:
        raise ItemError("not_placed", f"a mask {_by(mask.shape)} at {row}, {column} leaves the picture {_by(size)}")
    if not mask.any():
        raise ItemError("empty_mask", "no pixel is inside it")
    part = np.ascontiguousarray(mask, dtype=np.uint8)
    return measured({"size": list(size), "counts": kernels.rle(part, 1, corner, size)})


def united(parts: Sequence[Found], size: Size) -> Found:
    """One region of several: their mask's union, or the box around all when one of them is a given box."""
    if all(part.rle is not None for part in parts):
        return measured(coco_mask.merge([{"size": list(size), "counts": part.rle} for part in parts]))
    left, top = min(part.x for part in parts), min(part.y for part in parts)
    right, bottom = max(part.x + part.width for part in parts), max(part.y + part.height for part in parts)
    return Found(0, left, top, right - left, bottom - top, (right - left) * (bottom - top), None)


def row_runs(starts: Any, lengths: Any, size: Size) -> Found:
    """As `runs`, for runs that go along the rows."""
    starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
    total = size[0] * size[1]
    if starts.size and (starts.min() < 0 or lengths.min() < 0 or (starts > total - lengths).any()):
        raise ItemError("unreadable", f"runs outside the picture {_by(size)}")
    mask = np.zeros(total, bool)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        mask[start : start + length] = True
    return bitmap(mask.reshape(size), (0, 0), size)


def measured(coded: Any) -> Found:
    """Area and tight box of a compressed RLE; ItemError `empty_mask` if no pixel is set."""
    area = int(coco_mask.area(coded))
    if not area:
        raise ItemError("empty_mask", "no pixel is inside it")
    x, y, width, height = (int(v) for v in coco_mask.toBbox(coded))
    return Found(0, x, y, width, height, area, bytes(coded["counts"]))


def _uncompressed(text: str) -> list[int]:
    """The counts of a compressed RLE: 5 bits a letter from '0', low first, each count from the third on as a difference
    to the one two before it.

    Source: pycocotools' maskApi, rleFrString.
    """
    counts: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        more = True
        while more:
            if at == len(text) or shift > 30:
                raise ValueError("counts end inside a number")
            letter = ord(text[at]) - 48
            if not 0 <= letter < 64:
                raise ValueError(f"'{text[at]}' in counts")
            value |= (letter & 31) << shift
            more = bool(letter & 32)
            shift, at = shift + 5, at + 1
        if letter & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def _touches(ring: list[float], size: Size) -> bool:
    x, y = ring[0::2], ring[1::2]
    return max(x) > 0 and max(y) > 0 and min(x) < size[1] and min(y) < size[0]


def _by(size: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in size)
