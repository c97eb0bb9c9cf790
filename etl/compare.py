"""What changed between two built datasets, by the keys of images and regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds

from etl.errors import Failure

SHOWN = 20  # keys told of each kind of change
SAME = ["label", "category", "phrase", "bbox", "area", "counts"]


def compare(one: Path, two: Path) -> dict[str, Any]:
    """Counts of what the second dataset has more, less and otherwise than the first.

    `{images: {added, removed}, regions: {added, removed, changed}, moved_split, labels: [{label, added, removed,
    changed}], examples: {kind: [keys]}}`. A region has changed if its label, box, area or mask has.

    Raises:
        Failure: one of them is no built dataset.
    """
    shards = [_shards(out) for out in (one, two)]
    total: dict[str, list[str]] = {}
    labels: dict[str, dict[str, int]] = {}
    counts = dict.fromkeys(
        ("images added", "images removed", "moved split", "regions added", "regions removed", "regions changed"), 0
    )
    for source in sorted({s for d in shards for s in _sources(d)}):
        (a, regions_a), (b, regions_b) = (_tables(d, source) for d in shards)
        changes = _changes(a, b, "images") | {"moved split": _moved(a, b)}
        named = _changes(regions_a, regions_b, "regions") | {"regions changed": _changed(regions_a, regions_b)}
        for kind, keys in named.items():
            table = regions_a if kind == "regions removed" else regions_b
            for label, n in table.loc[keys, "label"].value_counts().items():
                entry = labels.setdefault(str(label), {"added": 0, "removed": 0, "changed": 0})
                entry[kind.split()[1]] += int(n)
        for kind, keys in (changes | named).items():
            counts[kind] += len(keys)
            total.setdefault(kind, []).extend(keys[: SHOWN - len(total.get(kind, []))])
    return {
        "images": {"added": counts["images added"], "removed": counts["images removed"]},
        "regions": {kind: counts[f"regions {kind}"] for kind in ("added", "removed", "changed")},
        "moved_split": counts["moved split"],
        "labels": [{"label": name, **n} for name, n in sorted(labels.items())],
        "examples": total,
    }


def _shards(out: Path) -> Any:
    folder = out / "dataset" / "shards"
    if not folder.is_dir():
        raise Failure(f"{folder} is not there; run `medglip-etl build` first")
    return ds.dataset(sorted(str(p) for p in folder.rglob("*.parquet")), format="parquet")


def _sources(shards: Any) -> list[str]:
    names: list[str] = pc.unique(shards.to_table(columns=["source"])["source"]).to_pylist()
    return names


def _tables(shards: Any, source: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(images, regions) of a source by key; `counts` is the mask's run lengths."""
    table = shards.to_table(columns=["key", "split", "regions"], filter=pc.field("source") == source)
    images = table.select(["key", "split"]).to_pandas().set_index("key").sort_index()
    rows = [
        (r["key"], r["label"], r["category"], r["phrase"], tuple(r["bbox"]), r["area"],
         (r["segmentation"] or {}).get("counts"))
        for regions in table["regions"].to_pylist() for r in regions
    ]  # fmt: skip
    return images, pd.DataFrame(rows, columns=["key", *SAME]).set_index("key").sort_index()


def _changes(a: pd.DataFrame, b: pd.DataFrame, what: str) -> dict[str, list[str]]:
    return {f"{what} added": list(b.index.difference(a.index)), f"{what} removed": list(a.index.difference(b.index))}


def _moved(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    both = a.index.intersection(b.index)
    return list(both[(a.loc[both, "split"] != b.loc[both, "split"]).to_numpy()])


def _changed(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    both = a.index.intersection(b.index)
    old, new = a.loc[both, SAME], b.loc[both, SAME]
    differs = [x != y for x, y in zip(old.itertuples(index=False), new.itertuples(index=False), strict=True)]
    return list(both[differs])
