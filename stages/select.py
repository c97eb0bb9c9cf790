"""Which images of a source do not go into the dataset, and why: quarantine rows of whole cases or images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from etl.frames import QUARANTINE
from stages.plan import Options, Work

Slice = tuple[str, str, int]  # case, axis, index


@dataclass(frozen=True, slots=True)
class Selection:
    """`left_out` are the images that are not exported, `rows` say why; `regions` counts theirs."""

    rows: pd.DataFrame
    left_out: frozenset[Slice] = field(default_factory=frozenset)
    regions: int = 0


def select(work: Work, kept: pd.DataFrame, options: Options) -> Selection:
    """What of the regions `kept` by the stages is left out of the dataset."""
    counts = kept.groupby(["case", "axis", "slice_index"], sort=True).size()
    if options.only_redistributable and work.manifest.license.redistribution != "allowed":
        terms = work.manifest.license
        detail = f"licence {terms.name}: redistribution {terms.redistribution}"
        cases = [(c.case, None, None, None, "export", "not_redistributable", detail, None) for c in work.cases]
        return Selection(_frame(cases), frozenset(counts.index), int(counts.sum()))
    few = counts[counts < options.min_regions]
    detail = f"fewer than {options.min_regions} regions"
    rows = [(c, a, int(i), None, "export", "low_quality", detail, None) for c, a, i in few.index]
    return Selection(_frame(rows), frozenset(few.index), int(few.sum()))


def _frame(rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=QUARANTINE[1:])
