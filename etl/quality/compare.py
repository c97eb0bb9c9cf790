"""What changed between two built datasets, by the keys of images and regions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from etl import store
from etl.errors import Failure

SHOWN = 20  # keys told of each kind of change
SAME = ["label", "category", "phrase", "area", "counts", "x", "y", "w", "h"]
KINDS = ("images added", "images removed", "moved split", "regions added", "regions removed", "regions changed")
REGION_PARTS = frozenset({"key", "label", "category", "phrase", "area"})
IMAGES = pa.schema([("key", pa.string()), ("split", pa.string())])
REGIONS = pa.schema([(name, pa.string()) for name in ("key", "label", "category", "phrase", "counts")]
                    + [(name, pa.float64()) for name in ("area", "x", "y", "w", "h")])  # fmt: skip


def compare(one: Path, two: Path) -> dict[str, Any]:
    """Counts of what the second dataset has more, less and otherwise than the first.

    `{images: {added, removed}, regions: {added, removed, changed}, moved_split, labels: [{label, added, removed,
    changed}], examples: {kind: [keys]}}`. A region has changed if its label, box, area or mask has. A source whose
    shards have the same SHA-256 in both is not looked at.

    Raises:
        Failure: one of them is no built dataset.
    """
    both = [_shards(out) for out in (one, two)]
    examples: dict[str, list[str]] = {kind: [] for kind in KINDS}
    labels: dict[str, dict[str, int]] = {}
    total = dict.fromkeys(KINDS, 0)
    for source in sorted({*both[0], *both[1]}):
        files = [shards.get(source, {}) for shards in both]
        if None not in files[0].values() and files[0] == files[1]:
            continue
        for kind, found in _changes(*(_tables(out, source, here) for out, here in zip((one, two), files, strict=True))):
            total[kind] += len(found)
            examples[kind] += found["key"].slice(0, SHOWN - len(examples[kind])).to_pylist()
            if kind.startswith("regions"):
                for row in pc.value_counts(found["label"]).to_pylist():
                    entry = labels.setdefault(row["values"], {"added": 0, "removed": 0, "changed": 0})
                    entry[kind.split()[1]] += row["counts"]
    return {
        "images": {"added": total["images added"], "removed": total["images removed"]},
        "regions": {kind: total[f"regions {kind}"] for kind in ("added", "removed", "changed")},
        "moved_split": total["moved split"],
        "labels": [{"label": name, **n} for name, n in sorted(labels.items())],
        "examples": examples,
    }


def _shards(out: Path) -> dict[str, dict[str, str | None]]:
    """The shards that hold each source, by name below `dataset`; with its SHA-256 if it holds that source alone."""
    folder = out / "dataset"
    if not (folder / "shards").is_dir():
        raise Failure(f"{folder / 'shards'} is not there; run `medglip-etl build` first")
    told = store.read_json(folder / "croissant.json") or {}
    digests = {item["@id"]: item.get("sha256") for item in told.get("distribution", ())}
    found: dict[str, dict[str, str | None]] = defaultdict(dict)
    for path in sorted((folder / "shards").rglob("*.parquet")):
        name = path.relative_to(folder).as_posix()
        sources = pc.unique(store.read_table(path, ["source"])["source"]).to_pylist()
        for source in sources:
            found[source][name] = digests.get(name) if len(sources) == 1 else None
    return found


def _tables(out: Path, source: str, files: dict[str, str | None]) -> tuple[pa.Table, pa.Table]:
    """(images, regions) of a source, sorted by key; `counts` are the mask's run lengths."""
    images, regions = [IMAGES.empty_table()], [REGIONS.empty_table()]
    for name in files:
        shard = pq.ParquetFile(out / "dataset" / name)
        for group in range(shard.num_row_groups):
            table = shard.read_row_group(group, ["key", "split", "source", "regions"])
            table = table.filter(pc.equal(table["source"], source)).combine_chunks()
            images.append(table.select(["key", "split"]))
            regions.append(_regions(pc.list_flatten(table["regions"].combine_chunks())))
    found, parts = (pa.concat_tables(tables).combine_chunks() for tables in (images, regions))
    return found.sort_by("key"), parts.sort_by("key")


def _regions(regions: pa.StructArray) -> pa.Table:
    columns = {name: pc.struct_field(regions, name) for name in ("key", *SAME) if name in REGION_PARTS}
    corners = pc.list_flatten(pc.struct_field(regions, "bbox")).to_numpy().reshape(-1, 4)
    columns |= {name: pa.array(corners[:, n]) for n, name in enumerate("xywh")}
    columns["counts"] = pc.struct_field(regions, ["segmentation", "counts"])
    return pa.table([columns[name].cast(REGIONS.field(name).type) for name in REGIONS.names], schema=REGIONS)


def _changes(old: tuple[pa.Table, pa.Table], new: tuple[pa.Table, pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    """(kind, the rows that it happened to), of the new dataset where they are in it."""
    for what, changed, columns, a, b in zip(
        ("images", "regions"), ("moved split", "regions changed"), (["split"], SAME), old, new, strict=True
    ):
        place = pc.index_in(b["key"], a["key"].combine_chunks()).combine_chunks()
        yield f"{what} added", b.filter(place.is_null())
        yield f"{what} removed", a.filter(pc.invert(pc.is_in(a["key"], b["key"].combine_chunks())))
        after, before = b.filter(place.is_valid()), a.take(place.drop_null())
        differs = np.zeros(len(after), bool)
        for name in columns:
            equal = pc.equal(before[name], after[name]).fill_null(False).to_numpy()
            both = pc.and_(pc.is_null(before[name]), pc.is_null(after[name])).to_numpy()
            differs |= ~(equal | both)
        yield changed, after.filter(pa.array(differs))
