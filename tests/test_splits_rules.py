"""Splits hold for the person, over visits, sources of a family and published splits."""

from types import SimpleNamespace
from typing import Any, cast

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
