"""The runs of a protocol: planned, done where they are missing, and kept so that anyone can check them.

    OUT/protocol.json                                   the protocol, as it was run
    OUT/selections/<split>-<digest>/                    what is trained and tested on
    OUT/runs/<study>/<model>/<amount>-seed<k>/          one run:
        settings.json                                   everything that decides it, and what it ran on
        log.txt, model/                                 what the detector said; its weights, if not another run's
        predictions/<test>.json, scores/<test>.json     COCO results; their evaluation
        run.json                                        written last: tries, time, digests, whose weights
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from etl.errors import Failure, UsageError
from etl.evaluation.detections import fingerprint, read_results, read_truth
from etl.evaluation.provenance import git_commit, versions
from etl.evaluation.scores import Settings, evaluate
from etl.store import digest, read_json, sha256, write_bytes, write_json
from glip.experiment.detector import Detector, Job, detector
from glip.experiment.protocol import GlipModel, Model, Protocol, run_folder
from glip.experiment.selection import Selection, people, shared, testing, training, written

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """A planned run; `key` is a digest of everything that decides its result."""

    job: Job
    settings: dict[str, Any]
    key: str

    @property
    def training(self) -> str:
        """A digest of what decides the weights alone."""
        parts = {key: self.settings.get(key) for key in ("model", "seed", "detector", "dataset", "training", "init")}
        return digest(parts | {"modalities": self.job.modalities})

    @property
    def done(self) -> bool:
        """Whether it is finished."""
        return (self.job.folder / "run.json").is_file()


def run_all(protocol: Protocol, data: Path, out: Path, tell: Tell, part: tuple[int, int] = (1, 1)) -> int:
    """Does the missing runs, in the order of the protocol; how many there were to do.

    `part` (k, n) does every n-th run from the k-th on, so that n processes or machines share a folder.

    Raises UsageError where `out` holds finished runs of other settings or other data.
    """
    runs = plan(protocol, data, out)
    _refuse_strangers(runs)
    kept = json.dumps(protocol.model_dump(mode="json"), indent=1, ensure_ascii=False)  # its order is that of the tables
    write_bytes(out / "protocol.json", kept.encode() + b"\n")
    mine = runs[part[0] - 1 :: part[1]]
    missing = [run for run in mine if not run.done]
    tell(f"{len(mine)} runs, {len(mine) - len(missing)} done before")
    for n, run in enumerate(missing, 1):
        tell(f"{n}/{len(missing)} {run.job.folder.relative_to(out / 'runs')}")
        _do(_with_weights(run, runs), detector(protocol.models[run.job.model]), protocol.bootstrap)
    return len(missing)


def plan(protocol: Protocol, data: Path, out: Path) -> list[Run]:
    """All runs of a protocol; writes the selections. UsageError where a subject would be trained and tested on."""
    known, made = people(data), _fingerprint(data)
    below = out / "selections"
    runs = []
    for name, study in protocol.studies.items():
        chosen = {test: testing(t, known) for test, t in study.tests.items()}
        tests = {test: written(data, c, below) for test, c in chosen.items()}
        for seed in study.seeds:
            for model, amounts in study.models.items():
                for amount in amounts:
                    wanted = training(study, amount, seed, known)
                    for test, c in chosen.items():
                        both = shared(wanted, c) if wanted else []
                        if both:
                            raise UsageError(f"study {name}: test {test} has subjects of the training: {both[0]} …")
                    part = written(data, wanted, below) if wanted else None
                    folder = run_folder(out, name, model, amount, seed)
                    job = Job(name, model, amount, seed, folder, data, part, tests)
                    _refuse_new_modalities(job)
                    settings = _settings(protocol, job, made)
                    runs.append(Run(job, settings, digest(settings)))
    return runs


def _fingerprint(data: Path) -> str:
    return fingerprint(sorted((data / "dataset" / "annotations").glob("*.json")))


def _refuse_new_modalities(job: Job) -> None:
    if job.training is None:
        return
    for test, selection in job.tests.items():
        new = sorted(set(selection.about["modalities"]) - set(job.training.about["modalities"]))
        if new:
            raise UsageError(f"study {job.study}: test {test} has images of {', '.join(new)}, the training has none")


def _settings(protocol: Protocol, job: Job, made: str) -> dict[str, Any]:
    """What decides a run's result, as JSON."""
    return {
        "study": job.study, "model": job.model, "amount": str(job.amount), "seed": job.seed,
        "detector": protocol.models[job.model].model_dump(mode="json"),
        "bootstrap": protocol.bootstrap,
        "dataset": made,
        "training": _told(job.training) if job.training else None,
        "tests": {name: _told(selection) for name, selection in job.tests.items()},
        **_init(protocol.models[job.model]),
    }  # fmt: skip


