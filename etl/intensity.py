"""Grey values to 8 bit, computed in float64. Pure NumPy."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


def window_bounds(center: float, width: float) -> tuple[float, float]:
    """Lower and upper bound of a window (DICOM PS3.3 C.11.2.1.3.2, LINEAR_EXACT)."""
    return center - width / 2, center + width / 2


def percentile_bounds(array: Array, low: float, high: float) -> tuple[float, float]:
    """Percentiles (linear) of the finite values above the minimum; (0, 0) where there are none."""
    values = array.ravel(order="K")
    if np.issubdtype(array.dtype, np.floating):
        values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 0.0
    values = values[values > values.min()]
    if values.size == 0:
        return 0.0, 0.0
    lower, upper = np.percentile(values.astype(np.float64), [low, high])
    return float(lower), float(upper)


def to_uint8(plane: Array, bounds: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """rint(255 * clip((x - lower) / (upper - lower), 0, 1)); equal bounds and non-finite values give 0."""
    lower, upper = bounds
    if not upper > lower:
        return np.zeros(plane.shape, np.uint8)
    scaled = (plane.astype(np.float64) - lower) / (upper - lower)
    finite = np.isfinite(scaled)
    scaled = np.where(finite, np.clip(scaled, 0, 1), 0)
    return np.rint(255 * scaled).astype(np.uint8)
