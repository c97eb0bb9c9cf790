"""The books: what came in is what went on plus what is in quarantine, at each stage; and the quarantine files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from etl import store
from etl.errors import Failure
from etl.frames import QUARANTINE
from etl.records import Ledger
from etl.results import Result
from stages.plan import Options, Work
from stages.select import Selection

REJECTING = ("validate", "filter", "harmonize")
TEXT = ("source", "case", "axis", "raw_label", "stage", "reason", "detail")
SCHEMA = pa.schema(
    [(c, pa.string() if c in TEXT else pa.int32() if c == "slice_index" else pa.float32()) for c in QUARANTINE]
)
Book = dict[str, int]


def quarantine(work: Work, results: list[Result], selection: Selection, options: Options) -> pd.DataFrame:
    """All quarantine rows of a source, sorted; the columns of QUARANTINE."""
    rows = [*work.rejected, *(row for result in results for row in result.rejected)]
    tables = [pd.read_parquet(options.stage(stage, work.slug) / "rejected.parquet") for stage in REJECTING]
    frames = [pd.DataFrame(rows, columns=QUARANTINE[1:]), *tables, selection.rows]
    table = pd.concat([f for f in frames if len(f)] or [frames[0]])
    table = table.assign(source=work.slug).reindex(columns=QUARANTINE)
    return table.sort_values(QUARANTINE[1:-1], kind="stable", na_position="first", key=_as_text)


def _as_text(column: pd.Series) -> pd.Series:
    return column if column.name == "slice_index" else column.astype("string")


def write_quarantine(folder: Path, slug: str, table: pd.DataFrame) -> None:
    """`<slug>.parquet` in a folder."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    store.write_table(folder / f"{slug}.parquet", pa.Table.from_pylist(rows, SCHEMA))


class Books:
    """Adds up all sources. Each side of a book is counted where it arises, so that a leak shows."""

    def __init__(self) -> None:
        self.cases: dict[str, Book] = {}
        self.regions: dict[str, Book] = {}
        self.too_small: dict[str, Book] = {}

    def add(
        self, work: Work, results: list[Result], tables: dict[str, Book], selection: Selection, rows: pd.DataFrame,
        options: Options,
    ) -> None:
        """Enters one source; `rows` is its quarantine."""
        images = [image for result in results for image in result.images]
        refused = {row["case"] for result in results for row in result.rejected if row["stage"] == "decode"}
        unread = refused - {image["case"] for image in images}
        stage_rows = rows.groupby("stage").size()
        _enter(self.cases, "decode", {
            "in": len(work.rejected) + len(images) + len(unread),
            "out": sum(image["case"] not in refused for image in images),
            "quarantined": int(stage_rows.get("decode", 0)),
        })  # fmt: skip
        slices, background = sum(i["slices"] for i in images), sum(i["background"] for i in images)
        _enter(self.cases, "slice", {"in": slices, "out": slices - background, "quarantined": 0,
                                     "background": background})
        found, lost = tables["validate"]["in"], int((rows["stage"].eq("slice") & rows["raw_label"].notna()).sum())
        _enter(self.regions, "slice", {"in": found + lost, "out": found, "quarantined": lost})
        for stage, book in tables.items():
            _enter(self.regions, stage, book)
            if int(stage_rows.get(stage, 0)) != book["quarantined"]:
                raise Failure(f"{work.slug}: {stage} put {book['quarantined']} regions aside, the quarantine has "
                              f"{int(stage_rows.get(stage, 0))} of them")
        went_in = tables["bbox"]["out"]
        _enter(self.regions, "export", {"in": went_in, "out": 0, "quarantined": selection.regions})
        self._count_small(work, options)

    def _count_small(self, work: Work, options: Options) -> None:
        folder = options.stage("filter", work.slug)
        for what, name in (("dropped", "rejected"), ("kept", "regions")):
            raw = pd.read_parquet(folder / f"{name}.parquet", columns=["raw_label"])["raw_label"]
            for label, n in raw.value_counts().items():
                self.too_small.setdefault(str(label), {"kept": 0, "dropped": 0})[what] += int(n)

    def ledger(self, exported: int, extra: dict[str, Any]) -> Ledger:
        """The balanced books, given how many regions were written.

        Raises:
            Failure: a book does not balance.
        """
        self.regions.setdefault("export", {"in": 0, "out": 0, "quarantined": 0})["out"] = exported
        for stage, book in [*self.cases.items(), *self.regions.items()]:
            if book["in"] != book["out"] + book["quarantined"] + book.get("background", 0):
                raise Failure(f"the books of {stage} do not balance: {book}")
        small = dict(sorted(self.too_small.items()))
        return Ledger(books={"cases": self.cases, "regions": self.regions}, too_small=small, extra=extra)


def _enter(books: dict[str, Book], stage: str, book: Book) -> None:
    total = books.setdefault(stage, dict.fromkeys(book, 0))
    for side, n in book.items():
        total[side] += n
