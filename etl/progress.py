"""Live progress on stderr: a bar for each source on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

LINE_SECONDS = 10.0


class Progress:
    """Counts cases, quarantine rows and images by source, and says how far each source is."""

    def __init__(self) -> None:
        self._expected: dict[str, int] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._began = self._said = time.monotonic()
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
        rate = counts["images"] / max(1e-3, time.monotonic() - self._began)
        more = f"{counts['quarantined']} quarantined, {rate:.0f} images/s"
        self._bars.update(self._tasks[source], completed=counts["cases"], more=more)

    def _line(self) -> None:
        self._said = time.monotonic()
        seconds = max(1e-3, self._said - self._began)
        done = sum(c["cases"] for c in self._counts.values())
        left = (sum(self._expected.values()) - done) / done * seconds if done else 0.0
        for source, c in self._counts.items():
            if c["cases"] < self._expected[source] or not c["said"]:
                text = f"slice: {source}: {c['cases']}/{self._expected[source]} cases, {c['quarantined']} quarantined"
                print(f"{text}, {c['images'] / seconds:.0f} images/s", file=sys.stderr)
                c["said"] = c["cases"] == self._expected[source]
        print(f"slice: {done}/{sum(self._expected.values())} cases, {left:.0f} s left", file=sys.stderr, flush=True)
