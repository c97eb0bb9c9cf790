"""The explorer's pure parts: filters, shapes, points on other axes, decisions of a reviewer."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from starlette.datastructures import Headers

from etl.errors import UsageError
from etl.explore import filters, images, pages
from etl.explore.filters import Filter
from etl.explore.review import Decision, Desk, Entry, decided
from etl.explore.security import refused
from etl.explore.site import share
from etl.labels import file as label_file
from etl.labels.maps import Mapping, load_label_map, load_ontology
from etl.pixels import geometry

BUNDLED = Path(__file__).parents[1] / "label_maps"
WORDS = st.text(st.characters(exclude_categories=["C"]), min_size=1).filter(lambda t: t.strip() == t)


@given(
    st.builds(
        Filter, label=st.lists(WORDS, unique=True).map(tuple), source=st.lists(WORDS, unique=True).map(tuple),
        area_from=st.none() | st.integers(0, 100).map(float), regions_to=st.none() | st.integers(0, 99),
        text=st.just("") | WORDS, order=st.sampled_from(filters.ORDERS), show=st.sampled_from(filters.SHOWS),
    )
)  # fmt: skip
def test_an_address_holds_the_whole_filter(f: Filter) -> None:
    assert filters.parse(parse_qsl(f.query())) == f
    for name, value, without in f.chosen:
        assert without != f
        assert name in ("area_from", "regions_to", "text") or without.toggled(name, value).chosen


@pytest.mark.parametrize("pair", [("area_from", "x"), ("area_from", "nan"), ("regions_to", "-1"), ("order", "area"),
                                  ("regions_from", "1e3"), ("show", "<b>")])  # fmt: skip
def test_a_wrong_filter_is_told(pair: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=pair[0]):
        filters.parse([pair])


def drawn(path: str, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    mask = np.zeros(shape, np.uint8)
    for x, y, n in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path):
        mask[int(y), int(x) : int(x) + int(n)] += 1
    return mask


MASKS = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1))


@given(MASKS)
def test_a_mask_is_drawn_pixel_for_pixel(mask: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(drawn(images.fill(mask), mask.shape), mask)
    framed, edges = np.pad(mask, 1), images.edge(mask)
    borders = sum(int((np.diff(framed.astype(int), axis=a) != 0).sum()) for a in (0, 1))
    level = sum(int(b) - int(a) for a, b in re.findall(r"M(\d+) \d+H(\d+)", edges))
    assert level + sum(int(b) - int(a) for a, b in re.findall(r"M\d+ (\d+)V(\d+)", edges)) == borders


@given(st.sampled_from(geometry.AXES), st.tuples(*[st.integers(1, 20)] * 3), st.data())
def test_a_voxel_is_found_again_on_every_axis(axis: str, shape: tuple[int, int, int], data: st.DataObject) -> None:
    count, height, width = geometry.plane_size(shape, axis)
    index, row, column = (data.draw(st.integers(0, n - 1)) for n in (count, height, width))
    voxel = geometry.voxel_of(shape, axis, index, row, column)
    assert pages.at_on(shape, axis, voxel) == (row, column)


def test_shares_have_as_many_digits_as_tell_something() -> None:
    assert [share(v) for v in (0.5, 0.023, 0.00042)] == ["50 %", "2.3 %", "0.042 %"]


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"host": "localhost:1"}, None), ("GET", {"host": "[::1]:9"}, None), ("GET", {}, 421),
        ("GET", {"host": "evil.example"}, 421), ("GET", {"host": "127.0.0.1.evil.example"}, 421),
        ("GET", {"host": "[::1"}, 421), ("PUT", {"host": "localhost"}, 405),
        ("POST", {"host": "localhost:1", "content-length": "3", "origin": "http://localhost:1"}, None),
        ("POST", {"host": "localhost:1", "content-length": "3", "origin": "http://localhost:2"}, 403),
        ("POST", {"host": "localhost:1", "content-length": "3", "origin": "null"}, 403),
        ("POST", {"host": "localhost:1", "content-length": "3", "sec-fetch-site": "cross-site"}, 403),
        ("POST", {"host": "localhost:1"}, 413), ("POST", {"host": "localhost:1", "content-length": str(10**9)}, 413),
    ],
)  # fmt: skip
def test_only_this_machine_may_ask(method: str, headers: dict[str, str], status: int | None) -> None:
    found = refused(method, Headers(headers), 10)
    assert (found.status_code if found else None) == status


PROPOSED = Mapping(label="liver", status="proposed", by="llm:m", confidence=0.5, why="alike")


def entry(mapping: Mapping | None = PROPOSED) -> Entry:
    return Entry("s", "Leber", mapping, True)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (Decision("approve", "A. Reader"),
         'Leber: {label: liver, status: approved, by: A. Reader, confidence: 0.50, why: "alike; proposed by llm:m"}'),
        (Decision("change", "me", label="spleen", comment="look"),
         "Leber: {label: spleen, status: approved, by: me, why: \"look; was 'liver'; proposed by llm:m\"}"),
        (Decision("reject", "me", comment=" a  device "),
         'Leber: {label: null, status: rejected, by: me, why: "a device; proposed by llm:m"}'),
        (Decision("comment", "me", comment="unsure"), 'Leber: {label: liver, status: proposed, by: "llm:m", '
         'confidence: 0.50, why: "alike; me: unsure"}'),
    ],
)  # fmt: skip
def test_a_decision_is_one_line(said: Decision, line: str) -> None:
    assert label_file.entry("Leber", decided(entry(), said, load_ontology(BUNDLED))).strip() == line


@pytest.mark.parametrize(
    ("said", "of", "cause"),
    [
        (Decision("approve", " "), PROPOSED, "give your name"), (Decision("approve", "llm:x"), PROPOSED, "a person"),
        (Decision("approve", "me"), None, "no proposal"),
        (Decision("change", "me", label="lver"), PROPOSED, "no label"),
        (Decision("reject", "me"), PROPOSED, "write why"), (Decision("comment", "me"), PROPOSED, "empty"),
        (Decision("comment", "me", comment="x"), None, "no entry"),
        (Decision("approve", "me"), Mapping(label="liver", status="approved", by="you"), "decided already by you"),
    ],
)  # fmt: skip
def test_what_cannot_be_decided_is_told(said: Decision, of: Mapping | None, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        decided(entry(of), said, load_ontology(BUNDLED))


def test_a_file_changed_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "sources" / "s.yaml"
    path.parent.mkdir()
    path.write_text("source: s\nlabels:\n  # why\n  a: {label: liver, status: proposed, by: \"llm:m\"}  # note\n")
    ontology = load_ontology(BUNDLED)
    desk = Desk((BUNDLED, tmp_path), {}, ontology, write=True, out=None)
    seen = desk.entry("s", "a")
    path.write_text(path.read_text().replace("liver", "spleen"))
    with pytest.raises(UsageError, match="has changed in the file"):
        desk.decide(seen, Decision("approve", "me"))
    assert not desk.decide(desk.entry("s", "a"), Decision("approve", "me")).open
    assert "  # why\n  a: {label: spleen, status: approved, by: me" in path.read_text()
    assert path.read_text().endswith("  # note\n")
    assert load_label_map("s", tmp_path)["a"].label == "spleen"
    with pytest.raises(UsageError, match=r"no label map of '\.\./s'"):
        desk.entries("../s")
    with pytest.raises(UsageError, match="--review"):
        Desk((BUNDLED, tmp_path), {}, ontology, write=False, out=None).decide(seen, Decision("approve", "me"))
