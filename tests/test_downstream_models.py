"""R2Gen equal to the public modules, the embedded models' parts, and the order of the arms on generated data."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from etl.cli import app
from glip.downstream import align, arms, captions, experiment, generated
from glip.downstream.items import Region
from glip.downstream.paired import Bootstrap

torch = pytest.importorskip("torch")
from glip.downstream import training  # noqa: E402
from glip.downstream.r2gen import R2Gen, R2GenConfig, generate  # noqa: E402
from glip.downstream.vision import pooled, sight  # noqa: E402
from glip.downstream.words import Vocabulary  # noqa: E402

GOLDEN = json.loads((Path(__file__).parent / "data" / "r2gen_golden.json").read_text())
"""What the public R2Gen modules gave for weights and inputs made of sines: names, shapes, log-probabilities, beams."""
torch.set_num_threads(1)


@pytest.fixture
def golden() -> Any:
    model = R2Gen(R2GenConfig(12, 16, 24, 4, 2, 3, 4), 11).eval()
    with torch.no_grad():
        for n, (name, p) in enumerate(sorted(model.named_parameters())):
            wave = torch.from_numpy(np.sin(np.arange(p.numel()) * 0.7 + n * 1.3)).reshape(p.shape)
            p.copy_(wave * (0.35 if p.dim() > 1 else 0.2) + (1.0 if name.endswith("gamma") else 0.0))
    return model, torch.from_numpy(np.cos(np.arange(120) * 0.9)).float().reshape(2, 5, 12)


def test_r2gen_is_the_public_one(golden: Any) -> None:
    model, features = golden
    shapes = {name: list(p.shape) for name, p in model.state_dict().items() if not name.endswith(".pe")}
    assert shapes == GOLDEN["keys"]
    words = torch.tensor([[0, 3, 7, 1, 0], [0, 10, 2, 2, 5]])
    with torch.no_grad():
        found = model(features, torch.ones(2, 5, dtype=torch.bool), words)
    torch.testing.assert_close(found, torch.tensor(GOLDEN["logprobs"]), atol=2e-6, rtol=0)
    beams = generate(model, features, torch.ones(2, 5, dtype=torch.bool), length=9, beams=3)
    assert beams == [[w for w in row if w] for row in GOLDEN["beam"]]


def test_padded_tokens_change_nothing(golden: Any) -> None:
    model, features = golden
    words, mask = torch.tensor([[0, 3, 7], [0, 10, 2]]), torch.ones(2, 5, dtype=torch.bool)
    padded = torch.cat((features, torch.full((2, 2, 12), 9.0)), 1)
    with torch.no_grad():
        a = model(features, mask, words)
        b = model(padded, torch.cat((mask, torch.zeros(2, 2, dtype=torch.bool)), 1), words)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_wide_beams_find_the_most_probable_report(golden: Any) -> None:
    """With as many beams as there are prefixes the search is exhaustive."""
    model, features = golden
    one, mask = features[:1], torch.ones(1, 5, dtype=torch.bool)
    found = generate(model, one, mask, length=2, beams=11)[0]
    words = torch.stack((torch.zeros(11, dtype=torch.long), torch.arange(11)), 1)
    with torch.no_grad():
        after = model(one.expand(11, -1, -1), mask.expand(11, -1), words)
    totals = {(): float(after[0, 0, 0])}  # ended at once
    for first in range(1, 11):
        for second, value in enumerate((after[first, 0, first] + after[first, 1]).tolist()):
            totals[(first, second) if second else (first,)] = value
    assert tuple(found) == max(totals, key=lambda row: totals[row])


def test_features_under_a_box_are_the_mean_of_its_cells() -> None:
    maps = torch.arange(16.0).reshape(1, 1, 4, 4)
    boxes = torch.tensor([[[0.25, 0.5, 0.75, 1.0], [0, 0, 0.125, 0.125], [0.125, 0, 0.375, 0.25]]])
    assert pooled(maps, boxes)[0, :, 0].tolist() == pytest.approx([11.5, 0.0, 0.5])


def test_what_a_model_sees_does_not_depend_on_its_batch() -> None:
    words = Vocabulary.of(["liver", "left lung"])
    liver, lung = Region("Liver", (1, 2, 3, 4), 0.5), Region("left lung", (0, 0, 20, 5))
    maps = [np.zeros((1, 8, 8), np.float32), np.ones((1, 8, 8), np.float32)]
    both = sight(maps, [[liver], [lung, liver]], [(10, 8), (10, 8)], words)
    assert both.boxes[0, 0].tolist() == pytest.approx([0.1, 0.25, 0.4, 0.75])
    assert both.boxes[1, 0].tolist() == [0, 0, 1, 0.625]  # cut at the image's edge
    assert both.present.tolist() == [[True, False], [True, True]]
    model = training.VqaModel(training.VqaConfig(training.SeerConfig(1, 16, 2)), len(words), 3).eval()
    alone = sight(maps[:1], [[liver]], [(10, 8)], words)
    with torch.no_grad():
        a, b = model(both, torch.ones(2, 1, dtype=torch.long)), model(alone, torch.ones(1, 1, dtype=torch.long))
    torch.testing.assert_close(a[:1], b)


def test_closed_questions_by_alignment() -> None:
    found = [Region("left lung", (0, 0, 5, 5), 0.9), Region("heart", (0, 0, 5, 5), 0.4)]
    assert align.answer("Is the heart in the image?", "yes", found) == "yes"
    assert align.answer("Is there a right lung?", "no", found) == "no"
    assert align.answer("Is there a heart?", "no", found, threshold=0.5) == "no"
    assert align.answer("Is this lung the left or right?", "right", found) == "left"  # wrong, but what was found
    assert align.answer("Which is bigger, the liver or the spleen?", "liver", found) is None


def setting(folder: Path, studies: int, group: str | None = None) -> Any:
    asks, told = generated.write(folder, studies=studies)
    asks = [q for q in asks if group in (None, q.group)]
    known = arms.read_found(folder / "found")
    sizes = dict.fromkeys(known.sizes, (generated.SIDE, generated.SIDE))
    views = training.Views(training.pixels(str(folder / "images"), list(sizes), side=16), sizes)
    return asks, told, arms.build(asks, known, sizes=sizes), views


def test_the_arms_come_out_in_order(tmp_path: Path) -> None:
    """Four small models, one question a picture: what is in this quarter?"""
    asks, _, made, views = setting(tmp_path, 400, "name")
    how = training.Training(epochs=30, lr=4e-3, batch=32, width=32, cells=2)
    train, tested = ([q for q in asks if q.split == split] for split in ("train", "test"))
    texts = {arm.name: training.fit_vqa(train, tested, arm, views, how) for arm in made}
    document = experiment.vqa(tested, made, texts, refused={}, settings={}, bootstrap=Bootstrap(500)).document
    assert all(experiment.order_holds(document, "open_exact").values()), document["arms"]
    arm = document["arms"]
    assert arm["none"]["open_exact"]["value"] < 0.35  # six names, and nothing in the picture tells them
    assert arm["reference"]["open_exact"]["value"] > 0.6


def test_the_small_r2gen_learns_each_picture_s_report(tmp_path: Path) -> None:
    _, told, made, views = setting(tmp_path, 12)
    train = [s for s in told if s.split == "train"]
    reference = next(a for a in made if a.name == "reference")
    how = training.Training(epochs=90, lr=4e-3, batch=8, cells=2, beams=1)
    found = training.fit_reports(train, train, reference, views, captions.clean_none, how)
    written, wanted = [found[s.id] for s in train], [s.report for s in train]
    own = captions.bleu(written, wanted)[3].overall
    assert own > 0.75
    assert own > captions.bleu(written, wanted[1:] + wanted[:1])[3].overall + 0.2


def test_the_same_seed_gives_the_same_reports(tmp_path: Path) -> None:
    _, told, made, views = setting(tmp_path, 12)
    how = training.Training(epochs=2, batch=8, width=32, cells=2, length=12)
    one, two = (training.fit_reports(told[1:], told[:1], made[1], views, captions.clean_none, how) for _ in range(2))
    assert one == two


def test_alignment_needs_no_training_and_keeps_the_order(tmp_path: Path) -> None:
    generated.write(tmp_path / "data", studies=300)
    result = CliRunner().invoke(app, [
        "downstream", "vqa", str(tmp_path / "data"), "--found", str(tmp_path / "data/found"), "--by", "alignment",
        "--out", str(tmp_path / "out"), "--json", "--bootstrap", "200",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    presence = json.loads(result.stdout)["groups"]["presence"]["arms"]
    value = {arm: m["closed_accuracy"]["value"] for arm, m in presence.items()}
    assert value["reference"] == 1
    assert value["reference"] >= value["predicted"] > value["none"]
    assert value["predicted"] > value["shuffled"] + 0.2


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    generated.write(tmp_path / "data", studies=12)
    folder = str(tmp_path / "data")
    base = ["downstream", "vqa", folder, "--found", f"{folder}/found", "--out", str(tmp_path)]
    for more, said in ((["--expert-features"], "needs --bundle"), (["--form", "sound"], "text, drawn, crops"),
                       (["--dataset", "vqa2"], "slake, vqa_rad"), (["--split", "dev"], "no question")):  # fmt: skip
        result = CliRunner().invoke(app, [*base, *more])
        assert result.exit_code in (1, 2)
        assert said in result.output
    shutil.rmtree(tmp_path / "data/images")
    result = CliRunner().invoke(app, base)
    assert "cannot be read as a picture" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("task", ["vqa", "report"])
def test_boxes_help_where_they_tell_the_answer_and_not_where_they_do_not(tmp_path: Path, task: str) -> None:
    sys.path.insert(0, str(Path(__file__).parent / "bench"))
    import downstream

    metric = downstream.SHOWN[task][0]
    found = {}
    for informative in (True, False):
        folder = tmp_path / str(informative)
        generated.write(folder, studies=600, informative=informative)
        found[informative], _ = downstream.run(folder, task)
        assert (folder / task / f"figure{6 if task == 'vqa' else 7}.svg").exists()
    assert all(experiment.order_holds(found[True], metric).values())
    assert not all(experiment.order_holds(found[False], metric).values())
    told, useless = (
        {arm: cells[metric]["difference"] for arm, cells in found[informative]["arms"].items() if arm != "none"}
        for informative in (True, False)
    )
    # the luck of one training, which no interval over test items covers, is worth more than nothing, but not so much
    assert max(useless.values()) < told["reference"] / 4


def test_maps_of_an_expert_take_the_place_of_pixels(tmp_path: Path) -> None:
    from glip.config import nano
    from glip.downstream.features import expert_maps, region_features
    from glip.experts import BundleInfo, MedGLIP, save_bundle

    save_bundle(tmp_path / "bundle", MedGLIP(nano(), ["xray", "ct"]), BundleInfo())
    generated.write(tmp_path / "data", studies=12)
    images = tmp_path / "data/images"
    names = ["00000.png", "00001.png", "00002.png"]
    maps = expert_maps(tmp_path / "bundle", images, names, {"00000.png": "xray", "00001.png": "pathology"})
    assert np.ptp(maps["00000.png"]) > 0
    assert not maps["00001.png"].any()  # no expert
    assert not maps["00002.png"].any()  # which expert is not known
    features = region_features(maps["00000.png"], [Region("a", (0, 0, 96, 96)), Region("b", (0, 0, 6, 6))], (96, 96))
    np.testing.assert_allclose(features[0], maps["00000.png"].mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(features[1], maps["00000.png"][:, 0, 0], atol=1e-5)
    assert region_features(maps["00000.png"], [], (96, 96)).shape == (0, len(maps["00000.png"]))
    for task in ("vqa", "report"):
        result = CliRunner().invoke(app, [
            "downstream", task, str(tmp_path / "data"), "--found", str(tmp_path / "data/found"), "--bundle",
            str(tmp_path / "bundle"), "--expert-features", "--epochs", "1", "--width", "16", "--out",
            str(tmp_path / task), "--json", "--bootstrap", "20",
        ])  # fmt: skip
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert set(document["arms"]) == set(arms.ARMS)
        assert document["regions"]["predicted"]["no_expert"] == 0
        assert {p.name for p in (tmp_path / task).glob("*")} >= {"result.json", "table.md", "table.csv", "texts"}
