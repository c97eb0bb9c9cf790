"""Planes to volumes: which belong together, in which order, and whether they fill an even grid.

Order is by position along the slice normal, never by instance number or file name. Nothing is interpolated:
what does not lie evenly is refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.dicom.header import Frame
from etl.errors import ItemError

SAME_PLACE = 0.01
"""Planes nearer than this along their normal, in mm, lie at one place."""
UNEVEN_SHARE, UNEVEN_MM = 0.05, 0.05
"""A slice may be off its even place by this share of the slice step, or by this many mm where that is more."""
KINDS = ("stack", "echo", "component", "contrast")
"""Marks of different images of one place: each a volume of its own."""
TIMES = ("time", "acquisition", "trigger", "diffusion", "moment")
"""Marks of one image taken again and again: a volume with a fourth axis."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Stack:
    """The planes of a volume by time and place, and its affine from (column, row, slice) to RAS+ mm.

    ``tilt`` is the angle in degrees between the slice step and the normal where it shifts a slice by more
    than half a pixel over the whole stack, else 0.
    """

    planes: tuple[tuple[Frame, ...], ...]
    affine: NDArray[np.float64]
    tilt: float


@dataclass(frozen=True, slots=True)
class Refused:
    """Planes that make no volume, and why."""

    title: str
    error: ItemError


def stacks(frames: Iterable[Frame]) -> Iterator[Stack | Refused]:
    """The volumes of these planes; all must have a position, directions and a spacing."""
    groups: dict[Any, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[_alike(frame)].append(frame)
    for group in groups.values():
        group.sort(key=lambda frame: (frame.header.path.name, str(frame.header.path), frame.index))
        for part in _apart(group, KINDS):
            try:
                yield _stack(_repeats(part))
            except ItemError as error:
                yield Refused(title(part), error)


def title(frames: Sequence[Frame]) -> str:
    """How a set of planes is called in quarantine: number, size, first file."""
    header = frames[0].header
    files = len({frame.header.path for frame in frames})
    name = min(frame.header.path.name for frame in frames)
    one = "image" if len(frames) == 1 else "images"
    more = f" and {files - 1} more files" if files > 1 else ""
    return f"{len(frames)} {one} of {header.columns}x{header.rows} in {name}{more}"


def _alike(frame: Frame) -> tuple[Any, ...]:
    """Planes of one volume agree in series, size, directions and spacing."""
    header = frame.header
    turned = tuple(round(v, 3) + 0.0 for v in (*(frame.along or ()), *(frame.down or ())))
    spacing = tuple(round(v, 4) for v in frame.spacing or ())
    return (*header.series, header.rows, header.columns, turned, spacing)


def _apart(frames: list[Frame], kinds: Sequence[str]) -> Iterator[list[Frame]]:
    """Images of different kinds at the same places (echoes, phase and magnitude) are taken apart."""
    crowd = _crowd(frames)
    for at, kind in enumerate(kinds):
        if crowd == 1:
            break
        parts = _by_mark(frames, kind)
        if len(parts) > 1 and max(map(_crowd, parts)) < crowd:
            for part in parts:
                yield from _apart(part, kinds[at + 1 :])
            return
    yield frames


def _by_mark(frames: Sequence[Frame], mark: str) -> list[list[Frame]]:
    parts: dict[Any, list[Frame]] = defaultdict(list)
    for frame in frames:
        parts[frame.marks[mark]].append(frame)
    return [parts[value] for value in sorted(parts, key=lambda v: (v is None, str(type(v)), v if v is not None else 0))]


def _places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The planes by place along the normal of the first, each place's planes together."""
    normal = frames[0].normal
    depth = {id(f): float(np.array(f.position) @ normal) for f in frames}
    places: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda f: depth[id(f)]):
        if places and depth[id(frame)] - depth[id(places[-1][0])] < SAME_PLACE:
            places[-1].append(frame)
        else:
            places.append([frame])
    return places


