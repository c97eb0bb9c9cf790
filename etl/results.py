"""What `slice` has committed for a source: batches of cases, three Parquet files each.

`<batch>.regions.parquet` holds every region found, `<batch>.images.parquet` the encoded slices, and
`<batch>.cases.parquet`, written last, one row a case: it is the commit mark. A case is found by its key,
whichever batch holds it, so that batches may be cut differently from run to run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from etl import columns, store
from etl.schemas import CASES, IMAGES, NAMES, REGIONS

if TYPE_CHECKING:
    from etl.regiontable import Placed

GROUP_BYTES = 2 * 2**20  # pending PNG bytes that end a row group
GROUP_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Committed:
    """Where the result of a case is: its batch (without the ending .<kind>.parquet) and its row there, of so many."""

    key: str
    encode_from: float
    batch: Path
    row: int
    rows: int


@dataclass(frozen=True, slots=True)
class Result:
    """A case's committed result: its batch, and per image of the case its facts; `rejected` are quarantine rows."""

    key: str
    case: str
    encode_from: float
    root: str
    files: list[str]
    images: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    batch: Path


Held = TypeVar("Held", Committed, Result)


def open_part(batch: Path, kind: str) -> pq.ParquetFile:
    """The `regions` or `images` of a whole batch; names come dictionary-encoded."""
    names = [name for name in {"regions": REGIONS, "images": IMAGES}[kind].names if name in NAMES]
    return pq.ParquetFile(store.opened(_file(batch, kind)), read_dictionary=names)


def part_size(batch: Path, kind: str) -> int:
    """The bytes of that file."""
    return _file(batch, kind).stat().st_size


def _file(batch: Path, kind: str) -> Path:
    return batch.with_name(f"{batch.name}.{kind}.parquet")


def files_of(batch: Path) -> list[Path]:
    """The files of a batch in the order in which they are to be put somewhere else: the commit mark last."""
    return [_file(batch, kind) for kind in ("regions", "images", "cases")]


def committed(folder: Path, encode_from: float) -> dict[str, Committed]:
    """Where the result of each key is in a folder, of those that encoded slices at least from `encode_from` up."""
    found: dict[str, Committed] = {}
    paths = sorted(folder.glob("*.cases.parquet"))
    for path, table in zip(paths, store.each(_keys, paths), strict=True):
        batch = path.with_name(path.name.removesuffix(".cases.parquet"))
        for row, (key, area) in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
            if area <= encode_from and (key not in found or area < found[key].encode_from):
                found[key] = Committed(key, area, batch, row, len(table))
    return found


def _keys(path: Path) -> pa.Table:
    return pq.ParquetFile(store.opened(path)).read(["key", "encode_from"], use_threads=False)


def by_batch(chosen: Sequence[Held]) -> dict[Path, list[Held]]:
    """These results by the batch that holds them, in order."""
    groups: dict[Path, list[Held]] = {}
    for at in chosen:
        groups.setdefault(at.batch, []).append(at)
    return groups


def read(chosen: Sequence[Committed]) -> list[Result]:
    """These results, in their order; each batch is read once."""
    found: dict[str, Result] = {}
    for batch, members in by_batch(chosen).items():
        rows = pq.ParquetFile(store.opened(_file(batch, "cases"))).read(use_threads=False).to_pylist()
        for at in members:
            row = rows[at.row]
            texts = {name: orjson.loads(row[name]) for name in ("images", "rejected")}
            found[at.key] = Result(**{**row, **texts}, batch=batch)
    return [found[at.key] for at in chosen]


class BatchWriter:
    """Collects one batch: regions and encoded slices go to temporary files as they come; `commit` makes it count."""

    def __init__(self, folder: Path, name: str) -> None:
        self._batch = folder / name
        self._parts = {"regions": store.TableFile(_file(self._batch, "regions"), REGIONS),
                       "images": store.TableFile(_file(self._batch, "images"), IMAGES, packed=True)}
        self._cases: list[dict[str, Any]] = []
        self._pending: list[dict[str, Any]] = []
        self._regions: list[Placed] = []
        self._size = self._rows = 0

    def image(self, row: dict[str, Any]) -> None:
        """Takes an encoded slice, in the columns of IMAGES. It counts only with its case's regions."""
        self._pending.append(row)
        self._size += len(row["png"])
        if self._size >= GROUP_BYTES:
            self._flush()

    def case(self, row: dict[str, Any], regions: list[Placed]) -> None:
        """Takes a case: the columns of CASES, with `images` and `rejected` as lists of dicts, and its regions."""
        self._cases.append(row | {name: json.dumps(row[name], sort_keys=True) for name in ("images", "rejected")})
        self._regions.extend(regions)
        self._rows += sum(len(some.code) for _, _, some in regions)
        if self._rows >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._parts["images"].write_table(_table(self._pending, IMAGES))
        if self._regions:
            from etl.regiontable import table  # brings the kernels, which who only reads results does not need

            self._parts["regions"].write_table(table(self._regions))
        self._pending, self._regions, self._size, self._rows = [], [], 0, 0

    def commit(self) -> None:
        """Makes the batch count; its list of cases comes last."""
        self._flush()
        for part in self._parts.values():
            part.commit()
        store.write_table(_file(self._batch, "cases"), _table(self._cases, CASES))

    def discard(self) -> None:
        """Removes what was not committed."""
        for part in self._parts.values():
            part.discard()


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; see `etl.columns` for why Arrow does not make it."""
    made = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_list(field.type):
            made.append(columns.lists(values))
        elif pa.types.is_primitive(field.type):
            made.append(columns.numbers(np.array(values, field.type.to_pandas_dtype()), field.type))
        else:
            made.append(columns.texts(values, field.type))
    return pa.Table.from_arrays(made, schema=schema)
