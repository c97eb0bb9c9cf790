"""JSON composed from whole columns: each function gives a column of JSON text, equal to what orjson writes. Pure."""

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

CONTROL = r"[\x00-\x1f]"


def texts(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Strings in quotes, a null stays null; of a dictionary-encoded column each name is quoted once."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(column.type):
        return texts(column.dictionary).take(column.indices)
    if pc.any(pc.match_substring_regex(column, CONTROL)).as_py():
        return pa.array([v if v is None else orjson.dumps(v).decode() for v in column.to_pylist()], pa.string())
    escaped = pc.replace_substring(pc.replace_substring(column, "\\", "\\\\"), '"', '\\"')
    return joined('"', escaped, '"')


def integers(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Whole numbers."""
    return pa.chunked_array(column).combine_chunks().cast(pa.string())


def floats(values: npt.NDArray[np.float64]) -> pa.Array:
    """Finite numbers, each as the shortest text that reads back the same."""
    listed = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    return pa.array(listed.decode().split(",") if len(values) else [], pa.string())


def joined(*parts: str | pa.Array) -> pa.Array:
    """The parts of each row one after the other; a string is in every row."""
    return pc.binary_join_element_wise(*parts, "")


def arrays(*items: pa.Array) -> pa.Array:
    """A JSON array of these columns in each row."""
    between = [part for item in items for part in (",", item)]
    return joined("[", *between[1:], "]")


def lists(column: pa.ListArray) -> pa.Array:
    """A JSON array of each list; the items are JSON texts."""
    return joined("[", pc.binary_join(column, ","), "]")


def id_texts(column: pa.ListArray) -> pa.Array:
    """A JSON array of each list of whole numbers."""
    return lists(column.cast(pa.list_(pa.string())))


def objects(fields: dict[str, str | pa.Array]) -> pa.Array:
    """A JSON object in each row; a field is a column of JSON texts, or one JSON text for all rows."""
    parts: list[str | pa.Array] = []
    for name, value in fields.items():
        parts += [f"{',' if parts else '{'}{orjson.dumps(name).decode()}:", value]
    return joined(*parts, "}")


def together(rows: pa.Array, separator: str) -> pa.Buffer:
    """All rows as the bytes of one text."""
    return pc.binary_join(pa.ListArray.from_arrays([0, len(rows)], rows), separator)[0].as_buffer()
