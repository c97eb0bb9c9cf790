"""Pairing of images and masks, case names, subjects, tables."""

from pathlib import Path

import pytest

from etl.errors import UsageError
from etl.manifests.load import load_manifest
from etl.sources.inventory import Inventory, MaskFile, inventory

HEAD = "slug: toy\nmodality: ct\nlabels: {1: spleen, 2: liver}\nfiles:\n"


def run(tmp_path: Path, files: str, rules: str, head: str = HEAD, tail: str = "") -> Inventory:
    root = tmp_path / "raw"
    for name in files.split():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    manifest = tmp_path / "toy.yaml"
    manifest.write_text(head + rules + tail)
    return inventory(load_manifest(manifest), root)


def rule(image: str, mask: str, more: str = "kind: label_map") -> str:
    return f"  - {{image: '{image}', mask: '{mask}', {more}}}\n"


def test_pairs_rejects_and_unexpected(tmp_path: Path) -> None:
    files = "im/a.nii.gz im/b.nii.gz ms/a.nii.gz ms/c.nii.gz im/.hid.nii.gz .x/im.nii.gz note.txt"
    found = run(tmp_path, files, rule("im/{case}.nii.gz", "ms/{case}.nii.gz"))
    assert [(c.case, c.subject, c.image) for c in found.cases] == [("a", "a", "im/a.nii.gz")]
    assert found.cases[0].masks == (MaskFile(0, "ms/a.nii.gz"),)
    assert [(r.case, r.reason) for r in found.rejected] == [("b", "no_mask"), ("c", "no_image")]
    assert found.unexpected == ["note.txt"]


def test_case_names_subjects_splits(tmp_path: Path) -> None:
    rules = rule("{subject}/{visit:v\\d{1}}/t1.nii", "{subject}/{visit}/seg.nii", "kind: label_map, split: test")
    found = run(tmp_path, "p1/v1/t1.nii p1/v1/seg.nii p1/v2/t1.nii p1/v2/seg.nii", rules)
    assert [(c.case, c.subject, c.split) for c in found.cases] == [("p1-v1", "p1", "test"), ("p1-v2", "p1", "test")]


def test_name_without_captures_and_shared_mask(tmp_path: Path) -> None:
    found = run(tmp_path, "d/x.nii.gz d/e/y.png m.nii", rule("d/**", "m.nii"))
    assert [(c.case, c.masks[0].path) for c in found.cases] == [("d-e-y", "m.nii"), ("d-x", "m.nii")]


def test_templates(tmp_path: Path) -> None:
    rules = rule("{a}_{b}.png", "m/{a}_{b}.png", "kind: label_map, case: '{b}.{a}', subject: 'S{a}/{case}'")
    found = run(tmp_path, "1_2.png m/1_2.png", rules)
    assert (found.cases[0].case, found.cases[0].subject) == ("2.1", "S1/2.1")


def test_mask_is_no_image(tmp_path: Path) -> None:
    found = run(tmp_path, "a.png a_mask.png", rule("{case}.png", "{case}_mask.png"))
    assert [c.case for c in found.cases] == ["a"]
    assert not found.rejected


def test_file_per_label_with_ambiguous_names(tmp_path: Path) -> None:
    head = HEAD.replace("{1: spleen, 2: liver}", "{left_lung: left lung, heart: heart}")
    files = "p.png p_1.png m/p_1_left_lung.png m/p_1_heart.png m/p_heart.png"
    found = run(tmp_path, files, rule("{case}.png", "m/{case}_{label}.png", "kind: file_per_label"), head)
    assert [[m.label for m in c.masks] for c in found.cases] == [["heart"], ["heart", "left_lung"]]


def test_joined_rules(tmp_path: Path) -> None:
    rules = rule("{case}.png", "m/{case}.png", "kind: binary, labels: {1: cup}")
    rules += rule("{case}.png", "n/{case}.png", "kind: binary, labels: {1: disc}")
    found = run(tmp_path, "a.png m/a.png n/a.png", rules, HEAD)
    assert [(m.rule, m.path) for m in found.cases[0].masks] == [(0, "m/a.png"), (1, "n/a.png")]
    with pytest.raises(UsageError, match="both give the raw label 'cup'"):
        run(tmp_path, "", rules.replace("disc", "cup"), HEAD)


def test_two_images_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'a': t/a.png and u/a.png"):
        run(tmp_path, "t/a.png u/a.png m/a.png", rule("*/{case}.png", "m/{case}.png"))


def test_exclude(tmp_path: Path) -> None:
    tail = "exclude: [{case: a, why: cut off, link: 'https://x'}]\n"
    found = run(tmp_path, "a.png m/a.png", rule("{case}.png", "m/{case}.png"), tail=tail)
    assert [(r.case, r.reason, r.detail) for r in found.rejected] == [("a", "excluded", "cut off https://x")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "id;p;f;s\na;P1;0;M\n"),
        ("t.tsv", "id\tp\tf\ts\na\tP1\t0\tM\n"),
        ("t.json", '[{"id": "a", "p": "P1", "f": 0, "s": "M"}]'),
        ("t.json", '{"a": {"p": "P1", "f": 0, "s": "M"}}'),
    ],
)
def test_tables(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_text(text)
    tail = f"tables:\n  - {{file: {name}, key: id, columns: {{subject: p, split: f, sex: s}},\n"
    tail += "     values: {sex: {M: male}, split: {0: val}}}\n"
    found = run(tmp_path, "a.png m/a.png", rule("{case}.png", "m/{case}.png"), tail=tail)
    case = found.cases[0]
    assert (case.subject, case.split, case.facts) == ("P1", "val", {"sex": "male"})
    assert not found.unexpected


def test_an_excluded_name_may_have_a_star(tmp_path: Path) -> None:
    tail = "exclude: [{case: 'c1_*', why: shifted, link: https://x}, {case: c2.a, why: cut}]\n"
    files = " ".join(f"{n}.png m/{n}.png" for n in ("c1_a", "c1_b", "c2.a", "c2xa"))
    found = run(tmp_path, files, rule("{case}.png", "m/{case}.png"), tail=tail)
    assert [c.case for c in found.cases] == ["c2xa"]
    assert {(r.case, r.reason, r.detail) for r in found.rejected} == {
        ("c1_a", "excluded", "shifted https://x"), ("c1_b", "excluded", "shifted https://x"),
        ("c2.a", "excluded", "cut"),
    }


def test_only_an_optional_table_may_be_missing(tmp_path: Path) -> None:
    tail = "tables: [{file: m.csv, optional: true, key: id, columns: {sex: s}}]\n"
    assert run(tmp_path, "a.png m/a.png", rule("{case}.png", "m/{case}.png"), tail=tail).cases[0].facts == {}
    with pytest.raises(UsageError, match=r"m\.csv"):
        run(tmp_path, "a.png", rule("{case}.png", "m/{case}.png"), tail=tail.replace("optional: true, ", ""))
