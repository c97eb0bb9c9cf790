"""CPU seconds of calls and processes, and rows of the table of targets."""

import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Row:
    """One target: what it is of, what was aimed at (as "≥ 10"; empty for a mere figure), the values of each round,
    and how it was measured."""

    what: str
    aim: str
    values: Sequence[float]
    how: str
    unit: str = "×"

    @property
    def middle(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the median is what was aimed at."""
        if not self.aim:
            return ""
        sign, bound = self.aim.split()
        return "yes" if (self.middle >= float(bound) if sign == "≥" else self.middle <= float(bound)) else "**no**"

    def line(self) -> str:
        """The row in Markdown."""
        spread = f" ({min(self.values):.3g}–{max(self.values):.3g})" if len(self.values) > 1 else ""
        return f"| {self.what} | {self.aim} | {self.middle:.3g} {self.unit}{spread} | {self.verdict} | {self.how} |"


class Process:
    """One finished process and its children: what it printed, seconds, CPU seconds, and the peak memory in MB of the
    largest of them."""

    def __init__(self, command: Sequence[object], cores: set[int] | None = None) -> None:
        began = time.perf_counter()
        with tempfile.TemporaryFile("w+") as out:
            started = subprocess.Popen(
                [str(c) for c in command], stdout=out, stderr=subprocess.DEVNULL,
                preexec_fn=lambda: os.sched_setaffinity(0, cores or {0}), env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            _, status, usage = os.wait4(started.pid, 0)
            started.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            self.out = out.read()
        if started.returncode:
            raise SystemExit(f"{' '.join(map(str, command))}: exit {started.returncode}")
        self.wall, self.cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
        self.peak = usage.ru_maxrss / 1024


def cpu_of(work: Callable[[], object]) -> float:
    """CPU seconds of a call, in this process and in children that it waits for."""
    began = _used()
    work()
    return _used() - began


def _used() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def family() -> float:
    """CPU seconds so far of this process and of all that live below it."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        used = process.cpu_times()
        total += used.user + used.system
    return total
