"""Strict YAML and the checks of a manifest."""

from pathlib import Path
from typing import get_args

import pytest

from etl import yamlfile
from etl.errors import UsageError
from etl.kinds import KINDS
from etl.manifests.load import load_manifest, load_manifests
from etl.manifests.manifest import OPTIONS, Kind, Manifest

GOOD = """slug: toy
modality: ct
year: 2022
license: {name: CC0, redistribution: allowed}
files:
  - {image: "i/{case}.nii.gz", mask: "m/{case}.nii.gz", kind: label_map}
labels: {1: no, 2: 1e3, "5-7": rib, ">0": all}
"""


def load(tmp_path: Path, text: str) -> Manifest:
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    return load_manifest(path)


def test_text_stays_text(tmp_path: Path) -> None:
    manifest = load(tmp_path, GOOD)
    assert manifest.labels == {"1": "no", "2": "1e3", "5-7": "rib", ">0": "all"}
    assert (manifest.year, manifest.group, manifest.pseudonymize) == (2022, "toy", False)


def test_null_is_a_label(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD.replace("1: no", "1: null") + "detail: null\n").labels["1"] == "null"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("year:", "yaer:", r"toy.yaml:3: yaer: unknown key \(did you mean 'year'"),
        ("modality: ct", "modality: mr", r"toy.yaml:2: modality: 'mr' is not one of"),
        ("kind: label_map", "kind: labelmap", r"toy.yaml:6: files\[0\].kind: .*did you mean 'label_map'"),
        ("1: no", "01: no", r"toy.yaml:7: labels.01: .*without leading zeros"),
        ("1: no", "1: a, 1.0: b", r"means the same as another key"),
        ("1: no", "1: a, 1: b", r"toy.yaml:7: labels.1: the key is there twice \(first on line 7"),
        ("year: 2022", "year: two", r"toy.yaml:3: year: "),
        ("slug: toy", "slug: &a toy", r"toy.yaml:1: anchors"),
        ("year: 2022", "year: !!int 2022", r"toy.yaml:3: tags"),
        ("slug: toy", "slug: tyo", r"toy.yaml:1: slug: must be the file's name"),
        ('"i/{case}.nii.gz"', "{case}", r"files\[0\].image: must be text; put quotes"),
        ("year: 2022", "components: [ribs]", r"components\[0\]: 'ribs' is no raw label .*did you mean 'rib'"),
        ("year: 2022", "year: [", r"not valid YAML"),
        ("year: 2022", "year: " + "[" * 5000 + "]" * 5000, r"not valid YAML"),
        ("modality: ct", "---\nmodality: ct", r"toy.yaml:2: a second document"),
        ("kind: label_map", "kind: label_map, subject: '{cas}'", r"no capture 'cas' \(did you mean 'case'"),
        ("modality: ct\n", "", r"the key 'modality' is missing"),
        ("kind: label_map", "kind: label_map, threshold: 3", r"toy.yaml:6: files\[0\].threshold: means nothing to kind "
         r"label_map, only to binary, dicom_seg"),
        ("kind: label_map", "kind: coco, order: position", r"files\[0\].order: means nothing to kind coco"),
        ("kind: label_map", "kind: csv_boxes, columns: {imge: x}", r"files\[0\].columns"),
        ("kind: label_map", "kind: csv_boxes, columns: {rle: x}", r"kind csv_boxes has no column rle"),
        ("kind: label_map", "kind: rle_csv, runs: down", r"files\[0\].runs: 'down' is not one of: columns, rows"),
        ("kind: label_map", "kind: yolo", r"toy.yaml:7: labels.5-7: '5-7' is no key of kind yolo: write an integer"),
        ("kind: label_map", "kind: bitfield", r"'>0' is no key of kind bitfield"),
    ],
)
def test_messages(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(tmp_path, GOOD.replace(old, new))


def test_leading_zeros_are_fine_in_file_names(tmp_path: Path) -> None:
    text = GOOD.replace("m/{case}", "m/{case}_{label}").replace("kind: label_map", "kind: file_per_label")
    assert "01" in load(tmp_path, text.replace("1: no", "01: no")).labels


def test_later_folder_hides(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "toy.yaml").write_text(GOOD + f"title: {name}\n")
    assert load_manifests(tmp_path / "a", tmp_path / "b")["toy"].title == "b"


def test_a_later_manifest_hides_those_that_would_read_its_folder(tmp_path: Path) -> None:
    below = {"by_folder": "folder: Data\n", "by_slug": "", "by_group": "group: sets\n", "other": "folder: Else\n"}
    above = {"mine": "folder: Data\n", "my_part": "folder: by_slug\n", "my_set": "folder: sets\n"}
    for folder, sources in (("a", below), ("b", above)):
        (tmp_path / folder).mkdir()
        for slug, text in sources.items():
            (tmp_path / folder / f"{slug}.yaml").write_text(GOOD.replace("slug: toy", f"slug: {slug}") + text)
    assert list(load_manifests(tmp_path / "a", tmp_path / "b")) == ["mine", "my_part", "my_set", "other"]
    assert set(load_manifests(tmp_path / "a")) == set(below)
    for path in (tmp_path / "b").iterdir():
        path.unlink()
    (tmp_path / "a/sibling.yaml").write_text(GOOD.replace("slug: toy", "slug: sibling") + "folder: Data\n")
    (tmp_path / "b/by_folder.yaml").write_text(GOOD.replace("slug: toy", "slug: by_folder") + "folder: Data\n")
    assert "sibling" in load_manifests(tmp_path / "a", tmp_path / "b")  # the rest of a group stays


def test_root(tmp_path: Path) -> None:
    manifest = load(tmp_path, GOOD + "folder: Toy2022\ngroup: toys\n")
    assert manifest.root(tmp_path) is None
    for name in ("toys", "toy", "Toy2022"):
        (tmp_path / name).mkdir()
        assert manifest.root(tmp_path) == tmp_path / name


def test_window(tmp_path: Path) -> None:
    view = load(tmp_path, GOOD + "view: {window: {center: 40, width: 400}, axes: [axial]}\n").view
    assert view.window is not None
    assert view.window != "none"
    assert view.window.width == 400
    assert load(tmp_path, GOOD + "view: {window: none}\n").view.window == "none"
    for text in ("percentile: [1, 90]", "window: {percentile: [1, 90]}"):
        view = load(tmp_path, GOOD + f"view: {{{text}}}\n").view
        assert (view.window, view.percentile) == (None, (1, 90))
    for text in ("window: {percentile: [1, 90], center: 4}", "percentile: [1, 90], window: {percentile: [1, 90]}"):
        with pytest.raises(UsageError, match=r"view\.window"):
            load(tmp_path, GOOD + f"view: {{{text}}}\n")


def test_alias_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: b\nc: *a\n")
    with pytest.raises(UsageError):
        yamlfile.load(path)


def test_every_kind_is_read_and_documented() -> None:
    text = (Path(__file__).parents[1] / "docs/annotation-kinds.md").read_text()
    kinds = get_args(Kind)
    assert set(KINDS) == set(kinds)
    assert [kind for kind in kinds if f"`{kind}`" not in text or f"kind: {kind}" not in text + PLAIN] == []
    assert [option for option in OPTIONS if f"`{option}`" not in text] == []
    assert all(set(takers) <= set(kinds) for takers in OPTIONS.values())


PLAIN = "kind: binary kind: file_per_label kind: color_map kind: outline kind: multipage kind: npy"
"""Kinds that need no example."""


def test_segments_of_slicer_have_names(tmp_path: Path) -> None:
    text = GOOD.replace("m/{case}.nii.gz", "m/{case}.seg.nrrd").replace("1: no", "Left kidney: kidney")
    assert load(tmp_path, text).labels["Left kidney"] == "kidney"
    with pytest.raises(UsageError, match="'Left kidney' is no key of kind label_map"):
        load(tmp_path, GOOD.replace("1: no", "Left kidney: kidney"))
