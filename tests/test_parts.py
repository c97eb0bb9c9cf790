"""A changed line of a label map: no pixel stage runs, other sources keep their parts, the bytes are a fresh build's."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from program import build, medglip, tree

SOURCES = ("demo_ct_chest", "demo_endoscopy", "demo_fundus_boxes", "demo_mri_brain")
CHOSEN = [part for source in SOURCES for part in ("--source", source)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert medglip("demo", folder).returncode == 0
    build(folder, folder / "out", *CHOSEN)
    return folder


def changed(demo: Path, folder: Path, source: str, label: str | None) -> tuple[Path, str, str]:
    """The demo with one more line of a label map, its raw label and the label before."""
    shutil.copytree(demo, folder, copy_function=shutil.copy2)
    path = folder / "label_maps" / "sources" / f"{source}.yaml"
    content = yaml.safe_load(path.read_text())
    raw = next(raw for raw, entry in content["labels"].items() if entry["status"] == "approved")
    before = content["labels"][raw]["label"]
    new = {"label": label, "status": "approved", "by": "me"} if label else {"label": None, "status": "rejected",
                                                                          "why": "a test"}  # fmt: skip
    content["labels"][raw] = new
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return folder, raw, before


def stamps(out: Path, *stages: str) -> dict[str, int]:
    """The time of every file of these stages."""
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for stage in stages
            for p in (out / "stages" / stage).rglob("*") if p.is_file()}  # fmt: skip


@pytest.mark.parametrize(("source", "label"), [("demo_mri_brain", "spleen"), ("demo_endoscopy", None)])
def test_one_line(demo: Path, tmp_path: Path, source: str, label: str | None) -> None:
    folder, raw, before = changed(demo, tmp_path / "changed", source, label)
    old = stamps(folder / "out", "slice", "validate", "filter"), stamps(folder / "out", "harmonize", "export")
    again = build(folder, folder / "out", *CHOSEN)
    assert "slice: 0 cases to do" in again.stderr
    assert stamps(folder / "out", "slice", "validate", "filter") == old[0]
    new = stamps(folder / "out", "harmonize", "export")
    touched = {name.split("/")[2] for name in new if new[name] != old[1].get(name)} - {"refused.parquet"}
    later = {slug for slug in SOURCES if slug > source} if label is None else set()  # their ids move
    assert touched == {source} | later
    build(folder, folder / "fresh", *CHOSEN)
    assert tree(folder / "out") == tree(folder / "fresh")

    found = json.loads(medglip("diff", demo / "out", folder / "out", "--json").stdout)
    told = json.loads(medglip("labels", "diff", demo / "label_maps", folder / "label_maps", "--dataset",
                              demo / "out", "--json").stdout)  # fmt: skip
    (row,) = told["changes"]
    assert (row["source"], row["raw_label"]) == (source, raw)
    moved = row["regions"]
    assert moved > 0
    if label:
        assert found["regions"] == {"added": 0, "removed": 0, "changed": moved}
        assert next(entry for entry in found["labels"] if entry["label"] == label)["changed"] == moved
        assert found["images"] == {"added": 0, "removed": 0}
    else:
        assert found["regions"] == {"added": 0, "removed": moved, "changed": 0}
        assert found["labels"] == [{"label": before, "added": 0, "removed": moved, "changed": 0}]
    assert found["moved_split"] == 0


def test_a_shard_that_was_taken_away_is_made_again(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(demo / "out", out)
    next((out / "stages" / "export" / "demo_ct_chest" / "shards").rglob("*.parquet")).unlink()
    build(demo, out, *CHOSEN)
    assert tree(out) == tree(demo / "out")
