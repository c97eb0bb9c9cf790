"""Region tables between the stages: columns, quarantine rows. Pure Arrow; names are dictionary-encoded."""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from etl.release.records import NAME
from etl.schemas import NAMES, REGIONS

# A region between the stages: what `slice` measured but for the run lengths, and the batch and row that hold those.
MEASURED = pa.schema(
    [f.with_type(NAME) if f.name in NAMES else f for f in REGIONS if f.name != "rle"]
    + [pa.field(name, pa.int32()) for name in ("batch", "row")]
)
QUARANTINE = pa.schema(
    [(name, pa.string()) for name in ("source", "case", "axis")] + [("slice_index", pa.int32())]
    + [(name, pa.string()) for name in ("raw_label", "stage", "reason", "detail")] + [("area_fraction", pa.float32())]
)  # fmt: skip
REJECTED = pa.schema([field for field in QUARANTINE if field.name != "source"])


def image_area(regions: pa.Table) -> pa.ChunkedArray:
    """width * height of each region's image, in pixels (float64)."""
    return pc.multiply(regions["width"].cast(pa.float64()), regions["height"].cast(pa.float64()))


def area_fraction(regions: pa.Table) -> pa.ChunkedArray:
    """Each region's share of its image's area (float64)."""
    return pc.divide(regions["area"].cast(pa.float64()), image_area(regions))


def by_name(column: pa.ChunkedArray, value: Callable[[str], str | None]) -> pa.Array:
    """The value of each name in a dictionary-encoded column."""
    names = column.combine_chunks()
    return pa.array([value(name) for name in names.dictionary.to_pylist()], pa.string()).take(names.indices)


def numbers_by_name(column: pa.ChunkedArray, numbers: Mapping[str, int]) -> NDArray[np.int64]:
    """The number of each name in a dictionary-encoded column; -1 for names that have none."""
    names = column.combine_chunks()
    table = np.array([numbers.get(name, -1) for name in names.dictionary.to_pylist()], np.int64)
    found: NDArray[np.int64] = table[names.indices.to_numpy()]
    return found


def reject(regions: pa.Table, stage: str, reason: str | pa.Array, detail: str | pa.Array) -> pa.Table:
    """Quarantine rows for these regions, in the columns of REJECTED."""
    values = {name: regions[name] for name in ("case", "axis", "slice_index", "raw_label")}
    values |= {"stage": stage, "reason": reason, "detail": detail, "area_fraction": area_fraction(regions)}
    columns = [pa.repeat(v, len(regions)) if isinstance(v, str) else v for v in values.values()]
    return pa.table(columns, list(values)).cast(REJECTED)
