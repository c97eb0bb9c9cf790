"""Processor instructions per pixel of the compiled kernels, counted one by one: the same number on every run.

usage: NUMBA_CPU_NAME=generic instructions.py   (prints JSON: kernel -> instructions per pixel)

A child calls a kernel and its parent steps it instruction by instruction (ptrace). The count of a small array is taken
from that of one twice as high, so that the call itself cancels out.
"""

import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Callable

import numpy as np

from etl.kernels import compiled as kernels

TRACE_ME, STEP = 0, 9
WIDTH, ROWS = 64, 8
libc = ctypes.CDLL(None, use_errno=True)


class NotAllowedError(RuntimeError):
    """This system lets no process be stepped."""


def trace(request: int, pid: int) -> None:
    """One ptrace request."""
    if libc.ptrace(request, pid, None, None) == -1:
        raise NotAllowedError(os.strerror(ctypes.get_errno()))


def count(work: Callable[[], object]) -> int:
    """Instructions of a call and of what is around it in the child."""
    pid = os.fork()
    if pid == 0:
        gc.disable()
        if libc.ptrace(TRACE_ME, 0, None, None) == -1:
            os._exit(1)
        os.kill(os.getpid(), signal.SIGSTOP)
        work()
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    steps = 0
    try:
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            raise NotAllowedError("the child could not be traced")
        while True:
            trace(STEP, pid)
            _, status = os.waitpid(pid, 0)
            if os.WSTOPSIG(status) == signal.SIGSTOP:
                return steps
            steps += 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def calls(rows: int) -> dict[str, Callable[[], object]]:
    """A call of each kernel on an image of so many rows."""
    y, x = np.mgrid[:rows, :WIDTH]
    grey = ((x * 7 + y * 13) % 400 - 200).astype(np.int16)
    labels = ((x // 8 + y // 8) % 3).astype(np.uint8)
    table = np.arange(1 << 16, dtype=np.int64).astype(np.uint8)
    shown = grey.view(np.uint8)[:, :WIDTH].copy()
    codes = grey.astype(np.float32).view(np.uint32)
    line = np.float32(-160), np.float32(0.6375)
    numbers, boxes = np.array([1]), np.array([[rows * WIDTH // 3, 0, 0, WIDTH, rows]], np.int32)
    return {
        "extents": lambda: kernels.extents(labels[None], 3),
        "straight": lambda: kernels.straight(grey, *line, (True, True)),
        "looked_up": lambda: kernels.looked_up(grey, table, -32768),
        "straight_between": lambda: kernels.straight_across(grey[:, None], (1, 0, 1), *line, (True, True)),
        "straight_across": lambda: kernels.straight_across(grey[:, None], (2, 0, WIDTH), *line, (True, True)),
        "measured": lambda: kernels.measured(labels[None], np.array([0]), numbers, boxes, np.array([True]), 0.0),
        "histogram": lambda: kernels.histogram(grey, -200, 400),
        "digest": lambda: kernels.digest(shown),
        "block_sums": lambda: kernels.block_sums(shown, 4),
        "fingerprints": lambda: kernels.fingerprints(codes, 2**64 - 1),
        "repeats": lambda: kernels.repeats(grey[None]),
    }


def per_pixel() -> dict[str, float]:
    """Instructions per pixel of each kernel."""
    found = {}
    small, large = calls(ROWS), calls(2 * ROWS)
    for name in small:
        small[name](), large[name]()  # compiles
        found[name] = round((count(large[name]) - count(small[name])) / (ROWS * WIDTH), 2)
    return found


if __name__ == "__main__":
    try:
        print(json.dumps(per_pixel()))
    except NotAllowedError as error:
        sys.exit(f"instructions cannot be counted here: {error}")
