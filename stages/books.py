"""The books: what came in is what went on plus what is in quarantine, at each stage; and the quarantine files."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from etl import store
from etl.errors import Failure
from etl.frames import QUARANTINE, REJECTED
from etl.release.records import Ledger, Refused
from etl.results import Result
from stages.plan import Options, Work
from stages.select import Selection

REJECTING = ("validate", "filter", "harmonize")
Book = dict[str, int]


def quarantine(work: Work, results: list[Result], selection: Selection, options: Options) -> pa.Table:
    """All quarantine rows of a source, sorted; the columns of QUARANTINE."""
    rows = [*work.rejected, *(row for result in results for row in result.rejected)]
    if work.private:  # what a case's files are called stays in stages/
        rows = [row | {"detail": None} for row in rows]
    tables = [store.read_table(options.stage(stage, work.slug) / "rejected.parquet") for stage in REJECTING]
    table = pa.concat_tables([pa.Table.from_pylist(rows, REJECTED), *tables, selection.rows])
    table = table.add_column(0, "source", pa.repeat(work.slug, len(table))).cast(QUARANTINE)
    keys = [(name, "ascending", "at_start") for name in QUARANTINE.names[1:-1]]
    return table.take(pc.sort_indices(table, sort_keys=keys))


def counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value is in a column."""
    return {row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}


class Books:
    """Adds up all sources. Each side of a book is counted where it arises, so that a leak shows."""

    def __init__(self) -> None:
        self.cases: dict[str, Book] = {}
        self.regions: dict[str, Book] = {}
        self.too_small: dict[str, Book] = {}
        self.resampled: dict[str, int] = {}

    def add(
        self, work: Work, results: list[Result], tables: dict[str, Book], selection: Selection, rows: pa.Table,
        options: Options,
    ) -> None:
        """Enters one source; `rows` is its quarantine."""
        images = [image for result in results for image in result.images]
        refused = {row["case"] for result in results for row in result.rejected if row["stage"] == "decode"}
        unread = refused - {image["case"] for image in images}
        if resampled := sum(any(image["resampled"] for image in result.images) for result in results):
            self.resampled[work.slug] = resampled
        stage_rows = counts(rows["stage"])
        _enter(self.cases, "decode", {
            "in": len(work.rejected) + len(images) + len(unread),
            "out": sum(image["case"] not in refused for image in images),
            "quarantined": stage_rows.get("decode", 0),
        })  # fmt: skip
        slices, background = sum(i["slices"] for i in images), sum(i["background"] for i in images)
        _enter(self.cases, "slice", {"in": slices, "out": slices - background, "quarantined": 0,
                                     "background": background})
        objects = rows.filter(pc.is_valid(rows["raw_label"]))  # annotated things that became no region
        found, lost = tables["validate"]["in"], counts(objects["stage"]).get("slice", 0)
        _enter(self.regions, "slice", {"in": found + lost, "out": found, "quarantined": lost})
        for stage, book in tables.items():
            _enter(self.regions, stage, book)
            if stage_rows.get(stage, 0) != book["quarantined"]:
                raise Failure(f"{work.slug}: {stage} put {book['quarantined']} regions aside, the quarantine has "
                              f"{stage_rows.get(stage, 0)} of them")
        went_in = tables["bbox"]["out"]
        _enter(self.regions, "export", {"in": went_in, "out": 0, "quarantined": selection.regions})
        self._count_small(work, options)

    def _count_small(self, work: Work, options: Options) -> None:
        folder = options.stage("filter", work.slug)
        for what, name in (("dropped", "rejected"), ("kept", "regions")):
            raw = store.read_table(folder / f"{name}.parquet", ["raw_label"])["raw_label"]
            for label, n in counts(raw).items():
                self.too_small.setdefault(label, {"kept": 0, "dropped": 0})[what] += n

    def state(self) -> dict[str, Any]:
        """The books as plain values."""
        return {"cases": self.cases, "regions": self.regions, "too_small": self.too_small, "resampled": self.resampled}

    def join(self, state: dict[str, Any]) -> None:
        """Enters the books of another."""
        for mine, theirs in ((self.cases, state["cases"]), (self.regions, state["regions"])):
            for stage, book in theirs.items():
                _enter(mine, stage, book)
        for label, counts in state["too_small"].items():
            for what, n in counts.items():
                self.too_small.setdefault(label, {"kept": 0, "dropped": 0})[what] += n
        self.resampled |= state["resampled"]

    def ledger(self, exported: int, extra: dict[str, Any], refused: list[Refused]) -> Ledger:
        """The balanced books, given how many regions were written.

        Raises:
            Failure: a book does not balance.
        """
        self.regions.setdefault("export", {"in": 0, "out": 0, "quarantined": 0})["out"] = exported
        for stage, book in [*self.cases.items(), *self.regions.items()]:
            if book["in"] != book["out"] + book["quarantined"] + book.get("background", 0):
                raise Failure(f"the books of {stage} do not balance: {book}")
        small = dict(sorted(self.too_small.items()))
        extra = {**extra, "mask_grid_nearest": dict(sorted(self.resampled.items()))}
        return Ledger(books={"cases": self.cases, "regions": self.regions}, too_small=small, extra=extra,
                      refused=refused)


def _enter(books: dict[str, Book], stage: str, book: Book) -> None:
    total = books.setdefault(stage, dict.fromkeys(book, 0))
    for side, n in book.items():
        total[side] += n
