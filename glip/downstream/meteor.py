"""METEOR 1.5 through its own Java program, as pycocoevalcap ships it; without Java there is no METEOR, and no zero."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from glip.downstream.captions import Floats, Metric


def missing() -> str | None:
    """What METEOR lacks here, and the way out; None if it can run."""
    if shutil.which("java") is None:
        return "METEOR needs Java (any version from 8 on): install a JRE"
    if _jar() is None:
        return "METEOR needs its program: pip install 'medglip-etl[downstream]'"
    return None


def _jar() -> Path | None:
    from importlib.util import find_spec

    spec = find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "meteor" / "meteor-1.5.jar"
        if path.exists():
            return path
    return None


class Meteor:
    """A running METEOR program."""

    def __init__(self, pipe: subprocess.Popen[str]) -> None:
        self._pipe = pipe

    def _say(self, line: str) -> None:
        assert self._pipe.stdin is not None
        self._pipe.stdin.write(line + "\n")
        self._pipe.stdin.flush()

    def _hear(self) -> str:
        stdout: IO[str] | None = self._pipe.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise RuntimeError("METEOR's program ended")
        return line.strip()

    def metric(self, answers: Sequence[str], truths: Sequence[str]) -> Metric:
        """The METEOR of a corpus, equal to pycocoevalcap's. Valid as long as the program runs."""
        rows = []
        for answer, truth in zip(answers, truths, strict=True):
            self._say(f"SCORE ||| {_plain(truth)} ||| {_plain(answer)}")
            rows.append([float(v) for v in self._hear().split()])
        table = np.asarray(rows, float).reshape(-1, 23)
        whole = (table[:, 21] == table[:, 0]) & (table[:, 22] == table[:, 1]) & (table[:, 20] == 1)
        table[whole, 20] = 0  # the program counts no chunk for a report that is its reference, word for word
        return Metric(table, self._values)

    def _values(self, sums: Floats) -> Floats:
        """The score that the program gives for sums of its statistics, which are additive."""
        flat = sums.reshape(-1, sums.shape[-1])
        out = np.empty(len(flat))
        for n, row in enumerate(flat):
            self._say("EVAL ||| " + " ".join(repr(float(v)) for v in row))
            self._hear()  # of the one segment, then of the whole
            out[n] = float(self._hear())
        return out.reshape(sums.shape[:-1])


def _plain(text: str) -> str:
    return " ".join(text.replace("|||", "").split())


@contextmanager
def running() -> Iterator[Meteor]:
    """METEOR's program until the end of the block. Call only if `missing()` is None."""
    jar = _jar()
    assert jar is not None
    command = ["java", "-Xmx1G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    pipe = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    )
    try:
        yield Meteor(pipe)
    finally:
        pipe.kill()
        pipe.communicate()


@contextmanager
def added(
    metrics: Mapping[str, dict[str, Metric]], texts: Mapping[str, Sequence[str]], truths: Sequence[str]
) -> Iterator[dict[str, str]]:
    """METEOR among the metrics of each arm until the end of the block; gives what is missing, with the way out."""
    lacking = missing()
    if lacking is not None:
        yield {"METEOR": lacking}
        return
    with running() as program:
        for arm, lines in texts.items():
            metrics[arm]["METEOR"] = program.metric(lines, truths)
        yield {}
