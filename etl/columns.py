"""Arrow columns from NumPy arrays and plain Python values, where the process must start fast.

Arrow's own `pa.array` loads pandas, a quarter of a second, to ask whether what it is given is one of its Series.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from etl.errors import Failure

LARGEST = 2**31 - 1  # bytes of texts in one column


def numbers(values: NDArray[np.generic], kind: pa.DataType) -> pa.Array:
    """Numbers as a column of this kind."""
    buffer = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(buffer), [None, pa.py_buffer(buffer)])


def flags(values: NDArray[np.bool_]) -> pa.Array:
    """Booleans as a column."""
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])


def texts(values: Iterable[str | bytes | None], kind: pa.DataType) -> pa.Array:
    """Texts or bytes as a column of strings or binary values."""
    blobs = [value.encode() if isinstance(value, str) else value for value in values]
    there = np.array([blob is not None for blob in blobs], np.bool_)
    ends = np.cumsum([0, *(len(blob or b"") for blob in blobs)], dtype=np.int64)
    if ends[-1] > LARGEST:
        raise Failure(f"{ends[-1]} bytes are more than a column of texts holds")
    buffers = [None if there.all() else _bits(there), _buffer(ends), pa.py_buffer(b"".join(filter(None, blobs)))]
    return pa.Array.from_buffers(kind, len(blobs), buffers)


def labels(codes: NDArray[np.integer], names: Sequence[str]) -> pa.Array:
    """`names[code]` of each code as a column of strings."""
    words = texts(names, pa.string())
    return pa.DictionaryArray.from_arrays(numbers(codes, pa.int32()), words).dictionary_decode()


def lists(values: Sequence[Sequence[str]]) -> pa.Array:
    """Lists of texts as a column."""
    ends = np.cumsum([0, *map(len, values)])
    flat = texts((text for value in values for text in value), pa.string())
    return pa.ListArray.from_arrays(numbers(ends, pa.int32()), flat)


def _bits(values: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _buffer(ends: NDArray[np.int64]) -> pa.Buffer:
    return pa.py_buffer(ends.astype(np.int32))