def _crowd(frames: Sequence[Frame]) -> int:
    """The largest number of planes at one place."""
    return max(map(len, _places(frames)))


def _repeats(frames: list[Frame]) -> list[list[Frame]]:
    """The planes of each time, by place; one time for most series."""
    _refuse_copies(frames)
    places = _places(frames)
    count = len(places[0])
    if any(len(place) != count for place in places):
        raise ItemError("incomplete_volume", _unequal(places))
    if count == 1:
        return [[place[0] for place in places]]
    for mark in TIMES:
        parts = _by_mark(frames, mark)
        if len(parts) == count and all(_crowd(part) == 1 and len(part) == len(places) for part in parts):
            return [[place[0] for place in _places(part)] for part in parts]
    if len({frame.marks["number"] for frame in frames}) == len(frames):
        turns = [sorted(place, key=lambda frame: frame.marks["number"] or 0) for place in places]
        return [[turn[time] for turn in turns] for time in range(count)]
    raise ItemError("incomplete_volume", f"{count} images at each place and nothing that tells them apart")


def _refuse_copies(frames: Sequence[Frame]) -> None:
    seen: dict[tuple[str, int], str] = {}
    for frame in frames:
        name = frame.header.uid
        here = frame.header.path.name
        if name and seen.setdefault((name, frame.index), here) != here:
            raise ItemError("incomplete_volume", f"the same image twice: {seen[name, frame.index]} and {here}")


def _unequal(places: list[list[Frame]]) -> str:
    usual = Counter(map(len, places)).most_common(1)[0][0]
    odd = next(place for place in places if len(place) != usual)
    names = ", ".join(frame.header.path.name for frame in odd[:3])
    return f"{len(odd)} images at one place ({names}), {usual} at most others"


def _stack(times: list[list[Frame]]) -> Stack:
    first = times[0]
    points = np.array([frame.position for frame in first])
    frame = first[0]
    assert frame.spacing is not None
    if len(first) > 1:
        step = (points[-1] - points[0]) / (len(first) - 1)
        _require_even(first, points, step)
    else:
        step = frame.normal * (frame.thickness if frame.thickness and frame.thickness > 0 else 1.0)
    affine = np.eye(4)
    affine[:3, 0] = np.array(frame.along) * frame.spacing[1]
    affine[:3, 1] = np.array(frame.down) * frame.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = points[0]
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ItemError("geometry_mismatch", "its slices do not lie one behind the other")
    planes = tuple(tuple(row) for row in times)
    return Stack(planes, LPS_TO_RAS @ affine, _tilt(frame, step, len(first)))


def _require_even(frames: Sequence[Frame], points: NDArray[np.float64], step: NDArray[np.float64]) -> None:
    even = points[0] + np.arange(len(points))[:, None] * step
    off = float(np.linalg.norm(points - even, axis=1).max())
    if off <= max(UNEVEN_SHARE * float(np.linalg.norm(step)), UNEVEN_MM):
        return
    gaps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    usual = float(np.median(gaps))
    worst = int(np.abs(gaps - usual).argmax())
    a, b = frames[worst].header.path.name, frames[worst + 1].header.path.name
    where = f"{gaps[worst]:.3g} mm between {a} and {b}, {usual:.3g} mm between most slices"
    times = gaps[worst] / usual
    missing = round(times) - 1 if abs(times - round(times)) < 0.1 else 0
    what = f"{missing} slices missing: " if missing > 1 else "a slice is missing: " if missing else "uneven slices: "
    raise ItemError("incomplete_volume", what + where)


def _tilt(frame: Frame, step: NDArray[np.float64], count: int) -> float:
    along = float(step @ frame.normal)
    aside = float(np.linalg.norm(step - along * frame.normal))
    assert frame.spacing is not None
    if aside * (count - 1) <= min(frame.spacing) / 2:
        return 0.0
    return float(np.degrees(np.arctan2(aside, abs(along))))