def _init(model: Model) -> dict[str, str]:
    """`init`: SHA-256 of the weights file that a model starts from, if any; UsageError where it is not there."""
    if not isinstance(model, GlipModel) or model.init is None:
        return {}
    if not model.init.is_file():
        raise UsageError(f"{model.init}: no such file; the protocol starts GLIP from it (init)")
    return {"init": _sha256(model.init, model.init.stat().st_mtime_ns)}


@lru_cache(maxsize=8)
def _sha256(path: Path, _: int) -> str:
    return sha256(path)


def _told(selection: Selection) -> dict[str, Any]:
    about = {key: selection.about[key] for key in ("digest", "images", "subjects", "regions", "modalities")}
    return about | {"selection": selection.folder.name}


def _refuse_strangers(runs: list[Run]) -> None:
    """UsageError where a run that was begun here has other settings than the protocol's."""
    for run in runs:
        begun = read_json(run.job.folder / "settings.json")
        if begun is None or begun["key"] == run.key:
            continue
        was = begun["decides"]
        differs = [key for key in run.settings if was.get(key) != run.settings[key]]
        raise UsageError(
            f"{run.job.folder}: holds a run with another {', '.join(differs)}; take another --out, or remove it"
        )


def _with_weights(run: Run, runs: list[Run]) -> Run:
    """The run, with the weights of a finished one that another study trained in the same way, if there is one."""
    if run.job.weights.is_dir():
        return run
    for other in runs:
        if other.done and other.training == run.training and other.job.weights.is_dir():
            return replace(run, job=replace(run.job, lender=other.job.folder))
    return run


def _do(run: Run, chosen: Detector, bootstrap: int) -> None:
    """One run, from where it was interrupted."""
    folder = run.job.folder
    write_json(folder / "settings.json", {"key": run.key, "decides": run.settings, "ran": _surroundings()})
    begun = read_json(folder / "spent.json") or {"tries": 0, "wall_s": 0.0, "cpu_s": 0.0}
    with _logged(folder / "log.txt"), _timed(folder / "spent.json", begun):
        if run.job.lender is None and not (folder / "trained").is_file():
            chosen.train(run.job)
            write_bytes(folder / "trained", b"")
        for test in run.job.tests:
            path = folder / "predictions" / f"{test}.json"
            if not path.is_file():
                write_bytes(path, json.dumps(chosen.predict(run.job, test)).encode())
    for test, selection in run.job.tests.items():
        write_json(folder / "scores" / f"{test}.json", scored(folder, test, selection.truth, bootstrap))
    files = [folder / "settings.json", *(folder / "predictions" / f"{t}.json" for t in run.job.tests)]
    sums = {str(p.relative_to(folder)): sha256(p) for p in files}
    spent = read_json(folder / "spent.json")
    lender = str(run.job.lender.relative_to(run.job.folder.parents[2])) if run.job.lender else None
    write_json(folder / "run.json", {"key": run.key, "sha256": sums, "weights_of": lender, **spent})
    (folder / "spent.json").unlink()
    (folder / "trained").unlink(missing_ok=True)


def scored(folder: Path, test: str, truth: Path, bootstrap: int) -> dict[str, Any]:
    """The evaluation of a run's predictions of a test set; Failure where the predictions do not fit."""
    known = read_truth(truth)
    try:
        found = read_results(folder / "predictions" / f"{test}.json", known)
    except UsageError as error:
        raise Failure(f"the detector's results cannot be scored: {error}") from error
    document = evaluate(known, found, Settings(bootstrap=bootstrap)).document
    return document | {"versions": versions(), "git_commit": git_commit()}


def _surroundings() -> dict[str, Any]:
    """Versions, commit and machine."""
    import torch
    import transformers

    return {
        "versions": versions() | {"torch": torch.__version__, "transformers": transformers.__version__},
        "git_commit": git_commit(), "machine": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(), "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }  # fmt: skip


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What is written to stderr goes to a file, after what an earlier try wrote there."""
    with path.open("a", buffering=1) as file, contextlib.redirect_stderr(file):
        yield


@contextlib.contextmanager
def _timed(path: Path, before: dict[str, float]) -> Iterator[None]:
    """Adds a try and the time spent to a file, also when interrupted; one that was killed counts without its time."""
    wall, cpu = time.monotonic(), _cpu()
    before = before | {"tries": before["tries"] + 1}
    write_json(path, before)
    try:
        yield
    finally:
        spent = {"wall_s": time.monotonic() - wall, "cpu_s": _cpu() - cpu}
        write_json(path, before | {key: round(before[key] + value, 1) for key, value in spent.items()})


def _cpu() -> float:
    """Seconds of processor time, those of ended commands included."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
