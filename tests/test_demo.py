"""The embedded demo: same bytes every time, expected regions inside their pictures, every modality there."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy import ndimage

from etl.demo.build import write_demo

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder)
    return folder


def test_same_bytes_every_time(demo: Path, tmp_path: Path) -> None:
    write_demo(tmp_path)

    def digests(folder: Path) -> dict[str, str]:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    assert digests(tmp_path) == digests(demo)


def test_all_seven_modalities(demo: Path) -> None:
    manifests = [yaml.safe_load(p.read_text()) for p in (demo / "manifests").glob("*.yaml")]
    assert {m["modality"] for m in manifests} == {
        "ct", "mri", "ultrasound", "xray", "dermoscopy", "endoscopy", "fundus",
    }  # fmt: skip
    expected = pd.read_parquet(demo / "expected.parquet")
    assert set(expected["source"]) == {m["slug"] for m in manifests}
    assert all((demo / "raw" / m.get("folder", m["slug"])).is_dir() for m in manifests)


def test_expected_regions_are_inside_and_large_enough(demo: Path) -> None:
    expected = pd.read_parquet(demo / "expected.parquet")
    assert list(expected.columns) == ["source", "case", "axis", "slice_index", "label", "bbox", "area"]
    for x, y, width, height in expected["bbox"]:
        assert x >= 0
        assert y >= 0
        assert 0 < x + width <= 484
        assert 0 < y + height <= 300
    assert (expected["area"] <= [b[2] * b[3] for b in expected["bbox"]]).all()
    assert (expected["area"] >= 0.015 * 32 * 32).all()


def test_labels_are_approved_and_of_the_ontology(demo: Path) -> None:
    names = {label["name"] for label in yaml.safe_load((ROOT / "label_maps/ontology.yaml").read_text())["labels"]}
    for source, rows in pd.read_parquet(demo / "expected.parquet").groupby("source"):
        entries = yaml.safe_load((demo / "label_maps/sources" / f"{source}.yaml").read_text())["labels"]
        approved = {e["label"] for e in entries.values() if e["status"] == "approved"}
        assert set(rows["label"]) <= approved <= names
        manifest = yaml.safe_load((demo / "manifests" / f"{source}.yaml").read_text())
        assert set(entries) == set(manifest["labels"].values()) | set(manifest.get("derive", {}))


def test_liver_is_on_the_left_of_an_axial_picture(demo: Path) -> None:
    """The patient's right is on the picture's left, and the spleen lies on the other side."""
    expected = pd.read_parquet(demo / "expected.parquet").query("source == 'demo_ct_abdomen' and axis == 'axial'")
    center = expected["bbox"].map(lambda b: b[0] + b[2] / 2)
    assert (center[expected["label"] == "liver"] < 28).all()
    assert (center[expected["label"] == "spleen"] > 28).all()


def test_outlines_and_lossy_masks_give_the_drawn_shapes(demo: Path) -> None:
    expected = pd.read_parquet(demo / "expected.parquet")
    for row in expected.query("source == 'demo_us_fetal'").itertuples():
        (path,) = (demo / "raw/demo_us_fetal").glob(f"*/{row.case}_HC_Annotation.png")
        filled = ndimage.binary_fill_holes(np.asarray(Image.open(path)))
        assert filled.sum() == row.area
    for case, rows in expected.query("source == 'demo_endoscopy'").groupby("case"):
        mask = np.asarray(Image.open(demo / f"raw/demo_endoscopy/masks/{case}.jpg")) > 127
        assert ndimage.label(mask, np.ones((3, 3)))[1] == len(rows)
        assert mask.sum() == rows["area"].sum()


def test_ontology_has_38_categories_and_198_labels() -> None:
    ontology = yaml.safe_load((ROOT / "label_maps/ontology.yaml").read_text())
    categories = {c["name"]: c for c in ontology["categories"]}
    names = {label["name"] for label in ontology["labels"]}
    assert len(ontology["body_regions"]) == 6
    assert [c["id"] for c in ontology["categories"]] == list(range(1, 39))
    assert [label["id"] for label in ontology["labels"]] == list(range(1, 199))
    assert len(names) == 198
    assert {c["body_region"] for c in categories.values()} == set(ontology["body_regions"])
    assert {label["category"] for label in ontology["labels"]} == set(categories)
    assert {label["parent"] for label in ontology["labels"]} - {None} <= names
