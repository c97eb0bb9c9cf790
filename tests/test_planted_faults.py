"""Faults planted in a copy of the demo: each is found by the check that is there for it; a clean copy has none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from program import build, medglip

from etl.labels.maps import load_ontology
from etl.quality.checks import CHECKS, of_regions

WARNINGS = {name for name, check in CHECKS.items() if check.level == "warning"}
SOURCES = ("demo_skin", "demo_ct_abdomen", "demo_ct_chest")


def rewrite_nifti(path: Path, change: Callable[[Any], Any]) -> None:
    image = nib.load(path)
    array = change(np.asanyarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(array, image.affine, image.header), path)


def rewrite_picture(path: Path, change: Callable[[Any], Any]) -> None:
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def shift(raw: Path) -> None:
    path = raw / "DemoSkin" / "masks" / "ISIC_0000002_segmentation.png"
    rewrite_picture(path, lambda a: np.roll(a, (14, -18), (0, 1)))


def flip(raw: Path) -> None:
    for path in (raw / "demo_ct_chest" / "c02" / "segmentations").iterdir():
        rewrite_nifti(path, lambda a: a[::-1])


def swap(raw: Path) -> None:
    lookup = np.array([0, 1, 2, 4, 3, 5], np.uint8)
    rewrite_nifti(raw / "DemoAbdomen" / "labelsTr" / "s03_1.nii.gz", lambda a: lookup[a])


def repeat(raw: Path) -> None:
    def change(array: Any) -> Any:
        array[..., 20] = array[..., 19]
        return array

    rewrite_nifti(raw / "DemoAbdomen" / "imagesTr" / "s02_1_0000.nii.gz", change)


def replace_by_mask(raw: Path) -> None:
    image = raw / "DemoSkin" / "images" / "ISIC_0000003.jpg"
    mask = raw / "DemoSkin" / "masks" / "ISIC_0000003_segmentation.png"
    Image.open(mask).convert("RGB").save(image, quality=90)


def cut_out(raw: Path) -> None:
    def change(array: Any) -> Any:
        array[..., 19:22][array[..., 19:22] == 1] = 0
        return array

    rewrite_nifti(raw / "DemoAbdomen" / "labelsTr" / "s01_1.nii.gz", change)


def shift_values(raw: Path) -> None:
    rewrite_nifti(raw / "DemoAbdomen" / "imagesTr" / "s01_2_0000.nii.gz", lambda a: a + np.int16(1400))


PLANTED: dict[str, tuple[Callable[[Path], None], str]] = {
    "mask_shifted": (shift, "demo_skin/0000002"),
    "mask_turned": (flip, "demo_ct_chest/c02"),
    "sides_swapped": (swap, "demo_ct_abdomen/s03-1"),
    "repeated_slices": (repeat, "demo_ct_abdomen/s02-1"),
    "image_is_mask": (replace_by_mask, "demo_skin/0000003"),
    "broken_structure": (cut_out, "demo_ct_abdomen/s01-1"),
    "implausible_ct": (shift_values, "demo_ct_abdomen/s01-2"),
}


def test_vertebrae_between_discs_are_not_broken() -> None:
    ontology = load_ontology(Path(__file__).parents[1] / "label_maps")
    rows = [("a", "axial", k, "vertebra", 500, 10, 40, 100) for k in (1, 2, 4, 5)]
    regions = pd.DataFrame(rows, columns=["case", "axis", "slice_index", "label", "area", "x", "w", "width"])
    once, several = (list(of_regions(regions.assign(several=s), ontology, "mri", 1)) for s in (False, True))
    assert once == [("a", ("broken_structure", "vertebra: nothing on axial 3 to 3"))]
    assert several == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    assert medglip("demo", folder).returncode == 0
    build(folder, folder / "out")
    return folder


@pytest.fixture(scope="module")
def spoilt(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoilt")
    for part in ("raw", "manifests", "label_maps"):
        shutil.copytree(demo / part, folder / part)
    for plant, _ in PLANTED.values():
        plant(folder / "raw")
    build(folder, folder / "out", *(x for slug in SOURCES for x in ("--source", slug)))
    return folder / "out"


def stats(out: Path) -> Any:
    return json.loads((out / "dataset" / "stats.json").read_text())


def test_no_warning_in_the_clean_demo(demo: Path) -> None:
    found = stats(demo / "out")["flags"]
    assert {name: found[name]["examples"] for name in WARNINGS if found[name]["images"]} == {}
    assert medglip("leakcheck", demo / "out").returncode == 0


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_each_planted_fault_is_found(spoilt: Path, name: str) -> None:
    where = {example["where"] for example in stats(spoilt)["flags"][name]["examples"]}
    assert where == {PLANTED[name][1]}


def test_every_check_is_written_down() -> None:
    page = (Path(__file__).parents[1] / "docs" / "quality.md").read_text()
    for name, c in CHECKS.items():
        assert f"| `{name}` | {c.tier} | {c.level} | {c.rule} | {c.threshold:g} |" in page


def test_flags_are_in_the_shards(spoilt: Path) -> None:
    rows = pd.concat(pd.read_parquet(p, columns=["source", "case", "flags"])
                     for p in (spoilt / "dataset" / "shards").rglob("*.parquet"))  # fmt: skip
    warned = {(r.source, r.case) for r in rows.itertuples() if WARNINGS & set(r.flags)}
    assert warned == {tuple(where.split("/")) for _, where in PLANTED.values()}


def test_what_is_warned_of_is_no_quarantine(demo: Path, spoilt: Path) -> None:
    for source in SOURCES:
        before, after = (pd.read_parquet(o / "quarantine" / f"{source}.parquet") for o in (demo / "out", spoilt))
        assert set(before["reason"]) == set(after["reason"])


def test_a_leaking_subject(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(demo / "out" / "dataset", out / "dataset")
    source = next(p for p in sorted((out / "dataset" / "shards" / "train" / "ct").glob("*.parquet")))
    table = pd.read_parquet(source)
    one = table[table["case"] == "s01-1"].assign(split="test")
    folder = out / "dataset" / "shards" / "test" / "ct"
    one.to_parquet(folder / "part-00009.parquet")
    done = medglip("leakcheck", out, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [s["subject"].rsplit("/", 1)[1] for s in found["subjects"]] == [str(one["subject"].iloc[0])]
    assert found["leaks"] == len(found["subjects"]) + len(found["near_identical"])
    assert found["near_identical"]


def test_leaks_of_a_list(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).resize((90, 80)).save(tmp_path / f"{name}.png")
    Image.open(tmp_path / "a.png").save(tmp_path / "d.jpg", quality=92)
    rows = "a.png,p1,train\nb.png,p2,train\nc.png,p2,test\nd.jpg,p3,val\ngone.png,p4,test\n"
    (tmp_path / "list.csv").write_text("path,subject,split\n" + rows)
    done = medglip("leakcheck", tmp_path / "list.csv", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "subjects": [{"subject": "p2", "splits": ["test", "train"], "n": 2}],
        "near_identical": [{"a": "a.png", "b": "d.jpg", "splits": ["train", "val"]}],
        "leaks": 2,
    }
    (tmp_path / "list.csv").write_text("path,subject,split\na.png,p1,train\nb.png,p2,test\n")
    assert medglip("leakcheck", tmp_path / "list.csv").returncode == 0
    (tmp_path / "list.csv").write_text("path,split\n")
    assert medglip("leakcheck", tmp_path / "list.csv").returncode == 2


def test_diff_tells_what_changed(demo: Path, spoilt: Path, tmp_path: Path) -> None:
    same = json.loads(medglip("diff", demo / "out", demo / "out", "--json").stdout)
    assert (same["images"], same["regions"], same["moved_split"], same["labels"]) == (
        {"added": 0, "removed": 0}, {"added": 0, "removed": 0, "changed": 0}, 0, [])  # fmt: skip
    found = json.loads(medglip("diff", demo / "out", spoilt, "--json").stdout)
    assert found["images"]["removed"] > 0
    kidneys = {row["label"]: row for row in found["labels"] if "kidney" in row["label"]}
    assert set(kidneys) == {"left kidney", "right kidney"}
    assert found["regions"]["changed"] > 0


def test_the_report_is_one_page_and_the_same_again(demo: Path) -> None:
    path = demo / "out" / "dataset" / "report" / "index.html"
    before = path.read_bytes()
    done = medglip("report", demo / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(path)
    assert path.read_bytes() == before
    text = before.decode()
    assert "http://" not in text
    assert "https://" not in text
    for heading in ("The paper&#x27;s numbers", "Sizes", "Samples by label", "Quarantine", "Books"):
        assert f">{heading}<" in text
