"""Work on untrusted files in a child process with limits: a crash, a hang or a memory bomb costs one item.

One child serves one worker for as long as it lives, so that starting it costs once. It does the whole work of an
item (decode, cut, encode, write), so that no pixel crosses a process border; see decision 0006.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import IO, Any

from etl.errors import Failure, ItemError
from etl.pixels.raster import MAX_BYTES

STARTED, ALIVE, RESULT, FAULT = b"S", b"A", b"R", b"F"
START_SECONDS = 120.0  # for a child to start and to import what its work needs, also on a busy machine
_FRAME = struct.Struct("<cQ")
_TELL_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use: seconds without a sign of life, bytes of memory beyond its libraries, bytes in one file."""

    seconds: float
    memory: int
    output: int = 4 * MAX_BYTES


class Died(Exception):  # noqa: N818
    """The child ended while it worked on item `at` (the last it named); `error` is the reason for quarantine.

    `killed`: by somebody else, a person or a system short of memory, which may be no fault of the item.
    """

    def __init__(self, at: str, error: ItemError, *, killed: bool = False) -> None:
        super().__init__(at, error)
        self.at = at
        self.error = error
        self.killed = killed


def limits(memory: int | None = None) -> Limits:
    """Five minutes, and so many bytes of memory; None: four fifths of this machine's (or its container's)."""
    if memory is not None:
        return Limits(300, memory)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max") as file:
        memory = min(memory, int(file.read()))
    return Limits(300, memory * 4 // 5)


_here = threading.local()


def call(work: Callable[[Any], Any], argument: Any, within: Limits | None = None) -> Any:
    """`work(argument)` in this thread's child; the result must be JSON.

    Raises:
        Died: the child crashed, hung or ran out of memory; the next call starts a new one.
        Failure: `work` raised something that is no item's fault; the message is its traceback.
    """
    within = within or limits()
    children: dict[Limits, _Child] = _here.__dict__.setdefault("children", {})
    child = children.get(within)
    if child is None or child.ended():  # one that is left ends when its stdin is closed with it
        child = children[within] = _Child(within)
    return child.call(work, argument)


def _environment() -> dict[str, str]:
    """Ours, and large blocks of memory in large pages (glibc 2.35 or newer): a volume takes 6 % less time."""
    tunables = [text for text in (os.environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1") if text]
    return {**os.environ, "GLIBC_TUNABLES": ":".join(tunables)}


class _Child:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._at, self._where = "", os.getcwd()
        command = [sys.executable, "-c", "from etl.isolate import serve; serve()", *map(str, astuple(limits))]
        # a new process inherits the peak of the one that starts it
        self._inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment())

    def ended(self) -> bool:
        """Whether it is of no more use: it is gone, or relative paths mean other files to it than to us."""
        return self._process.poll() is not None or self._where != os.getcwd()

    def call(self, work: Callable[[Any], Any], argument: Any) -> Any:
        assert self._process.stdin is not None
        self._at = ""
        try:
            _send(self._process.stdin, RESULT, pickle.dumps((work, argument)))
            seconds = max(START_SECONDS, self._limits.seconds)
            while True:
                kind, payload = self._receive(seconds)
                seconds = self._limits.seconds
                if kind == RESULT:
                    return json.loads(payload)
                if kind == FAULT:
                    raise Failure(payload.decode())
                self._at = payload.decode() or self._at
        except (EOFError, BrokenPipeError):
            error = self._cause()
            raise Died(self._at, error, killed=self._process.returncode == -signal.SIGKILL) from None
        except TimeoutError:
            self._process.kill()
            self._cause()
            detail = f"its decoding hung: no progress for {self._limits.seconds:g} seconds"
            raise Died(self._at, ItemError("unreadable", detail)) from None
        except BaseException:  # an interrupted call leaves an answer in the pipe: this child is of no more use
            self._process.kill()
            self._cause()
            raise

    def _receive(self, seconds: float) -> tuple[bytes, bytes]:
        """The next message; EOFError when the child is gone, TimeoutError when it stays silent so long."""
        kind, size = _FRAME.unpack(self._read(_FRAME.size, seconds))
        return kind, self._read(size, seconds)

    def _read(self, size: int, seconds: float) -> bytes:
        assert self._process.stdout is not None
        data, end = b"", time.monotonic() + seconds
        while len(data) < size:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError
            piece = os.read(self._process.stdout.fileno(), size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def _cause(self) -> ItemError:
        """Why the child ended."""
        peak = 0
        if self._process.returncode is None:
            _, status, usage = os.wait4(self._process.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            peak = usage.ru_maxrss * 1024
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        code = self._process.returncode
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if name == "SIGXCPU":
            return ItemError("unreadable", f"its decoding hung: no progress for {self._limits.seconds:g} seconds")
        if name == "SIGKILL" or peak > max(self._limits.memory * 0.8, self._inherited):
            return ItemError("too_large", "its decoding took more memory than there is")
        return ItemError("unreadable", f"its decoding crashed ({name})")


def _send(stream: IO[bytes], kind: bytes, payload: bytes) -> None:
    stream.write(_FRAME.pack(kind, len(payload)) + payload)
    stream.flush()


# --- in the child -----------------------------------------------------------------------------------------------

_replies: IO[bytes] | None = None
_seconds = 0.0
_told = 0.0


def alive(at: str = "") -> None:
    """A sign of life, and which item is worked on; nothing outside a child. Call it more often than every few
    seconds of work."""
    global _told
    if _replies is None:
        return
    now = time.monotonic()
    if at or now - _told >= _TELL_EVERY_S:
        _told = now
        _allow_cpu()
        try:
            _send(_replies, ALIVE, at.encode())
        except BrokenPipeError:  # the parent is gone: nothing of this item may count
            os._exit(1)


def _allow_cpu() -> None:
    """Lets the child compute for its time from now on, so that it ends also when nobody watches it."""
    used = time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used + 2 * _seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def serve() -> None:
    """The child's life: takes work from stdin until it closes, answers on what was stdout."""
    global _replies, _seconds
    _seconds, memory, output = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _replies = os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)  # libraries print what they read: it belongs in no log
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _lower(resource.RLIMIT_FSIZE, output)
    limited = False
    while True:
        head = sys.stdin.buffer.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return
        data = sys.stdin.buffer.read(_FRAME.unpack(head)[1])
        try:
            work, argument = pickle.loads(data)  # from the parent only
            _send(_replies, STARTED, b"")
            if not limited:
                _lower(resource.RLIMIT_AS, _size() + memory)
                limited = True
            _allow_cpu()
            answer = json.dumps(work(argument)).encode()
        except BaseException:
            _send(_replies, FAULT, traceback.format_exc().encode())
        else:
            _send(_replies, RESULT, answer)


def _lower(what: int, value: int) -> None:
    soft, hard = resource.getrlimit(what)
    limits = [v for v in (soft, hard) if v != resource.RLIM_INFINITY]
    resource.setrlimit(what, (min([value, *limits]), hard))


def _size() -> int:
    """Bytes of address space in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
