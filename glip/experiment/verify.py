"""An experiment's folder held against itself: files as they were left, scores counted again, tables made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etl.errors import MedglipError, UsageError
from etl.store import read_json, sha256
from glip.experiment.protocol import Protocol
from glip.experiment.report import TEXTS, texts
from glip.experiment.runs import scored
from glip.experiment.tables import results

TOLERANCE = 1e-9
PASSING = ("versions", "git_commit")
"""What of a score tells who counted, not what was counted."""


def verify(out: Path) -> list[tuple[str, str]]:
    """(file, what is wrong) of everything that differs from what the predictions give; empty where all agrees.

    Raises UsageError where there is no experiment.
    """
    content = read_json(out / "protocol.json")
    if content is None:
        raise UsageError(f"{out}: no experiment here, protocol.json is missing")
    protocol = Protocol.model_validate(content)
    problems = []
    runs = sorted(out.glob("runs/*/*/*/run.json"))
    if not runs:
        problems.append(("runs", "no finished run"))
    for path in runs:
        problems += _run(out, path.parent)
    if not problems:
        made = texts(protocol, results(protocol, out))
        problems += [(name, "differs from the table of the scores") for name in TEXTS
                     if not (out / name).is_file() or (out / name).read_text() != made[name]]  # fmt: skip
    return problems


def _run(out: Path, folder: Path) -> list[tuple[str, str]]:
    problems = []
    name = str(folder.relative_to(out))
    finished, settings = read_json(folder / "run.json"), read_json(folder / "settings.json")
    for file, digest in finished["sha256"].items():
        if not (folder / file).is_file():
            problems.append((f"{name}/{file}", "is missing"))
        elif sha256(folder / file) != digest:
            problems.append((f"{name}/{file}", "is not the file that the run left"))
    if problems:
        return problems
    for test, told in settings["decides"]["tests"].items():
        truth = out / "selections" / told["selection"] / "dataset" / "annotations" / "test.labels.json"
        problem = _scores(folder, test, truth, told["digest"], settings["decides"]["bootstrap"])
        problems += [(f"{name}/scores/{test}.json", problem)] if problem else []
    return problems


def _scores(folder: Path, test: str, truth: Path, digest: str, bootstrap: int) -> str | None:
    if not truth.is_file() or sha256(truth) != digest:
        return f"{truth} is not the ground truth of the run"
    kept = read_json(folder / "scores" / f"{test}.json")
    if kept is None:
        return "is missing"
    try:
        again = scored(folder, test, truth, bootstrap)
    except MedglipError as error:
        return str(error)
    return _difference({k: v for k, v in kept.items() if k not in PASSING},
                       {k: v for k, v in again.items() if k not in PASSING}, "")  # fmt: skip


def _difference(kept: Any, again: Any, at: str) -> str | None:
    """Where two JSON values differ first, numbers by more than rounding."""
    if isinstance(kept, dict) and isinstance(again, dict):
        if kept.keys() != again.keys():
            return f"{at or 'it'} has other keys"
        parts = ((kept[key], again[key], f"{at}.{key}".lstrip(".")) for key in kept)
    elif isinstance(kept, list) and isinstance(again, list) and len(kept) == len(again):
        parts = ((a, b, f"{at}[{n}]") for n, (a, b) in enumerate(zip(kept, again, strict=True)))
    elif isinstance(kept, int | float) and isinstance(again, int | float):
        return None if abs(kept - again) <= TOLERANCE else f"{at} is {kept}, the predictions give {again}"
    else:
        return None if kept == again else f"{at} is {kept}, the predictions give {again}"
    return next((found for a, b, where in parts if (found := _difference(a, b, where))), None)
