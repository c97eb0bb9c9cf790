"""Splits hold for the person, over visits, sources of a family and published splits."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.manifests.manifest import Manifest
from etl.sources import splits
from etl.sources.inventory import Case

ORDER = ("test", "val", "train")
SOURCES = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from([None, "g", "h"]),
              st.lists(st.sampled_from("abcdxy"), max_size=2)),
    min_size=1, max_size=4, unique_by=lambda s: s[0],
)  # fmt: skip
CASES = st.lists(st.tuples(st.sampled_from("pqrstu"), st.sampled_from([None, "train", "val", "test"])), max_size=8)


def built(sources: list[Any], data: st.DataObject) -> list[tuple[Manifest, list[Case]]]:
    made = []
    for slug, group, overlaps in sources:
        cases = [SimpleNamespace(case=f"{who}-{n}", subject=who, split=split)
                 for n, (who, split) in enumerate(data.draw(CASES))]  # fmt: skip
        manifest = SimpleNamespace(slug=slug, group=group, overlaps=overlaps)
        made.append((cast(Manifest, manifest), cast(list[Case], cases)))
    return made


@given(SOURCES, st.data())
def test_a_subject_of_a_family_is_in_one_split(sources: list[Any], data: st.DataObject) -> None:
    made = built(sources, data)
    family = splits.families(m for m, _ in made)
    split_of = splits.assign(made, family)
    seen: dict[tuple[str, str], set[str]] = {}
    asked: dict[tuple[str, str], list[str]] = {}
    for m, cases in made:
        for c in cases:
            who = (family[m.slug], c.subject)
            seen.setdefault(who, set()).add(split_of[m.slug, c.case])
            asked.setdefault(who, []).extend([c.split] if c.split in ("val", "test") else [])
    assert all(len(s) == 1 for s in seen.values())
    for who, published in asked.items():
        if published:
            assert seen[who] == {min(published, key=ORDER.index)}


@given(SOURCES, st.data())
def test_sources_that_overlap_are_one_family(sources: list[Any], data: st.DataObject) -> None:
    made = built(sources, data)
    family = splits.families(m for m, _ in made)
    for m, _ in made:
        for n, _ in made:
            grouped = (m.group or m.slug) == (n.group or n.slug)
            if grouped or n.slug in m.overlaps or set(m.overlaps) & set(n.overlaps):
                assert family[m.slug] == family[n.slug]


@given(st.sampled_from("pqrstu"), st.booleans())
def test_a_source_more_moves_nobody(who: str, first: bool) -> None:
    a = cast(Manifest, SimpleNamespace(slug="a", group=None, overlaps=[]))
    b = cast(Manifest, SimpleNamespace(slug="b", group=None, overlaps=["a"]))
    known = splits.families([a, b])
    case = cast(Case, SimpleNamespace(case="c", subject=who, split=None))
    alone = splits.assign([(a, [case])], known)
    both = splits.assign([(b, [case]), (a, [case])] if first else [(a, [case]), (b, [case])], known)
    assert alone["a", "c"] == both["a", "c"] == both["b", "c"]


def source(slug: str, group: str | None = None, overlaps: tuple[str, ...] = (), *cases: tuple[str, str | None]) -> Any:
    """A source and its cases, each of (subject, published split)."""
    listed = [SimpleNamespace(case=f"{who}-{n}", subject=who, split=split) for n, (who, split) in enumerate(cases)]
    return SimpleNamespace(slug=slug, group=group, overlaps=list(overlaps)), listed


def drawn(family: str, train: bool) -> str:
    """A subject of a family that is drawn for train, or for val."""
    return next(f"s{n}" for n in range(200) if (splits.unit_interval(f"{family}/s{n}") >= 0.1) is train)


@pytest.mark.parametrize(("text", "number"), [  # sha256sum, its first 16 digits
    ("", 0xE3B0C44298FC1C14), ("a/p1", 0x43B802AD51C93A93), ("ü", 0x607474CA475A9724),
])  # fmt: skip
def test_a_name_has_a_number(text: str, number: int) -> None:
    assert splits.unit_interval(text) == number / 2**64
    assert 0 <= splits.unit_interval(text) < 1


@pytest.mark.parametrize(("sources", "families"), [
    ([source("a")], {"a": "a"}),
    ([source("b", "g"), source("a", "g")], {"a": "g", "b": "g"}),  # named by the group, not by the slug
    ([source("a"), source("b")], {"a": "a", "b": "b"}),
    ([source("b", None, ("a",)), source("a")], {"a": "a", "b": "a"}),  # by the smallest name
    ([source("a", "z", ("b",)), source("b", "y")], {"a": "y", "b": "y"}),
    ([source("a", None, ("lits",)), source("b", None, ("lits",))], {"a": "a", "b": "a"}),  # both share a third
    ([source("a", None, ("b",)), source("b", None, ("c",)), source("c")], dict.fromkeys("abc", "a")),  # a chain
    ([source("a", None, ("d", "e")), source("d"), source("e"), source("f")],
     {"a": "a", "d": "a", "e": "a", "f": "f"}),
    ([source("a", "g", ("h",)), source("b", "h")], {"a": "g", "b": "g"}),  # overlaps may name a group
    ([source("a", None, ("x",)), source("b", None, ("y",)), source("c", None, ("y", "x"))], dict.fromkeys("abc", "a")),
])  # fmt: skip
def test_families(sources: list[Any], families: dict[str, str]) -> None:
    assert splits.families(m for m, _ in sources) == families
    assert splits.families(m for m, _ in reversed(sources)) == families


@pytest.mark.parametrize(("published", "split"), [
    (["train"], "drawn"),  # a source without val gives some of its subjects
    (["test"], "test"),
    (["val"], "val"),
    ([None], "drawn"),
    (["train", "test"], "test"),  # test before train
    (["test", "train"], "test"),
    (["val", "test"], "test"),  # test before val
    (["train", "train"], "drawn"),
    ([None, "test"], "test"),
])  # fmt: skip
@pytest.mark.parametrize("train", [True, False])
def test_the_split_of_a_subject(published: list[str | None], split: str, train: bool) -> None:
    who = drawn("a", train)
    made = source("a", None, (), *((who, given_split) for given_split in published))
    expected = ("train" if train else "val") if split == "drawn" else split
    found = splits.assign([made], {"a": "a"})
    assert found == {("a", f"{who}-{n}"): expected for n in range(len(published))}


@pytest.mark.parametrize("train", [True, False])
def test_a_published_train_with_a_val_beside_it_stays(train: bool) -> None:
    who = drawn("a", train)
    made = source("a", None, (), (who, "train"), ("other", "val"))
    assert splits.assign([made], {"a": "a"}) == {("a", f"{who}-0"): "train", ("a", "other-1"): "val"}
    unpublished = source("a", None, (), (who, None), ("other", "val"))  # what has no split is drawn
    assert splits.assign([unpublished], {"a": "a"})["a", f"{who}-0"] == ("train" if train else "val")


def test_the_val_of_another_source_of_the_family_is_no_val_of_this_one() -> None:
    who = drawn("f", False)
    made = [source("a", None, (), (who, "train")), source("b", None, (), ("other", "val"))]
    assert splits.assign(made, {"a": "f", "b": "f"})["a", f"{who}-0"] == "val"


def test_a_subject_is_drawn_by_its_family() -> None:
    """The name of the family and a slash go before the subject."""
    made = source("a", None, (), *((f"s{n}", None) for n in range(50)))
    found = splits.assign([made], {"a": "fam"})
    for n in range(50):
        expected = "val" if splits.unit_interval(f"fam/s{n}") < 0.1 else "train"
        assert found["a", f"s{n}-{n}"] == expected
    assert set(found.values()) == {"val", "train"}


def test_a_source_of_no_family_is_its_own() -> None:
    made = source("a", None, (), *((f"s{n}", None) for n in range(50)))
    assert splits.assign([made], {}) == splits.assign([made], {"a": "a"}) != splits.assign([made], {"a": "b"})


def test_the_same_name_in_two_families_is_two_people() -> None:
    made = [source("a", None, (), ("p", "test")), source("b", None, (), ("p", "val"))]
    assert splits.assign(made, {"a": "a", "b": "b"}) == {("a", "p-0"): "test", ("b", "p-0"): "val"}
    assert splits.assign(made, {"a": "f", "b": "f"}) == {("a", "p-0"): "test", ("b", "p-0"): "test"}


def test_the_bound_of_val_is_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, split in ((0.0, "val"), (0.0999, "val"), (0.1, "train"), (0.9, "train")):
        monkeypatch.setattr(splits, "unit_interval", lambda _, number=number: number)
        assert splits.assign([source("a", None, (), ("p", None))], {}) == {("a", "p-0"): split}
