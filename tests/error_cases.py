"""The folder in which the wrong uses of docs/errors.md are tried, and what the program says to one."""

import json
import shlex
from pathlib import Path

from PIL import Image
from program import ROOT, build, medglip
from typer.testing import CliRunner

from etl.cli import app

MAPS = "--manifests demo/manifests --label-maps demo/label_maps"


def prepare(folder: Path) -> None:
    """The demo, a dataset of three of its sources, and one broken file of each sort."""
    assert medglip("demo", folder / "demo").returncode == 0
    build(folder / "demo", folder / "out", "--source", "demo_skin", "--source", "demo_xray_chest", "--workers", 1)
    manifest = (folder / "demo/manifests/demo_skin.yaml").read_text().replace("demo_skin", "mine")
    wrong = {
        "yaml/mine.yaml": manifest + "\nfiles: [\n", "twice/mine.yaml": manifest + "\nslug: mine\n",
        "key/mine.yaml": manifest + "\nmodalitty: ct\n", "name/yours.yaml": manifest,
        "value/mine.yaml": manifest.replace("modality: dermoscopy", "modality: pet"),
        "anchor/mine.yaml": manifest.replace("year: 2024", "year: &y 2024"),
        "label/sources/demo_skin.yaml": map_of("lesion: {label: skin lesoin, status: approved, by: me}"),
        "raw_label/sources/demo_skin.yaml": map_of(*["lesion: {label: skin lesion, status: approved, by: me}"] * 2),
        "cut.json": "[{", "object.json": '{"a": 1}',
        "image.json": json.dumps([{"image_id": 999999, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]),
    }  # fmt: skip
    other = {"no_map/sources/none.yaml": "", "a_file": "x", "full/a.txt": "x", "empty/a.txt": "x", "results.json": "[]",
             "wrong.csv": "file,person\na.png,1\n"}  # fmt: skip
    for name, text in {**{f"wrong/{name}": text for name, text in wrong.items()}, **other}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    Image.new("L", (64, 64)).save(folder / "picture.png")


def map_of(*entries: str) -> str:
    """A label map of demo_skin."""
    return "source: demo_skin\nlabels:\n" + "".join(f"  {entry}\n" for entry in entries)


def said(command: str) -> tuple[int, str]:
    """(exit code, last line of what the program says) in the current folder."""
    done = CliRunner().invoke(app, shlex.split(command.replace("{maps}", MAPS)))
    assert done.exception is None or isinstance(done.exception, SystemExit), (command, done.exception)
    line = (done.stderr or done.output).strip().splitlines()[-1]
    return done.exit_code, line.removeprefix("error: ").removeprefix("Error: ").replace(f"{ROOT}/", "")
