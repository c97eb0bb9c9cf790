"""The books of a source whose every step is known: what they say, how they add up, and that a leak is seen."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from region_tables import measured

from etl import store
from etl.errors import Failure
from etl.frames import QUARANTINE, REJECTED
from etl.release.records import Refused
from etl.results import Result
from stages import books
from stages.plan import Options, Work
from stages.select import Selection

EMPTY = Selection(REJECTED.empty_table())


def row(case: str, stage: str, reason: str, **more: Any) -> dict[str, Any]:
    """A quarantine row; what it does not name is null."""
    return dict.fromkeys(REJECTED.names) | {"case": case, "stage": stage, "reason": reason} | more


def image(case: str, slices: int, background: int, resampled: bool = False) -> dict[str, Any]:
    return {"case": case, "slices": slices, "background": background, "resampled": resampled}


def result(images: list[dict[str, Any]], *rejected: dict[str, Any]) -> Result:
    return cast(Result, SimpleNamespace(images=images, rejected=list(rejected)))


WORK = cast(Work, SimpleNamespace(slug="src", private=False, rejected=(row("m", "decode", "no_mask", detail="m.png"),)))
RESULTS = [
    result([image("a", 30, 20)]),
    # 4D: three times, of which the third cannot be read; one annotated object that is no region; an axis not cut
    result([image("b-1", 10, 4, resampled=True), image("b-2", 8, 0)], row("b-3", "decode", "unreadable"),
           row("b-1", "slice", "empty_mask", raw_label="liver"), row("b-1", "slice", "low_quality", axis="axial")),
    result([], row("d", "decode", "geometry_mismatch")),
    # an image that was cut before it was refused as a whole: it came in once
    result([image("e", 5, 5)], row("e", "decode", "identifying")),
]
TABLES = {
    "validate": {"in": 10, "out": 8, "quarantined": 2},
    "filter": {"in": 8, "out": 5, "quarantined": 3},
    "harmonize": {"in": 5, "out": 4, "quarantined": 1},
    "bbox": {"in": 4, "out": 4, "quarantined": 0},
}
KEPT = ("liver", "liver", "liver", "spleen", "stent")  # of filter
SMALL = ("liver", "spleen", "duct")


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """A folder with the tables of the stages."""
    made = Options(raw=tmp_path, out=tmp_path, label_maps=())
    put = {
        "validate": [row("a", "validate", "undefined_label", raw_label=v, axis="axial", slice_index=n)
                     for n, v in enumerate(("7", "9"))],
        "filter": [row("a", "filter", "too_small", raw_label=v, axis="axial", slice_index=2) for v in SMALL],
        "harmonize": [row("b-1", "harmonize", "rejected_label", raw_label="stent", axis="sagittal", slice_index=0)],
    }  # fmt: skip
    for stage, rows in put.items():
        store.write_table(made.stage(stage, "src") / "rejected.parquet", pa.Table.from_pylist(rows, REJECTED))
    store.write_table(made.stage("filter", "src") / "regions.parquet", measured(*({"raw_label": v} for v in KEPT)))
    return made


def selection(regions: int) -> Selection:
    rows = [row("a", "export", "low_quality", axis="axial", slice_index=4)]
    return Selection(pa.Table.from_pylist(rows, REJECTED), frozenset({("a", "axial", 4)}), regions)


def entered(options: Options, picked: Selection = EMPTY) -> books.Books:
    made = books.Books()
    made.add(WORK, RESULTS, TABLES, picked, books.quarantine(WORK, RESULTS, picked, options), options)
    return made


def test_the_quarantine_holds_every_row_sorted(options: Options) -> None:
    table = books.quarantine(WORK, RESULTS, selection(1), options)
    assert table.schema == QUARANTINE
    assert set(table["source"].to_pylist()) == {"src"}
    columns = ("case", "axis", "slice_index", "raw_label", "reason")
    rows = [tuple(r[name] for name in columns) for r in table.to_pylist()]
    assert rows == [
        ("a", "axial", 0, "7", "undefined_label"),
        ("a", "axial", 1, "9", "undefined_label"),
        ("a", "axial", 2, "duct", "too_small"),
        ("a", "axial", 2, "liver", "too_small"),
        ("a", "axial", 2, "spleen", "too_small"),
        ("a", "axial", 4, None, "low_quality"),
        ("b-1", None, None, "liver", "empty_mask"),
        ("b-1", "axial", None, None, "low_quality"),
        ("b-1", "sagittal", 0, "stent", "rejected_label"),
        ("b-3", None, None, None, "unreadable"),
        ("d", None, None, None, "geometry_mismatch"),
        ("e", None, None, None, "identifying"),
        ("m", None, None, None, "no_mask"),
    ]
    assert next(r for r in table.to_pylist() if r["case"] == "m")["detail"] == "m.png"


def test_rows_are_sorted_by_every_column_nulls_first(options: Options) -> None:
    keys = [name for name in QUARANTINE.names if name not in ("source", "area_fraction")]
    values: list[dict[str, Any]] = [{"stage": "decode", "reason": "r", "case": "c"}]
    for name in keys:  # for each column a row that differs in it alone, upwards and as null
        value: Any = 7 if name == "slice_index" else "zz"
        values.append(values[0] | {name: value})
    rows = [row(**v) for v in reversed(values)]
    work = cast(Work, SimpleNamespace(slug="src", private=False, rejected=tuple(rows)))
    for stage in books.REJECTING:
        store.write_table(options.stage(stage, "src") / "rejected.parquet", REJECTED.empty_table())
    found = books.quarantine(work, [], EMPTY, options).select(keys).to_pylist()
    order = sorted(found, key=lambda r: [(r[k] is not None, r[k] if r[k] is not None else "") for k in keys])
    assert found == order
    assert len(found) == len(keys) + 1


def test_a_private_source_does_not_tell_what_its_files_are_called(options: Options) -> None:
    private = cast(Work, SimpleNamespace(slug="src", private=True, rejected=WORK.rejected))
    named = [result([], row("x", "decode", "unreadable", detail="anna.png: cut off"))]
    table = books.quarantine(private, named, selection(1), options)
    files = [r["detail"] for r in table.to_pylist() if r["stage"] == "decode"]
    assert files == [None, None]
    told = books.quarantine(WORK, named, selection(1), options)
    assert {r["detail"] for r in told.to_pylist()} >= {"m.png", "anna.png: cut off"}


def test_counts() -> None:
    column = pa.chunked_array([pa.array(["a", "b"]), pa.array(["a", "a"])])
    assert books.counts(column) == {"a": 3, "b": 1}
    assert books.counts(column.dictionary_encode()) == {"a": 3, "b": 1}
    assert books.counts(pa.chunked_array([], pa.string())) == {}


def test_cases_come_in_once_and_go_out_or_aside(options: Options) -> None:
    made = entered(options)
    assert made.cases == {
        # in: m (no image), a, b-1, b-2, e, and b-3 and d, of which nothing was read; out: a, b-1, b-2
        "decode": {"in": 7, "out": 3, "quarantined": 4},
        # 53 slices, 29 of them without an annotation
        "slice": {"in": 53, "out": 24, "quarantined": 0, "background": 29},
    }
    assert made.resampled == {"src": 1}


def test_regions_of_each_stage(options: Options) -> None:
    assert entered(options).regions == {
        "slice": {"in": 11, "out": 10, "quarantined": 1},  # the object that became no region
        **TABLES,
        "export": {"in": 4, "out": 0, "quarantined": 0},
    }
    assert entered(options, selection(3)).regions["export"] == {"in": 4, "out": 0, "quarantined": 3}


def test_the_small_ones_by_raw_label(options: Options) -> None:
    assert entered(options).too_small == {
        "liver": {"kept": 3, "dropped": 1}, "spleen": {"kept": 1, "dropped": 1}, "duct": {"kept": 0, "dropped": 1},
        "stent": {"kept": 1, "dropped": 0},
    }  # fmt: skip


def test_two_sources_add_up(options: Options) -> None:
    made = entered(options)
    quarantine = books.quarantine(WORK, RESULTS, EMPTY, options)
    made.add(WORK, RESULTS, TABLES, EMPTY, quarantine, options)
    twice = entered(options)
    twice.join(copy.deepcopy(twice.state()))
    assert made.cases == twice.cases
    assert made.regions == twice.regions
    assert made.too_small == twice.too_small
    assert made.cases["slice"] == {"in": 106, "out": 48, "quarantined": 0, "background": 58}
    assert made.regions["filter"] == {"in": 16, "out": 10, "quarantined": 6}
    assert made.too_small["liver"] == {"kept": 6, "dropped": 2}


def test_books_that_join_empty_ones_are_the_same(options: Options) -> None:
    made, empty = entered(options), books.Books()
    state = copy.deepcopy(made.state())
    empty.join(state)
    made.join(books.Books().state())
    assert empty.state() == made.state() == entered(options).state() == state
    other = {**books.Books().state(), "resampled": {"zzz": 5}}
    made.join(other)
    assert made.resampled == {"src": 1, "zzz": 5}
    assert set(state) == {"cases", "regions", "too_small", "resampled"}


def test_the_ledger_of_balanced_books(options: Options) -> None:
    made = entered(options, selection(3))
    picture = Refused("duplicate", "k", "d", b"")
    ledger = made.ledger(1, {"flags": 2}, [picture])
    assert ledger.books == {"cases": made.cases, "regions": made.regions}
    assert ledger.books["regions"]["export"] == {"in": 4, "out": 1, "quarantined": 3}
    assert list(ledger.too_small) == ["duct", "liver", "spleen", "stent"]  # sorted: the same bytes in every run
    assert ledger.too_small["spleen"] == {"kept": 1, "dropped": 1}
    assert ledger.extra == {"flags": 2, "mask_grid_nearest": {"src": 1}}
    assert ledger.refused == [picture]


def test_sources_with_masks_on_another_grid_are_sorted() -> None:
    made = books.Books()
    made.resampled = {"b": 1, "a": 2}
    assert list(made.ledger(0, {}, []).extra["mask_grid_nearest"]) == ["a", "b"]


def test_no_source_at_all_balances() -> None:
    ledger = books.Books().ledger(0, {}, [])
    assert ledger.books == {"cases": {}, "regions": {"export": {"in": 0, "out": 0, "quarantined": 0}}}
    with pytest.raises(Failure, match="the books of export do not balance"):
        books.Books().ledger(1, {}, [])


SIDES = [("cases", "slice", "background")] + [
    (kind, stage, side)
    for kind, stages in (("cases", ("decode", "slice")), ("regions", ("slice", *TABLES)))
    for stage in stages
    for side in ("in", "out", "quarantined")
]


@pytest.mark.parametrize(("kind", "stage", "side"), SIDES)
def test_one_that_is_lost_or_too_many_is_seen(options: Options, kind: str, stage: str, side: str) -> None:
    made = entered(options)
    made.ledger(4, {}, [])
    book = getattr(made, kind)[stage]
    for by in (1, -2):
        book[side] += by
        with pytest.raises(Failure, match=f"the books of {stage} do not balance: .*'in'"):
            made.ledger(4, {}, [])


@pytest.mark.parametrize("exported", [0, 3, 5])
def test_regions_that_were_not_written_are_seen(options: Options, exported: int) -> None:
    with pytest.raises(Failure, match="export do not balance"):
        entered(options).ledger(exported, {}, [])


@pytest.mark.parametrize("stage", ["validate", "filter", "harmonize", "bbox"])
@pytest.mark.parametrize("by", [-1, 1])
def test_a_stage_that_counts_otherwise_than_the_quarantine_is_seen(options: Options, stage: str, by: int) -> None:
    tables = copy.deepcopy(TABLES)
    tables[stage]["quarantined"] += by
    rows = books.quarantine(WORK, RESULTS, EMPTY, options)
    there = TABLES[stage]["quarantined"]
    with pytest.raises(Failure, match=f"src: {stage} put {there + by} regions aside, the quarantine has {there} of"):
        books.Books().add(WORK, RESULTS, tables, EMPTY, rows, options)


def test_a_source_without_cases(options: Options) -> None:
    made, work = books.Books(), cast(Work, SimpleNamespace(slug="src", private=False, rejected=()))
    for stage in books.REJECTING:
        store.write_table(options.stage(stage, "src") / "rejected.parquet", REJECTED.empty_table())
    store.write_table(options.stage("filter", "src") / "regions.parquet", measured())
    nothing = {stage: dict.fromkeys(book, 0) for stage, book in TABLES.items()}
    rows = books.quarantine(work, [], EMPTY, options)
    made.add(work, [], nothing, EMPTY, rows, options)
    assert made.cases["decode"] == {"in": 0, "out": 0, "quarantined": 0}
    assert made.regions["slice"] == {"in": 0, "out": 0, "quarantined": 0}
    assert made.resampled == {}
    made.ledger(0, {}, [])
