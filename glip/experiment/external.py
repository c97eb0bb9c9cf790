"""Any detector in an environment of its own: its commands are run, or the results it left are read.

Commands are words with placeholders, run without a shell. `train` gets {annotations} (COCO, labels as categories) and
{images} (the folder of their pictures) of the training selection; `predict` the same of a test set, and {results}, the
file to write. Both get {model} (a folder for weights), {data}, {study}, {test}, {amount} and {seed}.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from etl.errors import Failure, UsageError
from glip.experiment.detector import Job, Rows
from glip.experiment.protocol import ExternalModel
from glip.experiment.selection import Selection


@dataclass(frozen=True, slots=True)
class External:
    """A detector behind two command lines, or a set of results files."""

    model: ExternalModel

    def train(self, job: Job) -> None:
        """Runs the command, if there is one and something to train on; Failure names what it ended with."""
        if self.model.train is None or job.training is None:
            return
        job.weights.mkdir(parents=True, exist_ok=True)
        _run(self.model.train, _places(job, job.training))

    def predict(self, job: Job, test: str) -> Rows:
        """The results that the command writes, or that are there; Failure says what to do where there are none."""
        places = _places(job, job.tests[test]) | {"test": test}
        if self.model.predict is not None:
            written = job.folder / f"external-{test}.json"
            places["results"] = str(written)
            _run(self.model.predict, places)
        elif self.model.results is not None:
            written = Path(_filled(self.model.results, places))
        else:
            raise UsageError(f"model {job.model}: give its command `predict`, or `results`, the files it left")
        return _read(written, job.model)


def _places(job: Job, part: Selection) -> dict[str, str]:
    return {
        "annotations": str(part.truth.resolve()), "images": str((job.data / "dataset" / "images").resolve()),
        "model": str(job.weights.resolve()), "data": str(job.data.resolve()), "study": job.study,
        "amount": job.amount.folder, "seed": str(job.seed), "python": sys.executable,
    }  # fmt: skip


def _filled(text: str, places: dict[str, str]) -> str:
    try:
        return text.format_map(places)
    except (KeyError, ValueError, IndexError) as error:
        known = ", ".join(f"{{{name}}}" for name in places)
        raise UsageError(f"'{text}': unknown placeholder {error}; known are {known}") from error


def _run(command: str, places: dict[str, str]) -> None:
    words = [_filled(word, places) for word in shlex.split(command)]
    print(f"$ {shlex.join(words)}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Failure(f"{words[0]}: cannot be run: {error.strerror}") from error
    print(done.stdout + done.stderr, file=sys.stderr, flush=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
        raise Failure(f"{shlex.join(words)}: ended with {done.returncode}: {last}")


def _read(path: Path, model: str) -> Rows:
    if not path.is_file():
        raise Failure(f"model {model}: no results in {path}; train and run the detector in its own environment first")
    try:
        rows: Any = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise Failure(f"{path}: not JSON: {error}") from error
    if not isinstance(rows, list):
        raise Failure(f"{path}: no COCO results: a list of {{image_id, category_id, bbox, score}}")
    return rows
