"""Subjects and pictures that two splits share, in a built dataset or in anybody's list of files."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from etl import formats
from etl.errors import ItemError, UsageError
from etl.pixels import hashes
from etl.quality import nearby

COLUMNS = ("path", "subject", "split")
SHARED = 6  # numbers of two sketches, as for copies of volumes: a quarter


@dataclass(frozen=True, slots=True)
class Entry:
    """One image or volume of a list: `at` leads to its pixels, a file or a row of a shard, or is None.

    `stack` tells slices of one volume from those of others; it is None for pictures.
    """

    name: str
    subject: str
    split: str
    at: Path | tuple[Path, int, int] | None
    stack: str | None = None


def leaks(paths: Iterable[Path], family: dict[str, str]) -> dict[str, Any]:
    """`{subjects: [{subject, splits, n}], near_identical: [{a, b, splits}], leaks}` of all paths together.

    `family` names the family of each source; a subject of a dataset is `family/subject`. `n` counts its images.

    Raises:
        UsageError: a path that is neither a built dataset nor a CSV with the columns path, subject and split.
    """
    entries = [entry for path in paths for entry in _entries(path, family)]
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        if entry.subject:
            splits[entry.subject][entry.split] += 1
    subjects = [
        {"subject": who, "splits": sorted(seen), "n": seen.total()}
        for who, seen in sorted(splits.items()) if len(seen) > 1
    ]
    pairs = sorted({tuple(sorted((a, b))) for a, b in _near(entries)})
    both = [(entries[a], entries[b]) for a, b in pairs]
    names = [{"a": a.name, "b": b.name, "splits": [a.split, b.split]} for a, b in both]
    return {"subjects": subjects, "near_identical": names, "leaks": len(subjects) + len(names)}


def _entries(path: Path, family: dict[str, str]) -> Iterator[Entry]:
    for folder in (path / "dataset" / "shards", path / "shards"):
        if folder.is_dir():
            return _rows(folder, family)
    if path.is_file():
        return _listed(path)
    raise UsageError(f"{path}: neither a built dataset nor a CSV with the columns {', '.join(COLUMNS)}")


def _rows(folder: Path, family: dict[str, str]) -> Iterator[Entry]:
    for file in sorted(folder.rglob("*.parquet")):
        shard = pq.ParquetFile(file)
        for group in range(shard.num_row_groups):
            table = shard.read_row_group(group, ["key", "source", "subject", "split", "axis"])
            for n, row in enumerate(table.to_pylist()):
                who = f"{family.get(row['source'], row['source'])}/{row['subject']}"
                stack = None if row["axis"] == "native" else row["key"].rsplit("/", 1)[0]
                yield Entry(row["key"], who, row["split"], (file, group, n), stack)


def _listed(path: Path) -> Iterator[Entry]:
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a CSV in UTF-8: {error}") from error
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise UsageError(f"{path}: has no column {', '.join(missing)}; name the columns {', '.join(COLUMNS)}")
    for row in reader:
        name = (row["path"] or "").strip()
        found = next((p for p in (path.parent / name, Path(name)) if name and p.is_file()), None)
        yield Entry(name, (row["subject"] or "").strip(), (row["split"] or "").strip(), found)


def _near(entries: list[Entry]) -> Iterator[tuple[int, int]]:
    """Pairs of entries of different splits whose pixels are copies."""
    seen: list[tuple[int, int, int]] = []
    equal: dict[bytes, list[int]] = defaultdict(list)
    sketches: dict[int, set[int]] = defaultdict(set)
    for n, entry in enumerate(entries):
        array = _pixels(entry)
        if array is None:
            continue
        if array.dtype != np.uint8 or (array.ndim == 3 and array.shape[2] != 3):
            for code in hashes.sketch(array).tolist():
                sketches[code].add(n)
        elif (same := hashes.pixel_hash(array)) is not None:
            equal[same].append(n)
            seen.append((n, *hashes.perceptual(array)))
    for members in equal.values():
        yield from ((members[0], n) for n in members[1:] if entries[n].split != entries[members[0]].split)
    shared = Counter((a, b) for members in sketches.values() for a in members for b in members
                     if a < b and entries[a].split != entries[b].split)  # fmt: skip
    yield from (pair for pair, n in shared.items() if n >= SHARED)
    if seen:
        index, coarse, fine = (np.array(column, np.uint64) for column in zip(*seen, strict=True))
        names = sorted({e.split for e in entries})
        group = np.array([names.index(entries[int(n)].split) for n in index], np.int32)
        near = [(int(index[i]), int(index[j])) for i, j in nearby.candidates(coarse, fine, group).tolist()]
        alike = [(a, b) for a, b in near if nearby.alike(_encoded(entries[a]), _encoded(entries[b]))]
        stacks = {name: n for n, name in enumerate(sorted({e.stack for e in entries if e.stack}))}
        yield from nearby.consistent(alike, [stacks[e.stack] if e.stack else -1 for e in entries])


def _pixels(entry: Entry) -> Any:
    """The picture (rows, columns[, 3]) or volume of an entry; None where it is not at hand or cannot be read."""
    if isinstance(entry.at, tuple):
        with Image.open(io.BytesIO(_encoded(entry))) as picture:
            return np.asarray(picture)
    if entry.at is None:
        return None
    try:
        return formats.read(entry.at).array
    except (ItemError, UsageError):
        return None


def _encoded(entry: Entry) -> bytes:
    if isinstance(entry.at, tuple):
        file, group, n = entry.at
        data: bytes = _pictures(file, group)[n]["bytes"]
        return data
    buffer = io.BytesIO()
    Image.fromarray(_pixels(entry)).save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=4)
def _pictures(file: Path, group: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.ParquetFile(file).read_row_group(group, ["image"])["image"].to_pylist()
    return rows
