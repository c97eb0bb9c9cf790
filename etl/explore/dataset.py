"""The files of a built dataset, on this machine or on S3, and the rows of its shards."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from etl.errors import Failure, UsageError

KEPT_BYTES = 96 * 2**20  # of row groups that stay in memory
OPEN_FILES = 16


@dataclass(frozen=True, slots=True)
class Dataset:
    """A built dataset: `files` is the fsspec file system that holds it, `root` its folder there."""

    files: Any
    root: str
    local: bool

    @property
    def name(self) -> str:
        """What people call it."""
        return self.root if self.local else f"s3://{self.root}"

    def shards(self) -> list[str]:
        """The shard files, in order."""
        return sorted(self.files.glob(f"{self.root}/dataset/shards/*/*/*.parquet"))

    def stamp(self) -> list[list[str]]:
        """Name, size and version of each shard: another list is another dataset."""
        found = []
        for name in self.shards():
            facts = self.files.info(name)
            version = facts.get("ETag") or facts.get("mtime") or facts.get("LastModified")
            found.append([name, str(facts["size"]), str(version)])
        return found

    def opened(self, name: str) -> Any:
        """A Parquet file of it."""
        return pq.ParquetFile(name if self.local else self.files.open(name, "rb"))

    def numbers(self) -> dict[str, Any]:
        """What `stats.json` holds."""
        with self.files.open(f"{self.root}/dataset/stats.json", "rb") as file:
            found: dict[str, Any] = json.load(file)
        return found

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table | None:
        """A small Parquet file below the folder, None where it is not there."""
        path = f"{self.root}/{name}"
        if not self.files.exists(path):
            return None
        with self.files.open(path, "rb") as file:
            return pq.read_table(file, columns=columns)

    def some(self, name: str, where: Mapping[str, str], start: int, most: int) -> list[dict[str, Any]]:
        """Rows of a Parquet file with these values in its columns, from a place on; no more is read than needed."""
        import pyarrow.dataset as pads

        scan: dict[str, Any] = {"batch_readahead": 1, "fragment_readahead": 1}
        for column, value in where.items():
            same = pads.field(column) == value
            scan["filter"] = scan["filter"] & same if "filter" in scan else same
        table = pads.dataset(f"{self.root}/{name}", filesystem=self.files).head(start + most, **scan)
        rows: list[dict[str, Any]] = table.slice(start).to_pylist()
        return rows

    def listed(self, pattern: str) -> list[str]:
        """Files below the folder, as names relative to it."""
        return sorted(str(name)[len(self.root) + 1 :] for name in self.files.glob(f"{self.root}/{pattern}"))


def dataset(out: str) -> Dataset:
    """The dataset below a folder or an s3:// address.

    Raises:
        Failure: there is none.
    """
    import fsspec

    if "://" in out and not out.startswith("s3://"):
        raise UsageError(f"{out}: give a folder or an s3:// address")
    try:
        files, root = fsspec.url_to_fs(out if out.startswith("s3://") else str(Path(out).resolve()))
    except ImportError as error:
        raise UsageError(f"{out}: s3:// addresses need `pip install 'medglip-etl[s3]'`") from error
    found = Dataset(files, str(root).rstrip("/"), not out.startswith("s3://"))
    if not files.exists(f"{found.root}/dataset/stats.json") or not found.shards():
        raise Failure(f"{out}: no dataset there; run `medglip-etl build` first")
    return found


class Rows:
    """Single rows of the shards; the row groups last used stay in memory, up to KEPT_BYTES."""

    def __init__(self, data: Dataset, shards: list[str]) -> None:
        self._data, self._shards = data, shards
        self._open: OrderedDict[int, tuple[Any, list[int]]] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def row(self, shard: int, number: int) -> dict[str, Any]:
        """Row `number` of a shard, with its PNG and regions."""
        with self._lock:
            file, starts = self._file(shard)
            group = next(n for n in range(len(starts) - 1, -1, -1) if starts[n] <= number)
            table = self._groups.get((shard, group))
            if table is None:
                table = file.read_row_group(group, use_threads=False)
                self._groups[shard, group] = table
            self._groups.move_to_end((shard, group))
            while len(self._groups) > 1 and sum(t.nbytes for t in self._groups.values()) > KEPT_BYTES:
                self._groups.popitem(last=False)
        found: dict[str, Any] = table.slice(number - starts[group], 1).to_pylist()[0]
        return found

    def _file(self, shard: int) -> tuple[Any, list[int]]:
        """An open shard and the first row of each of its row groups."""
        if shard not in self._open:
            file = self._data.opened(self._shards[shard])
            starts, total = [], 0
            for group in range(file.num_row_groups):
                starts.append(total)
                total += file.metadata.row_group(group).num_rows
            self._open[shard] = (file, starts)
        self._open.move_to_end(shard)
        while len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)
        return self._open[shard]
