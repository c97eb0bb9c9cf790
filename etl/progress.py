"""Live progress on stderr: a bar for each source on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

LINE_SECONDS = 10.0


class Progress:
    """Counts cases, quarantine rows and images by source, and says how far each source is."""

    def __init__(self) -> None:
        self._expected: dict[str, int] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._began = self._said = self._last = time.monotonic()
        # when the workers turned to a source, at the result before its first, and its last result
        self._span: dict[str, tuple[float, float]] = {}
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                       TextColumn("{task.fields[more]}"), TimeRemainingColumn())  # fmt: skip
            self._bars = Bars(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()
        elif self._counts:
            self._line()

    def expect(self, source: str, cases: int) -> None:
        """A source has so many cases to do."""
        if cases:
            self._expected[source] = cases

    def add(self, source: str, accounts: list[dict[str, int]]) -> None:
        """Cases of a source have ended: how many `images` and `quarantined` rows each gave."""
        counts = self._counts.setdefault(source, Counter())
        began, self._last = self._span.get(source, (self._last, 0))[0], time.monotonic()
        self._span[source] = began, self._last
        counts["cases"] += len(accounts)
        for account in accounts:
            counts.update(account)
        if self._bars is not None:
            self._bar(source, counts)
        elif time.monotonic() - self._said > LINE_SECONDS:
            self._line()

    def _bar(self, source: str, counts: Counter[str]) -> None:
        if source not in self._tasks:
            self._tasks[source] = self._bars.add_task(source, total=self._expected[source], more="")
        more = f"{counts['quarantined']} quarantined, {self._rate(source):.3g} images/s"
        self._bars.update(self._tasks[source], completed=counts["cases"], more=more)

    def _rate(self, source: str) -> float:
        """Images of a source per second, while the workers were at it."""
        began, ended = self._span[source]
        return self._counts[source]["images"] / max(1e-3, ended - began)

    def _line(self) -> None:
        self._said = time.monotonic()
        seconds = max(1e-3, self._said - self._began)
        done = sum(c["cases"] for c in self._counts.values())
        left = (sum(self._expected.values()) - done) / done * seconds if done else 0.0
        for source, c in self._counts.items():
            if c["cases"] < self._expected[source] or not c["said"]:
                text = f"slice: {source}: {c['cases']}/{self._expected[source]} cases, {c['quarantined']} quarantined"
                print(f"{text}, {self._rate(source):.3g} images/s", file=sys.stderr)
                c["said"] = c["cases"] == self._expected[source]
        print(f"slice: {done}/{sum(self._expected.values())} cases, {left:.0f} s left", file=sys.stderr, flush=True)


class Transfers:
    """How far downloads are: a bar each on a terminal, a plain line now and then elsewhere. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> Transfers:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
                       TimeRemainingColumn())  # fmt: skip
            self._bars = Bars(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def told(self, name: str) -> Callable[[int, int | None], None]:
        """What a download named so calls with its bytes so far and its bytes in all."""

        def tell(done: int, size: int | None) -> None:
            with self._lock:
                self._bar(name, done, size) if self._bars is not None else self._line(name, done, size)

        return tell

    def _bar(self, name: str, done: int, size: int | None) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=size)
        self._bars.update(self._tasks[name], completed=done, total=size)

    def _line(self, name: str, done: int, size: int | None) -> None:
        now = time.monotonic()
        if done == size or now - self._said.get(name, now - LINE_SECONDS) >= LINE_SECONDS:
            self._said[name] = now
            share = f" ({100 * done / size:.0f} %)" if size else ""
            print(f"fetch: {name}: {done / 1e6:.1f} MB{share}", file=sys.stderr, flush=True)
