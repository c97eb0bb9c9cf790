"""Which images of a source do not go into the dataset, and why: quarantine rows of whole cases or images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from etl.frames import REJECTED
from stages.plan import Options, Work

Slice = tuple[str, str, int]  # case, axis, index
SLICE = ["case", "axis", "slice_index"]


@dataclass(frozen=True, slots=True)
class Selection:
    """`left_out` are the images that are not exported, `rows` (of REJECTED) say why; `regions` counts theirs."""

    rows: pa.Table
    left_out: frozenset[Slice] = field(default_factory=frozenset)
    regions: int = 0


def select(work: Work, kept: pa.Table, options: Options) -> Selection:
    """What of the regions `kept` by the stages is left out of the dataset."""
    slices = kept.group_by(SLICE).aggregate([([], "count_all")])
    if options.only_redistributable and work.manifest.license.redistribution != "allowed":
        terms = work.manifest.license
        detail = f"licence {terms.name}: redistribution {terms.redistribution}"
        rows = _rows([{"case": c.case} for c in work.cases], "not_redistributable", detail)
        return Selection(rows, _keys(slices), len(kept))
    few = slices.filter(pc.less(slices["count_all"], options.min_regions))
    rows = _rows(few.select(SLICE).to_pylist(), "low_quality", f"fewer than {options.min_regions} regions")
    return Selection(rows, _keys(few), pc.sum(few["count_all"]).as_py() or 0)


def slices_of(regions: pa.Table) -> frozenset[Slice]:
    """The images that these regions lie on."""
    return _keys(regions.group_by(SLICE).aggregate([]))


def _keys(slices: pa.Table) -> frozenset[Slice]:
    return frozenset(zip(*(slices[name].to_pylist() for name in SLICE), strict=True))


def _rows(at: list[dict[str, Any]], reason: str, detail: str) -> pa.Table:
    why = {"stage": "export", "reason": reason, "detail": detail}
    return pa.Table.from_pylist([row | why for row in at], REJECTED)
