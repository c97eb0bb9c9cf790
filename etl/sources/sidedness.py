"""Organs named left or right that lie on the other side of the patient. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etl.kinds import Layer
from etl.labels.text import side, words

OTHER = {"left": "right", "l": "r", "lt": "rt", "right": "left", "r": "l", "rt": "lt"}
MARGIN = 0.15
"""Without its twin, an organ must be this share of the body's width beyond the middle to be called wrong."""
LARGEST_ANGLE = 30.0
"""Degrees between voxel axes and the patient's, above which left and right of the array say little."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the voxels of a raw label lie: their sum of indices along i (which runs to the right), and number."""

    total: float
    count: int

    @property
    def middle(self) -> float:
        """The mean index along i."""
        return self.total / self.count


def twin(raw: str, known: Iterable[str]) -> str | None:
    """The label of the other side, if there is one."""
    wanted = [OTHER.get(word, word) for word in words(raw)]
    return next((other for other in known if words(other) == wanted), None)


def places(layers: Sequence[Layer]) -> dict[str, Place]:
    """The place of each sided raw label of RAS+ layers (i, j, k)."""
    found: dict[str, Place] = {}
    for layer in layers:
        for value, raw in layer.names.items():
            if side(words(raw)) is None:
                continue
            profile = np.count_nonzero(layer.array == value, axis=(1, 2))
            count = int(profile.sum())
            if count:
                old = found.get(raw, Place(0.0, 0))
                total = float(profile @ np.arange(len(profile)))
                found[raw] = Place(old.total + total, old.count + count)
    return found


def wrong(found: dict[str, Place], volume: NDArray[np.generic]) -> Iterator[str]:
    """The sided raw labels of one RAS+ volume that lie on the wrong side of their twin, or else of the body."""
    for raw, place in found.items():
        sign = -1 if side(words(raw)) == "left" else 1
        other = twin(raw, found)
        if other is not None:
            if sign * (place.middle - found[other].middle) < 0:
                yield raw
            continue
        middle, width = _body(volume)
        if sign * (place.middle - middle) < -MARGIN * width:
            yield raw


def _body(volume: NDArray[np.generic]) -> tuple[float, float]:
    """(middle, width) of what is brighter than the mean, along i."""
    profile = np.count_nonzero(volume > volume.mean(), axis=(1, 2)).astype(float)
    inside = np.flatnonzero(profile > 0.05 * profile.max(initial=0))
    if not inside.size:
        return (len(profile) - 1) / 2, float(len(profile))
    return float(inside[0] + inside[-1]) / 2, float(inside[-1] - inside[0] + 1)
