"""Which images stay out of the dataset by the options of a build, with their rows and counts."""

from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from region_tables import measured

from etl.frames import REJECTED
from stages.plan import Options, Work
from stages.select import Selection, select, slices_of

KEPT = measured(
    {"case": "a", "slice_index": 0, "raw_label": "liver"},
    {"case": "a", "slice_index": 0, "raw_label": "spleen"},
    {"case": "a", "slice_index": 0, "raw_label": "kidney"},
    {"case": "a", "slice_index": 1},
    {"case": "a", "slice_index": 0, "axis": "coronal"},
    {"case": "a", "slice_index": 0, "axis": "coronal", "raw_label": "spleen"},
    {"case": "b", "slice_index": 0},
)
ALL = {("a", "axial", 0), ("a", "axial", 1), ("a", "coronal", 0), ("b", "axial", 0)}


def work(redistribution: str = "noncommercial") -> Work:
    """A source of three cases, of one of which nothing was kept."""
    terms = SimpleNamespace(name="CC-BY-NC", redistribution=redistribution)
    cases = [SimpleNamespace(case=name) for name in "abc"]
    return cast(Work, SimpleNamespace(manifest=SimpleNamespace(license=terms), cases=cases))


def chosen(**options: Any) -> Options:
    defaults = {"only_redistributable": False, "min_regions": 1}
    return cast(Options, SimpleNamespace(**(defaults | options)))


@pytest.mark.parametrize(("least", "left_out", "regions"), [
    (0, set(), 0),
    (1, set(), 0),
    (2, {("a", "axial", 1), ("b", "axial", 0)}, 2),  # an image of just two stays
    (3, ALL - {("a", "axial", 0)}, 4),
    (4, ALL, 7),
])  # fmt: skip
def test_images_of_few_regions(least: int, left_out: set[Any], regions: int) -> None:
    found = select(work(), KEPT, chosen(min_regions=least))
    assert found.left_out == left_out
    assert found.regions == regions
    rows = found.rows.to_pylist()
    assert {(r["case"], r["axis"], r["slice_index"]) for r in rows} == left_out
    assert len(rows) == len(left_out)
    for row in rows:
        assert (row["stage"], row["reason"]) == ("export", "low_quality")
        assert row["detail"] == f"fewer than {least} regions"
        assert (row["raw_label"], row["area_fraction"]) == (None, None)
    assert found.rows.schema == REJECTED


def test_a_source_that_may_not_be_passed_on_goes_as_a_whole() -> None:
    for terms in ("noncommercial", "forbidden", "unknown"):
        found = select(work(terms), KEPT, chosen(only_redistributable=True, min_regions=2))
        assert found.left_out == ALL
        assert found.regions == 7
        detail = f"licence CC-BY-NC: redistribution {terms}"
        expected = {"stage": "export", "reason": "not_redistributable", "detail": detail, "axis": None,
                    "slice_index": None, "raw_label": None, "area_fraction": None}  # fmt: skip
        assert found.rows.to_pylist() == [{"case": name, **expected} for name in "abc"]  # one a case, images or not


def test_a_source_that_may_be_passed_on_stays() -> None:
    assert select(work("allowed"), KEPT, chosen(only_redistributable=True)).left_out == set()
    assert select(work("allowed"), KEPT, chosen(only_redistributable=True, min_regions=4)).left_out == ALL
    assert select(work("forbidden"), KEPT, chosen()).left_out == set()


def test_nothing_kept_leaves_nothing_out() -> None:
    found = select(work(), measured(), chosen(min_regions=9))
    assert (found.left_out, found.regions, found.rows.num_rows) == (frozenset(), 0, 0)
    assert slices_of(measured()) == frozenset()


def test_the_images_that_regions_lie_on() -> None:
    assert slices_of(KEPT) == ALL
    assert Selection(pa.table({})) == Selection(pa.table({}), frozenset(), 0)
