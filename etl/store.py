"""Atomic files, Parquet tables and digests of settings."""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

COPIED = 4 * 2**20  # bytes copied at a time


def digest(value: Any) -> str:
    """Hex digest of a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary name, fsync, rename."""
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
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def write_table(path: Path, table: pa.Table) -> None:
    """Commit a Parquet table atomically."""
    file = TableFile(path, table.schema)
    file.write_table(table)
    file.commit()


class TableFile:
    """A Parquet file that grows under a temporary name and is there, whole, from `commit` on."""

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
        self._writer.write_table(table, row_group_size=100_000)

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
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Commit a JSON document atomically, keys sorted."""
    write_bytes(path, (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON document of a file, or None if it is not there."""
    return json.loads(path.read_text()) if path.exists() else None
