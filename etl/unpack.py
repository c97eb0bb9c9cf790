"""Archives to folders. An archive is a stranger's: what could leave its folder, fill the disk or hide is refused.

Refused, each with the member's name: absolute paths, `..`, links, devices, encrypted or sparse members, two members
of one path, more members or bytes than the budget, and a size that no honest archive of its length has.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from etl.errors import Failure

CHUNK = 2**20
PART_BYTES = 255  # of one path part, as file systems have it
OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
DAMAGE = (OSError, EOFError, RuntimeError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)


@dataclass(frozen=True, slots=True)
class Budget:
    """What an archive may unpack to; `ratio` is unpacked to packed bytes and counts from `ratio_from` bytes on.

    A label volume of mostly zeros packs 300 to 1, deflate ends at 1032 to 1.
    """

    members: int = 2_000_000
    size: int = 4 * 2**40
    ratio: int = 500
    ratio_from: int = 64 * 2**20


class Refused(Failure):
    """An archive that is not unpacked: the member because of which, or that it is damaged or of another kind."""


@dataclass(slots=True)
class _Account:
    """What an archive has unpacked to, against its budget."""

    archive: Path
    budget: Budget
    members: int = 0
    size: int = 0
    taken: set[str] = field(default_factory=set)

    def refuse(self, member: str, cause: str) -> Refused:
        return Refused(f"{self.archive.name}: member {member!r}: {cause}; nothing of the archive was unpacked")

    def enter(self, member: str, size: int) -> str | None:
        """The path below the folder of the next member; None for the folder itself."""
        name = self._path(member)
        if name is None:
            return None
        if name in self.taken:
            raise self.refuse(member, "the second of this path")
        self.taken.add(name)
        self.members += 1
        self.size += size
        if self.members > self.budget.members:
            raise self.refuse(member, f"more than {self.budget.members} members")
        if self.size > self.budget.size:
            raise self.refuse(member, f"unpacks to {self.size} bytes so far, the budget is {self.budget.size}")
        packed = self.archive.stat().st_size
        if self.size > max(self.budget.ratio_from, self.budget.ratio * packed):
            raise self.refuse(member, f"{packed} packed bytes would unpack to {self.size} and more: a bomb")
        return name

    def _path(self, member: str) -> str | None:
        text = member.replace("\\", "/")
        if text.startswith("/") or re.match(r"[A-Za-z]:", text):
            raise self.refuse(member, "an absolute path")
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self.refuse(member, "leaves its folder")
        if any(ord(letter) < 32 for letter in text):
            raise self.refuse(member, "control characters in its name")
        if any(len(os.fsencode(part)) > PART_BYTES for part in parts):
            raise self.refuse(member, f"a name of more than {PART_BYTES} bytes")
        return "/".join(parts) or None


def unpack(archive: Path, kind: Literal["zip", "tar"], folder: Path, budget: Budget = Budget()) -> None:
    """All members of an archive in `folder`, which must be new or empty; a tar may be packed by gzip, bzip2 or xz.

    Archives inside the archive stay archives. Permissions and owners are not taken over.

    Raises:
        Refused: it is not to be trusted, or no whole archive; Failure: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    account = _Account(archive, budget)
    with _damage(archive):
        if kind == "zip":
            _unzip(archive, folder, account)
        else:
            _untar(archive, folder, account)
    if not account.members:
        raise Refused(f"{archive.name}: an empty archive")


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise Failure(f"{archive.name}: {error.strerror}") from error
        with archive.open("rb") as file:
            head = file.read(64)
        page = head.lstrip().lower().startswith((b"<!doctype html", b"<html"))
        why = "a web page, not the file: the server wants a login or a click" if page else f"damaged ({error})"
        raise Refused(f"{archive.name}: {why}") from error


def _unzip(archive: Path, folder: Path, account: _Account) -> None:
    with zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
        names = [account.enter(member.filename, _zip_size(member, account)) for member in members]
        _require_room(account, folder)
        for member, name in zip(members, names, strict=True):
            if name is None:
                continue
            if member.is_dir():
                _make_folder(folder, name, member.filename, account)
                continue
            try:
                source = packed.open(member)
            except NotImplementedError as error:
                raise account.refuse(member.filename, f"{error}; unpack it by hand") from error
            with source:
                _copy(source, folder, name, (member.filename, member.file_size), account)


def _zip_size(member: zipfile.ZipInfo, account: _Account) -> int:
    """The declared size of a member that is a plain file or a folder."""
    if member.flag_bits & 0x1:
        raise account.refuse(member.filename, "encrypted; unpack it by hand with its password")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise account.refuse(member.filename, "a link" if kind == stat.S_IFLNK else "no plain file")
    return member.file_size


def _untar(archive: Path, folder: Path, account: _Account) -> None:
    with _unpacked(archive) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as packed:  # type: ignore[call-overload]
        for member in packed:
            if member.issym() or member.islnk():
                raise account.refuse(member.name, f"a link to {member.linkname!r}")
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise account.refuse(member.name, "neither a plain file nor a folder")
            name = account.enter(member.name, member.size)
            if name is None:
                continue
            _require_room(account, folder, ahead=member.size)
            source = None if member.isdir() else packed.extractfile(member)
            if source is None:
                _make_folder(folder, name, member.name, account)
            else:
                _copy(source, folder, name, (member.name, member.size), account)


def _unpacked(archive: Path) -> Any:
    with archive.open("rb") as file:
        head = file.read(8)
    opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), open)
    return opener(archive, "rb")


class _Bounded:
    """A stream that reads at most a chunk at once: tarfile takes an extended header, however long, in one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)


def _require_room(account: _Account, folder: Path, ahead: int | None = None) -> None:
    needed, free = account.size if ahead is None else ahead, shutil.disk_usage(folder).free
    if needed > free:
        raise Failure(f"{account.archive.name}: needs {needed} bytes to unpack, the disk of {folder} has {free} left")


def _make_folder(folder: Path, name: str, member: str, account: _Account) -> None:
    try:
        (folder / name).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise account.refuse(member, "a folder where another member is a file") from error


def _copy(source: IO[bytes], folder: Path, name: str, member: tuple[str, int], account: _Account) -> None:
    """One member to its place: as many bytes as declared, never over another one."""
    title, size = member
    target = folder / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            shutil.copyfileobj(source, file, CHUNK)
            written = file.tell()
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise account.refuse(title, "in the place of another member") from error
    if written != size:
        raise account.refuse(title, f"cut off: {written} of {size} bytes")


def move_in(staged: Path, target: Path) -> None:
    """What is in `staged` below `target`; whole folders at once where there is nothing yet.

    Raises:
        Refused: another file is there already; nothing is written over. Files of the same bytes are no conflict, so
            that a move that was cut off can be done again.
    """
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(staged.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            move_in(entry, place)
        elif not os.path.lexists(place):
            os.rename(entry, place)
        elif entry.is_dir() or not place.is_file() or not _same_bytes(entry, place):
            raise Refused(f"{place}: another file is there already; move it away, or give the download its own `into`")


def _same_bytes(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while chunk := a.read(CHUNK):
            if chunk != b.read(CHUNK):
                return False
    return True
