"""Large arrays worked on in parts, so that nothing of their size is made on the way. Pure NumPy."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

VALUES = 1 << 19  # in a part: few enough to stay near the processor
LARGEST = 2**53  # integers up to here are exact in float64


def parts(array: Array) -> Iterator[Array]:
    """The values of an array as flat pieces, in the order of memory where it is contiguous, else in C order."""
    flat = array.reshape(-1, order="F" if array.flags.f_contiguous else "C")
    for start in range(0, flat.size, VALUES):
        yield flat[start : start + VALUES]


def like(array: Array, flat: Array) -> Array:
    """Values in the order of `parts(array)` in the shape of the array."""
    return flat.reshape(array.shape, order="F" if array.flags.f_contiguous else "C")


def gathered(pieces: Iterable[Array], size: int) -> Array:
    """Flat pieces, `size` values in all, one after another in one array of a type that holds them all exactly."""
    whole: Array = np.empty(0, np.uint8)
    at = 0
    for piece in pieces:
        if at == 0:
            whole = np.empty(size, piece.dtype)
        elif not np.can_cast(piece.dtype, whole.dtype, "safe"):
            narrow, whole = whole, np.empty(size, np.promote_types(whole.dtype, piece.dtype))
            whole[:at] = narrow[:at]
        whole[at : at + piece.size] = piece
        at += piece.size
    return whole


def narrow(values: Array) -> Array:
    """Floats in the smallest type that has the same values: int16, int32, float32 or float64."""
    whole = _whole(values, 0.0)
    if whole is not None and np.abs(whole).max(initial=0) <= np.iinfo(np.int32).max:
        return whole.astype(np.int16 if _within(whole, np.int16) else np.int32)
    with np.errstate(over="ignore"):
        half = values.astype(np.float32)
    return half if np.array_equal(half, values, equal_nan=True) else values


def integers(values: Array, within: float) -> Array | None:
    """Values as integers in a small type, floats rounded; None if one is not finite or further than `within` from an
    integer. Integers of which one is negative keep their type."""
    if values.dtype.kind == "f":
        rounded = _whole(values, within)
        if rounded is None:
            return None
        values = rounded
    elif values.min(initial=0) < 0:
        return values
    kinds = (np.uint8, np.int16, np.int32, np.int64)
    kind = next((k for k in kinds if _within(values, k)), None)
    return values if kind is None else values.astype(kind)


def _whole(values: Array, within: float) -> Array | None:
    """Floats rounded, or None if that moves one by more than `within` or it is no integer of float64."""
    rounded = np.rint(values)
    with np.errstate(invalid="ignore"):  # of infinite ones
        near = np.abs(values - rounded).max(initial=0) <= within  # false where it is not a number
    return rounded if near and np.abs(rounded).max(initial=0) < LARGEST else None


def _within(values: Array, kind: type[np.signedinteger] | type[np.unsignedinteger]) -> bool:
    limits = np.iinfo(kind)
    return bool(limits.min <= values.min(initial=0) and values.max(initial=0) <= limits.max)


def among(array: Array, values: Collection[int]) -> NDArray[np.bool_]:
    """Where an integer array has one of these values, as numpy.isin."""
    wanted = np.asarray(sorted(values), np.int64)
    return like(array, gathered((np.isin(piece, wanted) for piece in parts(array)), array.size)).view(np.bool_)
