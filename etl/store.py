"""Atomic files, Parquet tables, folders and digests of settings; on this machine or on an object store."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from etl.objects import S3Path, Stat, is_remote

R = TypeVar("R")
GROUP_ROWS = 100_000
REQUESTS = 16  # to an object store at a time
COPIED = 4 * 2**20  # bytes copied at a time


def digest(value: Any) -> str:
    """Hex digest of a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary name, fsync, rename."""
    if is_remote(path):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append(path: Path, target: IO[bytes]) -> None:
    """Adds a file's bytes to an open one."""
    with path.open("rb") as source:
        shutil.copyfileobj(source, target, COPIED)


def link(path: Path, target: Path) -> None:
    """The same file under another name, without a copy where the file system can."""
    if isinstance(path, S3Path):
        path.copy_to(cast(S3Path, target))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def remove_tree(folder: Path) -> None:
    """Removes a folder, if it is there."""
    if isinstance(folder, S3Path):
        folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


Files = Mapping[Path, Collection[str]]
"""The names of the files of some folders."""


def names(folder: Path) -> dict[str, os.stat_result | Stat]:
    """Every file below a folder by its path from there, with its size and version (`st_size`, `st_mtime_ns`)."""
    if isinstance(folder, S3Path):
        return dict(folder.below())
    return {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*") if path.is_file()}


def begun(folder: Path, mark: str | None = None) -> Path:
    """Where the new content of a folder is to be written, empty; `settled` makes it the folder.

    On an object store, which renames nothing, that is the folder itself: it counts only while it holds the file
    `mark`, which is removed first here and has to be written last.
    """
    recover(folder)
    if is_remote(folder):
        if mark is not None:
            (folder / mark).unlink(missing_ok=True)
        remove_tree(folder)
        return folder
    fresh = folder.with_name(f".{folder.name}.tmp")
    remove_tree(fresh)
    fresh.mkdir(parents=True)
    return fresh


def settled(fresh: Path, folder: Path) -> None:
    """Makes what `begun` gave the folder."""
    if is_remote(folder):
        return
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    remove_tree(old)


def recover(folder: Path) -> None:
    """Puts the old folder back if `settled` was cut off between its two renames."""
    if is_remote(folder):
        return
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    remove_tree(old)


def each(work: Callable[[Path], R], paths: Iterable[Path]) -> Iterator[R]:
    """The result of each path in order; objects of a store, which answers slowly, are worked on some at a time."""
    listed = list(paths)
    if not listed or not is_remote(listed[0]):
        yield from map(work, listed)
        return
    with ThreadPoolExecutor(REQUESTS) as pool:
        yield from pool.map(work, listed)


def opened(path: Path) -> Any:
    """What Parquet readers take: a path of this machine, or an open object."""
    return path.open("rb") if is_remote(path) else path


def write_table(path: Path, table: pa.Table) -> None:
    """Commit a Parquet table atomically."""
    if is_remote(path):
        with path.open("wb") as target:
            pq.write_table(table, target, compression="zstd", row_group_size=GROUP_ROWS)
        return
    file = TableFile(path, table.schema)
    file.write_table(table)
    file.commit()


class TableFile:
    """A Parquet file of this machine that grows under a temporary name and is there, whole, from `commit` on."""

    def __init__(self, path: Path, schema: pa.Schema, *, packed: bool = False) -> None:
        """With `packed` the values are compressed already (PNG): neither compression nor statistics pay."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._schema = path, schema
        self._temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        self._file = self._temporary.open("wb")
        plain: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        self._writer = pq.ParquetWriter(self._file, schema, **(plain if packed else {"compression": "zstd"}))

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Adds rows as a row group."""
        if rows:
            self.write_table(pa.Table.from_pylist(rows, self._schema))

    def write_table(self, table: pa.Table) -> None:
        """Adds a table."""
        self._writer.write_table(table, row_group_size=GROUP_ROWS)

    def commit(self) -> None:
        """Ends the file: footer, fsync, rename."""
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._path)

    def discard(self) -> None:
        """Removes it if it was not committed."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what writers that were killed left behind."""
    if is_remote(folder):
        return
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Commit a JSON document atomically, keys sorted."""
    write_bytes(path, (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON document of a file, or None if it is not there."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet table."""
    return pq.read_table(opened(path), columns=columns)
