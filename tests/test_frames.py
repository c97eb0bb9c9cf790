"""What stages do with region tables: areas, names, quarantine rows; and the stages that are nothing but that."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from region_tables import measured

from etl import frames
from etl.pixels.regions import least_area
from stages import bbox, validate
from stages import filter as filtering

ROWS = (
    {"raw_label": "liver", "area": 500, "height": 40, "width": 50},
    {"raw_label": "9", "area": 1, "height": 7, "width": 3, "case": "c2", "axis": "native", "slice_index": 5},
    {"raw_label": "spleen", "area": 2000, "height": 40, "width": 50, "slice_index": 3},
)


def test_areas_and_shares() -> None:
    table = measured(*ROWS)
    assert frames.image_area(table).to_pylist() == [2000, 21, 2000]
    assert frames.area_fraction(table).to_pylist() == [0.25, 1 / 21, 1]
    assert frames.area_fraction(table).type == frames.image_area(table).type == pa.float64()


def test_areas_of_large_images_do_not_overflow() -> None:
    table = measured({"height": 100_000, "width": 90_000, "area": 9 * 10**9})
    assert frames.image_area(table).to_pylist() == [9e9]
    assert frames.area_fraction(table).to_pylist() == [1]


def test_a_value_for_each_name() -> None:
    column = pa.chunked_array([pa.array(["a", "b", "a"]).dictionary_encode(), pa.array(["b"]).dictionary_encode()])
    found = frames.by_name(column.unify_dictionaries(), {"a": "x", "b": None}.get)
    assert found.to_pylist() == ["x", None, "x", None]
    assert found.type == pa.string()
    asked: list[str] = []
    frames.by_name(column.unify_dictionaries(), lambda name: asked.append(name))  # type: ignore[func-returns-value]
    assert asked == ["a", "b"]  # each name once


def test_quarantine_rows() -> None:
    details = pa.array(["one", "two", "three"])
    rows = frames.reject(measured(*ROWS), "filter", "too_small", details)
    assert rows.schema == frames.REJECTED
    assert rows.to_pylist()[1] == {
        "case": "c2", "axis": "native", "slice_index": 5, "raw_label": "9", "stage": "filter", "reason": "too_small",
        "detail": "two", "area_fraction": pytest.approx(1 / 21),
    }  # fmt: skip
    assert rows["detail"].to_pylist() == ["one", "two", "three"]
    assert frames.reject(measured(), "filter", "too_small", "none").num_rows == 0
    reasons = frames.reject(measured(*ROWS), "harmonize", pa.array(["a", "b", "c"]), "same")
    assert reasons["reason"].to_pylist() == ["a", "b", "c"]
    assert reasons["detail"].to_pylist() == ["same"] * 3
    assert reasons["stage"].to_pylist() == ["harmonize"] * 3


def test_the_columns_of_the_contract() -> None:
    assert frames.QUARANTINE.names == [
        "source", "case", "axis", "slice_index", "raw_label", "stage", "reason", "detail", "area_fraction",
    ]  # fmt: skip
    kinds = {str(field.type) for field in frames.QUARANTINE if field.name not in ("slice_index", "area_fraction")}
    assert kinds == {"string"}
    assert (frames.QUARANTINE.field("slice_index").type, frames.QUARANTINE.field("area_fraction").type) == (
        pa.int32(), pa.float32(),
    )  # fmt: skip
    assert frames.REJECTED.names == frames.QUARANTINE.names[1:]


def test_a_region_between_the_stages() -> None:
    assert frames.MEASURED.names == [
        "case", "axis", "slice_index", "raw_label", "n", "defined", "height", "width", "x", "y", "w", "h", "area",
        "batch", "row",
    ]  # fmt: skip
    encoded = [field.name for field in frames.MEASURED if pa.types.is_dictionary(field.type)]
    assert encoded == ["case", "axis", "raw_label"]
    assert {frames.MEASURED.field(name).type for name in ("batch", "row")} == {pa.int32()}


def test_validate_puts_undefined_values_aside() -> None:
    table = measured(ROWS[0], ROWS[1] | {"defined": False}, ROWS[2], {"raw_label": "-3", "defined": False})
    kept, rejected = validate.process(table)
    assert kept.schema == table.schema
    assert kept["raw_label"].to_pylist() == ["liver", "spleen"]
    assert [(r["raw_label"], r["stage"], r["reason"], r["detail"]) for r in rejected.to_pylist()] == [
        ("9", "validate", "undefined_label", "value 9 is not among the labels of the manifest"),
        ("-3", "validate", "undefined_label", "value -3 is not among the labels of the manifest"),
    ]
    assert rejected.schema == frames.REJECTED


@pytest.mark.parametrize("defined", [[], [True, True], [False]])
def test_validate_loses_nothing(defined: list[bool]) -> None:
    kept, rejected = validate.process(measured(*({"defined": d} for d in defined)))
    assert (len(kept), len(rejected)) == (defined.count(True), defined.count(False))


@pytest.mark.parametrize(("area", "min_area", "kept"), [
    (30, 0.015, True),  # 0.015 of 40 x 50: just enough
    (29, 0.015, False),
    (31, 0.015, True),
    (1, 0, True),  # a share of 0 keeps all
    (0, 0, True),
    (2000, 1, True),  # the whole image
    (1999, 1, False),
    (2, 0.001, True), (1, 0.001, False),
])  # fmt: skip
def test_filter_keeps_what_has_at_least_the_share(area: int, min_area: float, kept: bool) -> None:
    large, small = filtering.process(measured({"area": area}), min_area)
    assert (len(large), len(small)) == (kept, not kept)


def test_filter_tells_why_and_keeps_the_order() -> None:
    areas = (9, 400, 10, 800, 20)
    large, small = filtering.process(measured(*({"area": a, "n": n} for n, a in enumerate(areas))), 0.01)
    assert large["n"].to_pylist() == [1, 3, 4]
    assert [(r["stage"], r["reason"], r["detail"]) for r in small.to_pylist()] == [
        ("filter", "too_small", "under 0.01 of the image area")
    ] * 2
    assert small["area_fraction"].to_pylist() == pytest.approx([9 / 2000, 10 / 2000])


@given(st.integers(1, 600), st.integers(1, 600), st.sampled_from([0.015, 0.001, 0.1, 1 / 3, 0.0499]),
       st.integers(-1, 1))  # fmt: skip
def test_filter_decides_as_the_least_area(height: int, width: int, share: float, off: int) -> None:
    """The encoder asks `least_area`, the filter its own columns: both to the last bit alike."""
    area = int(np.ceil(share * width * height)) + off
    large, _ = filtering.process(measured({"height": height, "width": width, "area": area}), share)
    assert len(large) == (area >= least_area(share, (height, width)))


def test_bbox_adds_the_share_and_the_phrase() -> None:
    table = measured(*ROWS).append_column("label", pa.array(["Liver", "bone", "spleen"]))
    found = bbox.process(table)
    assert found.column_names == [*table.column_names, "area_fraction", "phrase"]
    assert found["area_fraction"].to_pylist() == [0.25, 1 / 21, 1]
    assert found["phrase"].to_pylist() == ["Liver", "bone", "spleen"]
    assert found.select(table.column_names) == table
