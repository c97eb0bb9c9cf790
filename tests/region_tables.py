"""Region tables as the stages pass them on, from a few words a row."""

from typing import Any

import pyarrow as pa

from etl.frames import MEASURED

ROW: dict[str, Any] = {
    "case": "c1", "axis": "axial", "slice_index": 0, "raw_label": "liver", "n": 0, "defined": True,
    "height": 40, "width": 50, "x": 1, "y": 2, "w": 3, "h": 4, "area": 12, "batch": 0, "row": 0,
}  # fmt: skip


def measured(*rows: dict[str, Any]) -> pa.Table:
    """A table of MEASURED; each row says what differs from ROW."""
    return pa.Table.from_pylist([ROW | row for row in rows], MEASURED)
