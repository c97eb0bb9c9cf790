"""Paths on an object store: what this project does with files, done with whole objects.

An `S3Path` is used where a `Path` is. An object is there, whole, from the end of its upload on; nothing is renamed,
nothing is appended to. A request that fails, is told to slow down or breaks off is made again, for minutes.
"""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple, TypeVar, cast

from etl.errors import Failure, UsageError
from etl.remote import has_credentials

R = TypeVar("R")
SCHEME = "s3://"
TRIES, FIRST_WAIT_S, LONGEST_WAIT_S = 12, 0.2, 30.0  # about two minutes and a half of patience
WHOLE_BYTES = 64 * 2**20  # objects up to this size are read in one request
TIMES = {"connect_timeout": 20, "read_timeout": 60}
LASTING = frozenset({"NoSuchBucket", "NoSuchKey", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "404"})


class Stat(NamedTuple):
    """Size in bytes and a number that changes with the content."""

    st_size: int
    st_mtime_ns: int


def place(text: str) -> Path:
    """The path of a folder, or of a prefix on an object store (`s3://bucket/prefix`).

    Raises:
        UsageError: the address is of another kind.
    """
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme not in ("", "s3") or (not scheme and text.startswith("s3:")):
        raise UsageError(f"{text}: give a folder, or an address as s3://bucket/prefix")
    if not scheme:
        return Path(text)
    path = S3Path(text)
    if len(path.parts) < 2:
        raise UsageError(f"{text}: names no bucket")
    return cast(Path, path)


def is_remote(path: Path | S3Path) -> bool:
    """Whether a path is on an object store."""
    return isinstance(path, S3Path)


class S3Path(PurePosixPath):
    """`s3://bucket/key`, with the methods of `Path` that are used here; a folder is a prefix with objects below it."""

    __slots__ = ()

    def __str__(self) -> str:
        whole = self.parts[:1] == ("s3:",)  # else it is the part of a path behind another
        return SCHEME + "/".join(self.parts[1:]) if whole else "/".join(self.parts)

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is no file of this machine")

    def exists(self) -> bool:
        """Whether there is an object of this name or one below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there are objects below this name."""
        return bool(_patiently(lambda files: _first_below(files, self), self))

    def resolve(self) -> S3Path:
        """The path."""
        return self

    def stat(self) -> Stat:
        """Size and version of the object; FileNotFoundError if there is none."""
        facts = _patiently(lambda files: files.info(str(self)), self)
        if facts["type"] != "file":
            raise FileNotFoundError(str(self))
        return _stat(facts)

    def open(self, mode: Literal["rb", "wb"] = "rb") -> IO[bytes]:
        """The object to read, or a new one that is there from `close` on (not if the `with` block raises)."""
        if mode == "wb":
            return cast(IO[bytes], Upload(self))
        size = self.stat().st_size
        if size <= WHOLE_BYTES:
            return io.BytesIO(self.read_bytes())
        return cast(IO[bytes], _patiently(lambda files: files.open(str(self), "rb", cache_type="readahead"), self))

    def read_bytes(self) -> bytes:
        """The content; FileNotFoundError if there is no such object."""
        data: bytes = _patiently(lambda files: files.cat_file(str(self)), self)
        return data

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """Puts the object."""
        _patiently(lambda files: files.pipe_file(str(self), data), self)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Puts the object."""
        self.write_bytes(text.encode(encoding))

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        if not missing_ok:
            self.stat()
        _patiently(lambda files: files.rm_file(str(self)), self)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a store has no folders."""

    def below(self) -> dict[str, Stat]:
        """Every object below this name, by its path from here."""
        start = len("/".join(self.parts[1:])) + 1
        found = _patiently(lambda files: files.find(str(self), detail=True), self)
        return {name[start:]: _stat(facts) for name, facts in found.items() if facts["type"] == "file"}

    def glob(self, pattern: str) -> Iterator[S3Path]:
        """The objects just below this name whose own name fits."""
        return (self / name for name in self.below() if "/" not in name and fnmatchcase(name, pattern))

    def rglob(self, pattern: str) -> Iterator[S3Path]:
        """The objects below this name whose own name fits."""
        return (self / name for name in self.below() if fnmatchcase(name.rsplit("/", 1)[-1], pattern))

    def remove_tree(self) -> None:
        """Removes every object below this name."""
        for name in self.below():
            (self / name).unlink(missing_ok=True)

    def copy_to(self, target: S3Path) -> None:
        """The same content as another object; it does not pass through this machine."""
        _patiently(lambda files: files.copy(str(self), str(target)), self)

    def download(self, target: Path) -> None:
        """The content as a file of this machine."""
        target.parent.mkdir(parents=True, exist_ok=True)
        _patiently(lambda files: files.get_file(str(self), str(target)), self)

    def upload(self, source: Path) -> None:
        """Puts a file of this machine."""
        _patiently(lambda files: files.put_file(str(source), str(self)), self)


class Upload:
    """A file of this machine that becomes an object when it is closed."""

    mode = "wb"

    def __init__(self, path: S3Path) -> None:
        self._path = path
        self._file = tempfile.NamedTemporaryFile(prefix="medglip-")  # noqa: SIM115

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def close(self) -> None:
        """Puts the object."""
        if not self._file.closed:
            self._file.flush()
            self._path.upload(Path(self._file.name))
            self._file.close()


def _first_below(files: Any, path: S3Path) -> list[Any]:
    bucket, _, key = "/".join(path.parts[1:]).partition("/")
    found = files.call_s3("list_objects_v2", Bucket=bucket, Prefix=key and f"{key}/", MaxKeys=1)
    return list(found.get("Contents", ()))


def _stat(facts: dict[str, Any]) -> Stat:
    tag = str(facts.get("ETag") or facts.get("LastModified"))
    return Stat(int(facts["size"]), int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8]))


@lru_cache(maxsize=1)
def _files() -> Any:
    try:
        import s3fs
    except ImportError as error:
        raise UsageError("s3:// addresses need `pip install 'medglip-etl[s3]'`") from error
    return s3fs.S3FileSystem(anon=not has_credentials(), use_listings_cache=False, config_kwargs=TIMES)


def _patiently(call: Callable[[Any], R], path: S3Path) -> R:
    """The result of a call on the store, made again while it fails in a way that may pass.

    Raises:
        FileNotFoundError: there is no such object; Failure: it cannot be had.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    files = _files()
    for attempt in range(TRIES):
        try:
            return call(files)
        except FileNotFoundError:
            raise
        except (PermissionError, NoCredentialsError) as error:
            raise Failure(f"{path}: no permission; the bucket wants credentials, as AWS tools find them") from error
        except (OSError, BotoCoreError, ClientError, TimeoutError) as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
            if code in LASTING or attempt == TRIES - 1:
                raise Failure(f"{path}: the object store does not serve it: {error}") from error
        time.sleep(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt) * random.uniform(0.5, 1))
    raise AssertionError
