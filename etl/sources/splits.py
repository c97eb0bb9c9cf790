"""Families of sources and the split of each subject. Pure."""

import hashlib
from collections.abc import Iterable

from etl.manifests.manifest import Manifest
from etl.sources.inventory import Case

VAL_SHARE = 0.1


def families(manifests: Iterable[Manifest]) -> dict[str, str]:
    """The family of each source: sources connected by a common group or by `overlaps` (also through
    the name of a public dataset that is no source here). A family is named by its smallest group."""
    parent: dict[str, str] = {}

    def find(x: str) -> str:
        parent.setdefault(x, x)
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    known = sorted(manifests, key=lambda m: m.slug)
    for m in known:
        for other in (m.group or m.slug, *m.overlaps):
            parent[find(m.slug)] = find(other)
    names: dict[str, str] = {}
    for m in known:
        root = find(m.slug)
        names[root] = min(names.get(root, m.group or m.slug), m.group or m.slug)
    return {m.slug: names[find(m.slug)] for m in known}


def unit_interval(text: str) -> float:
    """A stable pseudo-random number in [0, 1): the first 8 bytes of the SHA-256, big-endian, / 2^64."""
    number: int = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return number / 2**64


def assign(sources: Iterable[tuple[Manifest, list[Case]]], family: dict[str, str]) -> dict[tuple[str, str], str]:
    """(source, case) -> train, val or test. A subject of a family is in one split: test before val before train."""
    listed = [(m, c, (family.get(m.slug, m.slug), c.subject)) for m, cases in sources for c in cases]
    has_val = {m.slug for m, c, _ in listed if c.split == "val"}
    best: dict[tuple[str, str], str] = {}
    order = ("test", "val", "train")
    for m, c, who in listed:
        drawn = "val" if unit_interval(f"{who[0]}/{who[1]}") < VAL_SHARE else "train"
        if c.split in ("val", "test"):
            split = c.split
        elif c.split == "train" and m.slug in has_val:
            split = "train"
        else:
            split = drawn
        best[who] = min(best.get(who, "train"), split, key=order.index)
    return {(m.slug, c.case): best[who] for m, c, who in listed}
