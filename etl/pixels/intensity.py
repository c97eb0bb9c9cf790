"""Grey values to 8 bit, computed in float64."""

from typing import Any

import numpy as np
import numpy.typing as npt

from etl import kernels

Array = npt.NDArray[Any]
View = tuple[float, float] | tuple[Array, Array]
"""Lower and upper bound of a window; or a curve: rising values and their grey, 0 to 255."""


def window_bounds(center: float, width: float) -> tuple[float, float]:
    """Lower and upper bound of a window (DICOM PS3.3 C.11.2.1.3.2, LINEAR_EXACT)."""
    return center - width / 2, center + width / 2


def percentile_bounds(array: Array, low: float, high: float) -> tuple[float, float]:
    """Percentiles (linear) of the finite values above the minimum; (0, 0) where there are none.

    16-bit integers are counted instead of sorted, so that a volume is not copied.
    """
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        return _counted(array, low, high)
    values = array.ravel(order="K")
    if array.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size:
        values = values[values > values.min()]
    if values.size == 0:
        return 0.0, 0.0
    lower, upper = np.percentile(values.astype(np.float64), [low, high])
    return float(lower), float(upper)


def _counted(array: Array, low: float, high: float) -> tuple[float, float]:
    """The percentiles from a histogram of all values of the type."""
    limits = np.iinfo(array.dtype)
    first = int(limits.min)
    counts = kernels.histogram(array, first, int(limits.max) - first + 1)
    present = np.flatnonzero(counts)[1:]
    if present.size == 0:
        return 0.0, 0.0
    upto = np.cumsum(counts[present])
    return (_ranked(present + first, upto, low), _ranked(present + first, upto, high))


def _ranked(values: npt.NDArray[np.int64], upto: npt.NDArray[np.int64], percent: float) -> float:
    """The value at a percentile, linear between the two nearest ranks (as numpy.percentile)."""
    place = percent / 100 * (int(upto[-1]) - 1)
    below = int(np.floor(place))
    a = float(values[np.searchsorted(upto, below, side="right")])
    b = float(values[np.searchsorted(upto, min(below + 1, int(upto[-1]) - 1), side="right")])
    t = place - below
    return a + (b - a) * t if t < 0.5 else b - (b - a) * (1 - t)


def to_grey(plane: Array, view: View | None, *, invert: bool = False) -> npt.NDArray[np.uint8]:
    """A plane as 8 bit by its view, its own 8-bit values where that is None; ``invert``: then dark for bright."""
    if view is None:
        grey = np.ascontiguousarray(plane, dtype=np.uint8)
    elif isinstance(view[0], np.ndarray):
        grey = _along_curve(plane, (np.asarray(view[0]), np.asarray(view[1])))
    else:
        grey = to_uint8(plane, (view[0], float(view[1])))
    return 255 - grey if invert else grey


def _along_curve(plane: Array, curve: tuple[Array, Array]) -> npt.NDArray[np.uint8]:
    """Linear between the points of the curve; 0 where not finite."""
    grey = np.interp(plane.astype(np.float64), curve[0].astype(np.float64), curve[1].astype(np.float64))
    result: npt.NDArray[np.uint8] = np.rint(np.clip(np.where(np.isfinite(grey), grey, 0), 0, 255)).astype(np.uint8)
    return result


def to_uint8(plane: Array, bounds: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """rint(255 * clip((x - lower) / (upper - lower), 0, 1)); equal bounds and non-finite values give 0."""
    lower, upper = bounds
    if not upper > lower:
        return np.zeros(plane.shape, np.uint8)
    scaled = (plane.astype(np.float64) - lower) / (upper - lower)
    finite = np.isfinite(scaled)
    scaled = np.where(finite, np.clip(scaled, 0, 1), 0)
    return np.rint(255 * scaled).astype(np.uint8)
