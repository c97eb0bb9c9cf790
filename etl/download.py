"""A file from elsewhere to disk: resumed where it broke off, checked, and there whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from etl import store
from etl.errors import Failure
from etl.remote import STALL_S, Changed, Interrupted, Remote, open_remote

SPARE_BYTES = 2**30
"""What a download leaves free on the disk."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a server is waited for; `attempts` are those in a row that bring no new byte."""

    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    longest_asked_s: float = 900.0
    stall_s: float = STALL_S

    def wait_s(self, failures: int, asked: float | None) -> float:
        """Seconds before the next attempt: what the server asked for, else doubled each time."""
        return min(self.longest_wait_s, self.first_wait_s * 2 ** max(0, failures - 1)) if asked is None else asked


@dataclass(frozen=True, slots=True)
class _Part:
    """What of a file has come so far, and the validator of the version it is of."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def _facts(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def mark(self) -> str | None:
        facts = store.read_json(self._facts)
        return facts["mark"] if facts else None

    def begin(self, mark: str | None) -> None:
        """Start over with a file of this version."""
        self.discard()
        store.write_json(self._facts, {"mark": mark})

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)

    def commit(self, target: Path) -> None:
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, target)
        self.discard()


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    patience: Patience = Patience(),
    tell: Callable[[int, int | None], None] = lambda done, size: None,
    stop: threading.Event | None = None,
) -> None:
    """`target` is there, whole; with the given SHA-256 if there is one. What is there already is not fetched again.

    `tell` is given the bytes received and expected. Waits out what may pass, as `patience` says, and goes on where it
    was; a call that gave up leaves what it has beside `target` for the next.

    Raises:
        Failure: it cannot be had, or is not what the manifest says.
    """
    if target.exists():  # it has its name only since it was whole and right
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target.with_name(target.name + ".part"))
    failures = mismatches = 0
    while True:
        before, asked = part.size, None
        try:
            remote = open_remote(url, *_resume(part, sha256), stall_s=patience.stall_s)
            _receive(url, remote, part, tell, stop or threading.Event())
            digest = store.sha256(part.path)
            if sha256 in (None, digest):
                return part.commit(target)
            part.discard()
            mismatches += 1
            if remote.start == 0 or mismatches > 1:
                raise Failure(f"{url}: its SHA-256 is {digest}, the manifest says {sha256}")
            cause = "the pieces do not fit together"
        except Changed as error:
            part.discard()
            cause = str(error)
        except Interrupted as error:
            cause, asked = str(error), error.wait_s
        failures = 1 if part.size > before else failures + 1
        _wait(url, cause, failures, asked, patience, part.size)


def _wait(url: str, cause: str, failures: int, asked: float | None, patience: Patience, received: int) -> None:
    if failures >= patience.attempts:
        raise Failure(f"{url}: {cause}; {failures} attempts; run it again to go on from byte {received}")
    if asked is not None and asked > patience.longest_asked_s:
        raise Failure(f"{url}: {cause}: the server asks to come back in {asked:.0f} s")
    time.sleep(patience.wait_s(failures, asked))


def _resume(part: _Part, sha256: str | None) -> tuple[int, str | None]:
    """(first byte wanted, validator): without a validator or a checksum nobody would notice another version."""
    mark = part.mark()
    return (part.size, mark) if part.size and (mark or sha256) else (0, None)


def _receive(
    url: str, remote: Remote, part: _Part, tell: Callable[[int, int | None], None], stop: threading.Event
) -> None:
    if remote.start == 0:
        part.begin(remote.mark)
    elif remote.start != part.size:
        raise Changed(f"the server went on from byte {remote.start}, there are {part.size}")
    done = remote.start
    room = done + shutil.disk_usage(part.path.parent).free - SPARE_BYTES
    if (remote.size or 0) > room:
        raise Failure(f"{url}: {remote.size} bytes do not fit on the disk of {part.path.parent}")
    with part.path.open("ab") as file:
        for chunk in remote.chunks:
            done += len(chunk)
            if done > room:
                raise Failure(f"{url}: does not fit on the disk of {part.path.parent}")
            file.write(chunk)
            tell(done, remote.size)
            if stop.is_set():
                raise Failure(f"{url}: stopped; run it again to go on from byte {done}")
    if remote.size is not None and done != remote.size:
        raise Interrupted(f"{done} of {remote.size} bytes came")
