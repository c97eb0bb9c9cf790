"""Keys of a manifest for layouts that a few public sources have: grids, ignored values, colour, lists, faults."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from etl import formats
from etl.errors import ItemError, UsageError
from etl.manifests.casenames import ByName, faulty_labels
from etl.manifests.load import load_manifest
from etl.sources.case import Loaded, load
from etl.sources.inventory import Case, inventory
from stages.records import annotated

HEAD = "slug: toy\nmodality: mri\n"
RULE = "files:\n  - {{image: 'im/{{case}}.nii', mask: 'ms/{{case}}.nii', kind: label_map{more}}}\n"
LABELS = "labels: {1: liver, 2: spleen}\n"


def save(path: Path, array: Any, affine: Any = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array), np.eye(4) if affine is None else affine), path)


def source(folder: Path, text: str) -> tuple[Any, list[Case]]:
    (folder / "toy.yaml").write_text(HEAD + text)
    manifest = load_manifest(folder / "toy.yaml")
    return manifest, inventory(manifest, folder).cases


def only(folder: Path, text: str) -> Loaded:
    manifest, cases = source(folder, text)
    (loaded,) = load(cases[0], manifest, folder, lambda name, error: None)
    return loaded


def block() -> np.ndarray:
    mask = np.zeros((9, 10, 11), np.uint8)
    mask[2:5, 3:7, 4:6] = 1
    return mask


def test_a_mask_on_a_grid_of_its_own_is_brought_over_only_where_the_manifest_says_so(tmp_path: Path) -> None:
    image_affine = np.diag([1.0, 2.0, 3.0, 1.0])
    fine = np.diag([0.5, 1.0, 1.5, 1.0])
    fine[:3, 3] = [-0.25, -0.5, -0.75]  # two voxels for each of the image along each axis
    save(tmp_path / "im/a.nii", np.zeros((9, 10, 11), np.int16), image_affine)
    save(tmp_path / "ms/a.nii", block().repeat(2, 0).repeat(2, 1).repeat(2, 2), fine)
    with pytest.raises(ItemError, match="geometry_mismatch"):
        only(tmp_path, RULE.format(more="") + LABELS)
    loaded = only(tmp_path, RULE.format(more=", mask_grid: nearest") + LABELS)
    assert np.array_equal(loaded.layers[0].array, block())
    assert loaded.layers[0].resampled
    save(tmp_path / "ms/a.nii", block(), image_affine)
    assert not only(tmp_path, RULE.format(more=", mask_grid: nearest") + LABELS).layers[0].resampled
    image_affine[:3, 3] = 500
    save(tmp_path / "ms/a.nii", block(), image_affine)
    with pytest.raises(ItemError, match="not_placed"):
        only(tmp_path, RULE.format(more=", mask_grid: nearest") + LABELS)


def test_a_mask_is_laid_over_voxel_by_voxel_whatever_its_header_says(tmp_path: Path) -> None:
    save(tmp_path / "im/a.nii", np.zeros((9, 10, 11), np.int16), np.diag([-1.0, -2.0, 3.0, 1.0]))
    save(tmp_path / "ms/a.nii", block(), np.diag([3.0, 1.0, -1.0, 1.0]))
    loaded = only(tmp_path, RULE.format(more=", mask_grid: voxels") + LABELS)
    assert np.array_equal(loaded.layers[0].array, block()[::-1, ::-1])
    save(tmp_path / "ms/a.nii", block()[:, :, :-1])
    with pytest.raises(ItemError, match="shape_mismatch"):
        only(tmp_path, RULE.format(more=", mask_grid: voxels") + LABELS)


def test_ignored_values_are_background_and_no_label(tmp_path: Path) -> None:
    mask = block()
    mask[0, 0, 0], mask[8, 9, 10] = 2, 7
    save(tmp_path / "im/a.nii", np.zeros(mask.shape, np.int16))
    save(tmp_path / "ms/a.nii", mask)
    layer = only(tmp_path, RULE.format(more=", ignore: [1, 9]") + "labels: {2: spleen}\n").layers[0]
    assert np.unique(layer.array).tolist() == [0, 2, 7]  # 7 is still there, to be reported
    with pytest.raises(UsageError, match=r"toy\.yaml:4: files\[0\]\.ignore: 1 is a key of labels too"):
        source(tmp_path, RULE.format(more=", ignore: [1]") + LABELS)
    with pytest.raises(UsageError, match="means nothing to kind binary"):
        source(tmp_path, RULE.format(more=", ignore: [1]").replace("label_map", "binary") + "labels: {1: liver}\n")


def test_a_third_axis_of_colour_is_one_picture(tmp_path: Path) -> None:
    colors = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)  # rows, columns, channels
    mask = np.zeros((6, 5), np.uint8)
    mask[1:3, 4] = 1
    text = RULE.format(more="").replace(".nii", ".mha") + LABELS + "third_axis: color\n"
    for name, array in (("im", np.moveaxis(colors, 2, 0)), ("ms", mask)):
        (tmp_path / name).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name / "a.mha"))
    loaded = only(tmp_path, text)
    assert loaded.native
    assert np.array_equal(loaded.frames[0], colors)
    assert np.array_equal(loaded.layers[0].array[..., 0], mask)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 6, 5), np.uint8)), str(tmp_path / "im/a.mha"))
    with pytest.raises(ItemError, match="third_axis: color is for"):
        only(tmp_path, text)


@pytest.mark.parametrize("suffix", ["ppm", "png", "tif"])
def test_pictures_packed_with_gzip(tmp_path: Path, suffix: str) -> None:
    colors = np.random.default_rng(0).integers(0, 255, (7, 5, 3), np.uint8)
    Image.fromarray(colors).save(tmp_path / f"a.{suffix}")
    packed = tmp_path / f"a.{suffix}.gz"
    packed.write_bytes(gzip.compress((tmp_path / f"a.{suffix}").read_bytes()))
    assert np.array_equal(formats.read(packed).array, colors)
    assert formats.read_colors(packed).shape == (7, 5, 3)
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(ItemError, match="unreadable"):
        formats.read(packed)


def test_a_packed_picture_is_not_unpacked_to_learn_that_it_is_too_large(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.ppm.gz"
    bomb.write_bytes(gzip.compress(b"P6 60000 60000 255\n" + b"\0" * 100_000))
    with pytest.raises(ItemError, match="too_large"):
        formats.read(bomb, limit=2**20)


def test_lists_of_splits_and_subjects_of_the_manifest(tmp_path: Path) -> None:
    for case in ("p1_2", "p2_2", "p3_2", "7", "9"):
        save(tmp_path / f"im/{case}.nii", np.zeros((3, 3, 3), np.int16))
        save(tmp_path / f"ms/{case}.nii", np.zeros((3, 3, 3), np.uint8))
    (tmp_path / "train.txt").write_text("p1\n\np2\r\n")
    (tmp_path / "test.txt").write_text("p3\n")
    text = "files:\n  - {image: 'im/{person}_{view}.nii', mask: 'ms/{person}_{view}.nii', kind: label_map}\n"
    text += "  - {image: 'im/{case:\\d+}.nii', mask: 'ms/{case}.nii', kind: label_map, split: val}\n" + LABELS
    lists = "split_lists:\n  - {file: train.txt, split: train, case: '{person}'}\n"
    lists += "  - {file: test.txt, split: test, case: '{person}'}\n"
    with pytest.raises(UsageError, match=r"split_lists\[0\].case"):  # the other rule has no {person}
        source(tmp_path, text + lists)
    text = text.replace("{person}_{view}", "{case:[^/]+}").replace("'im/{case:\\d+}", "'no/{case:\\d+}")
    lists = lists.replace("'{person}'", "'{case}'").replace("train.txt", "gone.txt")
    with pytest.raises(UsageError, match=r"gone\.txt"):
        source(tmp_path, text + lists)
    lists = lists.replace("gone.txt, ", "gone.txt, optional: true, ")
    (tmp_path / "test.txt").write_text("p3_2\n")
    _, cases = source(tmp_path, text + lists + "subjects: {p1_*: anna, p2_2: anna, 5-8: ben}\n")
    found = {case.case: (case.subject, case.split) for case in cases}
    assert found == {"p1_2": ("anna", None), "p2_2": ("anna", None), "p3_2": ("p3_2", "test"),
                     "7": ("ben", None), "9": ("9", None)}  # fmt: skip


def test_one_name_in_lists_of_two_splits_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "im/a.nii", np.zeros((3, 3, 3), np.int16))
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("a\n")
    lists = "split_lists: [{file: train.txt, split: train}, {file: test.txt, split: test}]\n"
    with pytest.raises(UsageError, match=r"test.txt: 'a' is in the list of train too, train.txt"):
        source(tmp_path, RULE.format(more="") + LABELS + lists)


def test_names_go_before_spans_and_patterns() -> None:
    said = ByName({"1*": "one", "10-12": "ten", "11": "eleven"})
    assert [said.of(case) for case in ("11", "10", "13", "2", "1a")] == ["eleven", "ten", "one", None, "one"]


def test_faulty_labels_of_a_case_by_pattern(tmp_path: Path) -> None:
    text = "files:\n  - {image: '{case}.nii', mask: '{case}_m.nii', kind: label_map}\n"
    text += "labels: {1: vertebra T1, 2: vertebra T2, 3: rib}\nderive: {spine: [vertebra T1, vertebra T2]}\n"
    manifest, _ = source(tmp_path, text + "exclude: [{case: 's1', labels: ['vertebra *'], why: mixed up}]\n")
    assert faulty_labels(manifest, "s1") == {
        "vertebra T1": "mixed up", "vertebra T2": "mixed up", "spine": "holds vertebra T1: mixed up"}  # fmt: skip
    assert faulty_labels(manifest, "s2") == {}
    with pytest.raises(UsageError, match=r"exclude\[0\]\.labels\[0\]: 'rip' is no raw label .*did you mean 'rib'"):
        source(tmp_path, text + "exclude: [{case: 's1', labels: [rip], why: mixed up}]\n")


def test_json_polygons(tmp_path: Path) -> None:
    square = [[2, 3], [8, 3], [8, 9], [2, 9]]
    nodes: list[dict[str, Any]] = [
        {"file_name": "a.png", "syms": ["Mass", "Mass", "Odd"], "boxes": [], "polygons": [square, square, [[1, 1]]]},
        {"file_name": "b.png", "syms": [], "boxes": [], "polygons": []},
        {"file_name": "far.png", "syms": [], "boxes": [], "polygons": []},
    ]
    (tmp_path / "list.json").write_text(json.dumps(nodes))
    for name in "abc":
        (tmp_path / "im").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "im" / f"{name}.png")
    text = "files:\n  - {image: 'im/{case}.png', mask: list.json, kind: json_polygons, columns: {label: syms}}\n"
    manifest, cases = source(tmp_path, text + "labels: {Mass: mass}\n")
    rejected = inventory(manifest, tmp_path).rejected
    assert [(row.case, row.reason) for row in rejected] == [("c", "no_mask"), ("far", "no_image")]
    shown, empty = (load(case, manifest, tmp_path, lambda name, error: None)[0] for case in cases)
    assert [(o.name, o.defined, o.region.x, o.region.y, o.region.area) for o in shown.objects[0].found] == [
        ("mass", True, 2, 3, 36), ("mass", True, 2, 3, 36)]  # fmt: skip
    assert [(item.name, item.reason) for item in shown.lost] == [("Odd", "unreadable")]
    assert empty.objects[0].found == ()
    (tmp_path / "list.json").write_text(json.dumps([{**nodes[0], "polygons": [square]}]))
    with pytest.raises(ItemError, match="equally long"):
        load(cases[0], manifest, tmp_path, lambda name, error: None)


def test_each_rule_annotates_its_own_labels(tmp_path: Path) -> None:
    rules = "files:\n" + "".join(
        f"  - {{image: '{part}/{{case}}.nii', mask: '{part}_ms/{{case}}.nii', kind: label_map, case: '{part}-{{case}}',"
        f" labels: {labels}}}\n"
        for part, labels in (("lung", "{1: lung}"), ("fluid", "{1: effusion, 2: scar}"))
    )
    for part in ("lung", "fluid"):
        save(tmp_path / part / "a.nii", np.zeros((3, 3, 3), np.int16))
        save(tmp_path / f"{part}_ms" / "a.nii", np.zeros((3, 3, 3), np.uint8))
    manifest, cases = source(tmp_path, rules + "derive: {damage: [effusion, scar]}\n")
    assert {case.case: annotated(manifest, case) for case in cases} == {
        "lung-a": ["lung"], "fluid-a": ["damage", "effusion", "scar"]}  # fmt: skip


def test_a_label_that_is_faulty_in_a_case_is_unknown_there(tmp_path: Path) -> None:
    raw, maps = tmp_path / "raw" / "toy", tmp_path / "maps" / "sources"
    maps.mkdir(parents=True)
    for case in ("a", "b"):
        mask = np.zeros((40, 40, 4), np.uint8)
        mask[4:14, 4:14], mask[20:34, 20:34] = 1, 2
        grey = np.random.default_rng(ord(case)).integers(0, 99, mask.shape)
        save(raw / f"im/{case}.nii", grey.astype(np.int16))
        rim = np.eye(4)
        rim[:3, 3] = -1
        save(raw / f"ms/{case}.nii", np.pad(mask, 1), rim)
    faults = "exclude: [{case: 'a*', labels: [liver], why: half of it is missing, link: 'https://example.org/1'}]\n"
    more = RULE.format(more=", mask_grid: nearest") + LABELS
    more += "derive: {both: [liver, spleen]}\nview: {axes: [axial]}\n"
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "toy.yaml").write_text(HEAD + more + faults)
    mapped = {"both": "pancreas", "liver": "liver", "spleen": "spleen"}
    entries = "".join(f"  {name}: {{label: {mapped[name]}, status: approved, by: test}}\n" for name in mapped)
    (maps / "toy.yaml").write_text("source: toy\nlabels:\n" + entries)
    folders = {"--raw": "raw", "--manifests": "manifests", "--label-maps": "maps", "--out": "out"}
    command = [str(Path(sys.executable).with_name("medglip-etl")), "build"]
    command += [text for option, name in folders.items() for text in (option, str(tmp_path / name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(tmp_path / "out" / "quarantine" / "toy.parquet")
    assert rows[["case", "raw_label", "reason"]].to_numpy().tolist() == [
        ["a", "both", "excluded"], ["a", "liver", "excluded"]]  # fmt: skip
    assert "half of it is missing https://example.org/1" in rows["detail"].iloc[1]
    images = pd.read_parquet(tmp_path / "out" / "dataset" / "shards")
    shown = images.explode("regions").groupby("case")["regions"].agg(lambda rows: {r["raw_label"] for r in rows})
    assert shown.to_dict() == {"a": {"spleen"}, "b": {"liver", "spleen", "both"}}
    known = images.groupby("case")["annotated_label_ids"].agg(lambda column: {len(ids) for ids in column})
    assert known.to_dict() == {"a": {1}, "b": {3}}
    stats = json.loads((tmp_path / "out" / "dataset" / "stats.json").read_text())
    assert stats["mask_grid_nearest"] == {"toy": 2}
    assert stats["books"]["regions"]["slice"]["quarantined"] == 2
