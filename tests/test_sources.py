"""`medglip-etl sources`: on whole and on damaged folders, on a folder never seen, on the bundled manifests."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from etl.cli import app
from etl.docs import pages
from etl.kinds import Layer
from etl.labels.maps import load_ontology
from etl.manifests.load import load_manifest, load_manifests
from etl.manifests.manifest import Manifest
from etl.sources.catalogue import summary
from etl.sources.proposal import propose
from etl.sources.sidedness import places, twin

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("MEDGLIP_TEST_DATA", ROOT.parent / "shared" / "data"))
MANIFEST = """slug: clinic_ct
group: clinic
title: Kidneys
modality: ct
files:
  - image: imagesTr/{case}.nii.gz
    mask: labelsTr/{case}.nii.gz
    kind: label_map
labels:
  1: left kidney
  2: right kidney
"""
KEYS = {"slug", "pairs", "images_without_mask", "masks_without_image", "unexpected", "undefined_values", "ok"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([-2.0, 2, 3, 1])), path)  # i runs to the left


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Three scans with two kidneys each; stored with i to the patient's left."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "clinic_ct.yaml").write_text(MANIFEST)
    rng = np.random.default_rng(0)
    for case in ("a1", "a2", "a3"):
        mask = np.zeros((40, 36, 8), np.uint8)
        mask[28:35, 8:18, 2:6], mask[5:12, 8:18, 2:6] = 1, 2
        grey = rng.integers(-100, 200, mask.shape).astype(np.int16)
        write(tmp_path / "raw/clinic_ct/imagesTr" / f"{case}.nii.gz", grey)
        write(tmp_path / "raw/clinic_ct/labelsTr" / f"{case}.nii.gz", mask)
    return tmp_path


def check(folder: Path, *more: object, source: str = "clinic_ct") -> tuple[int, dict[str, Any]]:
    where = ("--raw", folder / "raw", "--manifests", folder / "manifests")
    done = run("sources", "check", source, *where, "--json", *more)
    document: dict[str, Any] = json.loads(done.stdout)
    return done.exit_code, document


def test_a_whole_folder_is_ok_and_drawn(clinic: Path) -> None:
    code, report = check(clinic, "--sheet", clinic / "sheet.png")
    assert (code, report["ok"], report["pairs"]) == (0, True, 3)
    assert report.keys() >= KEYS
    assert report["advice"] == []
    assert report["labels_seen"] == {"left kidney": 3, "right kidney": 3}
    with Image.open(clinic / "sheet.png") as sheet:
        colors = np.asarray(sheet.convert("RGB")).reshape(-1, 3).astype(int)
    assert sheet.width == 3 * 320
    assert (np.ptp(colors, axis=1) > 60).sum() > 3000, "no mask is drawn in colour"


def test_a_missing_mask_is_named_with_the_line_of_the_rules(clinic: Path) -> None:
    (clinic / "raw/clinic_ct/labelsTr/a2.nii.gz").unlink()
    code, report = check(clinic)
    assert (code, report["ok"], report["pairs"], report["images_without_mask"]) == (1, False, 2, ["a2"])
    assert re.search(r"clinic_ct\.yaml:5: files: case a2: .*imagesTr/a2\.nii\.gz", report["advice"][0])


def test_a_missing_image_is_named(clinic: Path) -> None:
    (clinic / "raw/clinic_ct/imagesTr/a3.nii.gz").unlink()
    code, report = check(clinic)
    assert (code, report["masks_without_image"]) == (1, ["a3"])


def test_a_renamed_folder_is_named_with_the_pattern(clinic: Path) -> None:
    (clinic / "raw/clinic_ct/labelsTr").rename(clinic / "raw/clinic_ct/labels_train")
    code, report = check(clinic)
    assert (code, report["pairs"]) == (1, 0)
    line = report["advice"][0]
    assert "clinic_ct.yaml:7: files[0].mask" in line
    assert "no folder 'labelsTr', there is 'labels_train'" in line


def test_a_missing_source_folder_is_named(clinic: Path) -> None:
    (clinic / "raw/clinic_ct").rename(clinic / "raw/clinic_ct_v2")
    code, report = check(clinic)
    assert (code, report["pairs"], report["ok"]) == (1, 0, False)
    assert "there is 'clinic_ct_v2'" in report["advice"][0]


def test_an_unknown_value_is_named_with_the_line_of_the_labels(clinic: Path) -> None:
    path = clinic / "raw/clinic_ct/labelsTr/a1.nii.gz"
    mask = np.asanyarray(nib.load(path).dataobj).copy()
    mask[20, 20, 3] = 7
    write(path, mask)
    code, report = check(clinic)
    assert (code, report["undefined_values"]) == (1, ["7"])
    assert re.search(r"clinic_ct\.yaml:9: labels: add value 7: seen in 1 of 3 cases read \(a1\)", report["advice"][0])


def test_swapped_sides_are_named_with_the_line_of_the_label(clinic: Path) -> None:
    manifest = clinic / "manifests/clinic_ct.yaml"
    manifest.write_text(MANIFEST.replace("1: left", "1: right").replace("2: right", "2: left"))
    code, report = check(clinic)
    assert (code, set(report["wrong_side"])) == (1, {"left kidney", "right kidney"})
    assert any("clinic_ct.yaml:10: labels.1: 'right kidney' lies on the patient's other side in 3 of 3" in line
               for line in report["advice"])


def test_a_sample_reads_so_many_cases(clinic: Path) -> None:
    _, report = check(clinic, "--sample", 2)
    assert (report["cases_read"], report["pairs"]) == (2, 3)


def test_a_group_is_one_document(clinic: Path) -> None:
    text = MANIFEST.replace("slug: clinic_ct", "slug: clinic_more\nfolder: clinic_ct")
    (clinic / "manifests/clinic_more.yaml").write_text(text)
    code, report = check(clinic, source="clinic")
    assert (code, report["ok"]) == (0, True)
    assert [r["slug"] for r in report["sources"]] == ["clinic_ct", "clinic_more"]


@pytest.mark.parametrize(("raw", "sided"), [("kidney_left", True), ("Lung_R", True), ("liver", False), ("L5", False),
                                            ("left and right lung", False), ("OpticNrv_L", True),
                                            ("vertebrae_L4", False), ("T12/L1", False)])  # fmt: skip
def test_labels_that_name_a_side(raw: str, sided: bool) -> None:
    assert bool(places([Layer(np.ones((2, 2, 2), np.uint8), {1: raw})])) == sided


def test_the_twin_of_a_label() -> None:
    assert twin("rib_left_7", ["rib_right_8", "rib_right_7"]) == "rib_right_7"
    assert twin("left kidney", ["right lung"]) is None


def test_a_folder_never_seen_becomes_a_manifest_that_works(clinic: Path) -> None:
    source = clinic / "raw/clinic_ct"
    labels = {"0": "background", "1": "left kidney", "2": "right kidney"}
    (source / "dataset.json").write_text(json.dumps({"labels": labels}))
    done = run("sources", "add", "fresh", "--raw", clinic / "raw", "--folder", "clinic_ct", "--manifests",
               clinic / "new", "--label-maps", clinic / "maps")
    assert done.exit_code == 0, done.stderr
    manifest = load_manifest(clinic / "new/fresh.yaml")
    assert (manifest.status, manifest.labels) == ("unverified", {"1": "left kidney", "2": "right kidney"})
    assert "left kidney" in (clinic / "maps/sources/fresh.yaml").read_text()
    where = ("--raw", clinic / "raw", "--manifests", clinic / "new")
    report = json.loads(run("sources", "check", "fresh", *where, "--json").stdout)
    assert (report["ok"], report["pairs"]) == (True, 3)


def volumes(folder: Path, **values: int) -> None:
    """A volume by name below a folder: `ct` and the like of many grey values, others with that many labels."""
    for name, count in values.items():
        array = np.arange(6**3).reshape(6, 6, 6) % (count + 1)
        target = folder / f"{name}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array.astype(np.int16), np.eye(4)), target)


def rules(text: str) -> list[tuple[str, str, str]]:
    files = yaml.safe_load(text)["files"]
    return [(rule["image"], rule["mask"], rule["kind"]) for rule in files]


def test_a_file_for_each_organ_becomes_one_rule(tmp_path: Path) -> None:
    for case in ("s0011", "s0012"):
        volumes(tmp_path / case, ct=200)
        volumes(tmp_path / case / "segmentations", liver=1, adrenal_gland_left=1, aorta=1)
    text = propose("x", tmp_path, load_ontology(ROOT / "label_maps")).manifest
    assert rules(text) == [("{case}/ct.nii.gz", "{case}/segmentations/{label}.nii.gz", "file_per_label")]
    assert set(yaml.safe_load(text)["labels"]) == {"liver", "adrenal_gland_left", "aorta"}


def test_masks_without_a_word_for_it_are_known_by_their_values(tmp_path: Path) -> None:
    for case in ("pat1", "pat2", "pat3"):
        volumes(tmp_path / case, Flair=190, T1c=180, OTMultiClass=4)
        (tmp_path / case / "License.txt").write_text("The data are free.\nTry 5 of them 1 2 3\n")
    text = propose("x", tmp_path, load_ontology(ROOT / "label_maps")).manifest
    assert rules(text) == [(f"{{case}}/{name}.nii.gz", "{case}/OTMultiClass.nii.gz", "label_map") for name in
                           ("Flair", "T1c")]  # fmt: skip
    assert [rule["case"] for rule in yaml.safe_load(text)["files"]] == ["{case}-Flair", "{case}-T1c"]


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.md").write_text("nothing")
    where = ("--manifests", tmp_path / "m", "--label-maps", tmp_path / "l")
    done = run("sources", "add", "notes", "--raw", tmp_path, *where)
    assert done.exit_code == 1
    assert not (tmp_path / "m").exists()


def test_the_miniature_of_a_manifest_is_what_its_regions_say(clinic: Path) -> None:
    done = run("sources", "miniature", "clinic_ct", clinic / "mini", "--manifests", clinic / "manifests")
    assert done.exit_code == 0, done.stderr
    expected = pd.read_parquet(clinic / "mini/expected.parquet")
    assert set(expected["raw_label"]) == {"left kidney", "right kidney"}
    where = ("--raw", clinic / "mini", "--manifests", clinic / "manifests")
    report = json.loads(run("sources", "check", "clinic_ct", *where, "--json").stdout)
    assert report["pairs"] == expected["case"].nunique()
    faults = ("images_without_mask", "masks_without_image", "undefined_values")
    assert [len(report[key]) for key in faults] == [1, 1, 1]
    assert report["wrong_side"] == {}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real samples at {REAL}")
def test_real_samples_are_whole_and_a_damaged_copy_is_not(tmp_path: Path) -> None:
    manifests = ("--manifests", ROOT / "tests/real/manifests")
    for source in ("ham10000_sample", "lung_segmentation_2d", "totalsegmentator_ct"):
        done = run("sources", "check", source, "--raw", REAL, *manifests, "--json")
        assert (done.exit_code, json.loads(done.stdout)["ok"]) == (0, True), done.stdout
    shutil.copytree(REAL / "HAM10000_sample", tmp_path / "HAM10000_sample")
    mask = sorted((tmp_path / "HAM10000_sample/test_masks").glob("*.png"))[0]
    mask.unlink()
    done = run("sources", "check", "ham10000_sample", "--raw", tmp_path, *manifests, "--json")
    assert done.exit_code == 1
    assert mask.stem.split("_")[-1] in json.loads(done.stdout)["images_without_mask"][0]


@pytest.fixture(scope="module")
def bundled() -> dict[str, Manifest]:
    return load_manifests(ROOT / "manifests")


def test_all_sources_are_listed(bundled: dict[str, Manifest]) -> None:
    rows = json.loads(run("sources", "list", "--json").stdout)["sources"]
    assert len(rows) == 129
    assert {row["modality"] for row in rows} == {
        "ct", "mri", "ultrasound", "xray", "dermoscopy", "endoscopy", "fundus"
    }  # fmt: skip
    assert list(rows[0]) == [
        "slug", "group", "title", "year", "modality", "body_regions", "access", "license", "redistribution", "status",
        "labels",
    ]  # fmt: skip


@pytest.mark.parametrize(("option", "key", "value"), [
    ("--modality", "modality", "fundus"), ("--access", "access", "request"), ("--status", "status", "documented"),
    ("--redistribution", "redistribution", "allowed"),
])  # fmt: skip
def test_the_list_is_filtered(option: str, key: str, value: str, bundled: dict[str, Manifest]) -> None:
    rows = json.loads(run("sources", "list", option, value, "--json").stdout)["sources"]
    assert {row["slug"] for row in rows} == {slug for slug, m in bundled.items() if summary(m)[key] == value}
    assert run("sources", "list", option, "no such word").exit_code == 2


def test_the_list_is_filtered_by_region_and_license(bundled: dict[str, Manifest]) -> None:
    rows = json.loads(run("sources", "list", "--body-region", "skin", "--license", "cc", "--json").stdout)["sources"]
    assert {row["slug"] for row in rows} == {
        slug for slug, m in bundled.items() if "skin" in m.body_regions and "cc" in m.license.name.lower()
    }


def test_every_manifest_says_what_it_must(bundled: dict[str, Manifest]) -> None:
    for slug, m in bundled.items():
        assert re.fullmatch(r"[a-z0-9_]+", slug), slug
        assert m.year is not None, slug
        assert 1990 <= m.year <= 2026, slug
        assert m.title != slug
        assert m.body_regions, slug
        assert (m.homepage or "").startswith("http"), slug
        assert m.citation, slug
        assert m.license.name, slug
        assert m.evidence or m.status == "unverified", f"{slug} is {m.status} without evidence"
        assert m.raw_labels(), slug


def test_most_sources_are_documented(bundled: dict[str, Manifest]) -> None:
    assert sum(m.status != "unverified" for m in bundled.values()) >= 110


def test_the_page_of_all_sources_is_up_to_date() -> None:
    for path, text in pages().items():
        assert path.read_text() == text, f"{path.name} is stale: make docs"
