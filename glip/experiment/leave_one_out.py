"""Leave-one-subject-out on a built dataset with few people: each is tested by a model that never saw them.

Usage: python -m glip.experiment.leave_one_out DATA OUT --steps 100. Each modality is trained for itself, once for each
of its people. Equal names of subjects within a modality count as one person, whatever the source. What is finished is
not repeated. In OUT: `settings.json`, `folds/*.json` (COCO results of the person left out), `scores.json`, `table.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from etl.errors import Failure, UsageError
from etl.evaluation.detections import fingerprint, read_results, read_truth
from etl.evaluation.report import markdown
from etl.evaluation.scores import Settings, evaluate
from etl.labels.maps import load_ontology
from etl.store import read_json, write_bytes, write_json
from glip.data import open_dataset
from glip.experiment.selection import Chosen, written
from glip.ground import Grounder
from glip.predict import annotated, category_ids, predict, rows_of
from glip.recipe import RunConfig, TrainConfig, preset
from glip.train import BUNDLED, fit, label_names

Tell = Callable[[str], None]
Subjects = set[tuple[str, str, str]]
"""(source, split, subject)."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One training: of a modality, without one person."""

    modality: str
    person: str
    others: Subjects
    own: Subjects


def folds(data: Path, only: Sequence[str] = ()) -> list[Fold]:
    """A fold for each person of each modality (of `only`, if given) that has two or more; Failure where none has."""
    known: dict[str, dict[str, Subjects]] = {}
    for path in sorted((data / "dataset" / "shards").glob("*/*/*.parquet")):
        table = pq.read_table(path, columns=["modality", "source", "split", "subject"])
        for modality, source, split, subject in zip(*(c.to_pylist() for c in table.columns), strict=True):
            known.setdefault(modality, {}).setdefault(subject, set()).add((source, split, subject))
    out = [
        Fold(modality, one, set().union(*(s for name, s in people.items() if name != one)), own)
        for modality, people in sorted(known.items())
        if len(people) > 1 and (not only or modality in only)
        for one, own in sorted(people.items())
    ]
    if not out:
        raise Failure(f"{data}: no modality with two people; build more, or run `medglip-etl build` first")
    return out


def _chosen(split: str, who: Subjects) -> Chosen:
    subjects: dict[str, dict[str, tuple[str, ...]]] = {}
    for source, part, subject in sorted(who):
        there = subjects.setdefault(source, {})
        there[part] = (*there.get(part, ()), subject)
    return Chosen(split, subjects)


def leave_one_out(
    data: Path, out: Path, config: TrainConfig, tell: Tell, *, only: Sequence[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """The evaluation of all people together, by modality, with intervals over people; also written to `out`."""
    planned = folds(data, only)
    _refuse_other_settings(data, out, config)
    rows: list[dict[str, Any]] = []
    for n, fold in enumerate(planned, 1):
        path = out / "folds" / f"{fold.modality}-{fold.person}.json"
        if not path.is_file():
            tell(f"{n}/{len(planned)} {fold.modality}, without {fold.person}")
            write_bytes(path, json.dumps(_found(data, out, fold, config)).encode())
        rows += read_json(path)
    write_bytes(out / "results.json", json.dumps(rows).encode())
    everyone = _chosen("test", set().union(*(fold.own for fold in planned)))
    truth = read_truth(written(data, everyone, out / "selections").truth)
    document = evaluate(truth, read_results(out / "results.json", truth), Settings()).document
    write_json(out / "scores.json", {"people": len(planned), **document})
    write_bytes(out / "table.md", markdown(document).encode())
    return document


def _refuse_other_settings(data: Path, out: Path, config: TrainConfig) -> None:
    """UsageError where `out` holds folds of another recipe or dataset."""
    made = fingerprint(sorted((data / "dataset" / "annotations").glob("*.json")))
    wanted = json.loads(json.dumps({"training": config.to_json(), "dataset": made}))
    if read_json(out / "settings.json") not in (None, wanted):
        raise UsageError(f"{out}: holds folds of other settings or of another dataset; take another folder")
    write_json(out / "settings.json", wanted)


def _found(data: Path, out: Path, fold: Fold, config: TrainConfig) -> list[dict[str, Any]]:
    """COCO results for the person left out."""
    ontology, run = load_ontology(BUNDLED / "label_maps"), out / "run"
    shutil.rmtree(run, ignore_errors=True)  # of a fold that was interrupted
    train = written(data, _chosen("train", fold.others), out / "selections")
    test = written(data, _chosen("test", fold.own), out / "selections")
    bundle = fit(RunConfig(train.folder, run, modalities=(fold.modality,)), config)
    source = open_dataset(test.folder, "test", labels=label_names(ontology))
    numbers = rows_of(source, test.folder, [fold.modality])
    ids = category_ids(ontology, "label")
    rows = predict(Grounder.load(bundle), source, ids, asked=annotated, numbers=numbers)
    shutil.rmtree(run)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100, help="updates of each training")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modality", action="append", default=[], help="these alone; may repeat")
    given = parser.parse_args()
    recipe = preset("nano", steps=given.steps, batch=given.batch, seed=given.seed, threads=0, save_every=given.steps)
    found = leave_one_out(given.data, given.out, recipe, partial(print, flush=True), only=given.modality)
    print({name: found["overall"]["metrics"][name] for name in ("AP", "AP50")})
