"""Readers of VQA and report datasets, the four arms, and how regions are injected."""

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from etl.cli import app
from etl.errors import Failure, UsageError
from glip.downstream import arms, inject, mlrg
from glip.downstream.datasets import read_report_dataset, read_vqa_dataset
from glip.downstream.items import Question, Region, read_items, write_items
from glip.downstream.read_slake import box_of, box_reading, slake_masks

LIVER = Region("liver", (10, 20, 30, 40), 0.91)
SPLEEN = Region("spleen", (60, 20, 20, 20), 0.5)


def picture(path: Path, size: tuple[int, int] = (100, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0]), 90, np.uint8)).save(path)


def slake_row(**more: Any) -> dict[str, Any]:
    row = {"img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Is this the liver? ", "answer": "Yes", "qid": 7,
           "q_lang": "en", "location": "Abdomen", "modality": "MRI", "answer_type": "CLOSED",
           "content_type": "Organ", "base_type": "vqa", "triple": ["vhead", "_", "_"]}  # fmt: skip
    return {**row, **more}


@pytest.fixture
def slake(tmp_path: Path) -> Path:
    chinese = slake_row(q_lang="zh", qid=8, question="?")
    far = slake_row(qid=9, img_name="xmlab2/source.jpg", modality="X-Ray", answer_type="OPEN")
    for name, rows in (("train", [slake_row(), chinese]), ("validation", []), ("test", [far])):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    for n in (1, 2):
        picture(tmp_path / f"imgs/xmlab{n}/source.jpg")
        boxes = [{"Liver": [50, 30, 40, 45.5]}, {"Spleen": [10, 5, 8, 8]}]
        (tmp_path / f"imgs/xmlab{n}/detection.json").write_text(json.dumps(boxes))
    return tmp_path


def test_slake_with_its_own_boxes_and_splits(slake: Path) -> None:
    items, images = read_vqa_dataset("slake", slake, None)
    assert images == slake / "imgs"
    assert [(q.id, q.split, q.kind, q.modality, q.question) for q in items] == [
        ("7", "train", "closed", "mri", "Is this the liver?"), ("9", "test", "open", "xray", "Is this the liver?"),
    ]  # fmt: skip
    assert items[0].reference == (Region("Liver", (50, 30, 40, 45.5)), Region("Spleen", (10, 5, 8, 8)))


def test_how_slake_writes_boxes_is_decided_on_the_data(slake: Path) -> None:
    corners = [{"Liver": [50, 30, 95, 75]}, {"Spleen": [60, 40, 90, 70]}]  # as sizes both would leave the image
    for n in (1, 2):
        (slake / f"imgs/xmlab{n}/detection.json").write_text(json.dumps(corners))
    items, _ = read_vqa_dataset("slake", slake, None)
    assert items[0].reference == (Region("Liver", (50, 30, 45, 45)), Region("Spleen", (60, 40, 30, 30)))
    with pytest.raises(Failure, match="neither reading"):
        box_reading([([50, 50, 20, 400], (100, 80))] * 3)


@pytest.mark.parametrize("content", ["{", '[{"Liver": [1, 2, 3]}]', '{"Liver": [1, 2, 3, 4]}', '[{"Liver": "x"}]'])
def test_broken_boxes_name_their_file(slake: Path, content: str) -> None:
    (slake / "imgs/xmlab1/detection.json").write_text(content)
    with pytest.raises(Failure, match=r"xmlab1/detection\.json"):
        read_vqa_dataset("slake", slake, None)


def test_an_image_without_boxes_has_no_reference(slake: Path) -> None:
    (slake / "imgs/xmlab1/detection.json").unlink()
    assert read_vqa_dataset("slake", slake, None)[0][0].reference is None


def masked(slake: Path, n: int, areas: dict[int, tuple[int, int, int, int]], mode: str = "L") -> None:
    """A `mask.png`: grey value → [x, y, width, height] of a block of it."""
    grey = np.zeros((80, 100), np.uint8)
    for value, (x, y, w, h) in areas.items():
        grey[y : y + h, x : x + w] = value
    Image.fromarray(grey).convert(mode).save(slake / f"imgs/xmlab{n}/mask.png")


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_slake_masks_are_named_by_its_own_file(slake: Path, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    (slake / "mask.txt").write_text("70:Liver\r\n230:Spleen\r\n165:Stomach\r\n\r\n")
    masked(slake, 1, {70: (50, 30, 40, 46), 165: (5, 60, 20, 7), 30: (0, 0, 2, 2)}, mode)
    (slake / "imgs/xmlab2/detection.json").unlink()
    masked(slake, 2, {230: (99, 79, 1, 1)}, mode)
    items, _ = read_vqa_dataset("slake", slake, None)
    boxes = (Region("Liver", (50, 30, 40, 45.5)), Region("Spleen", (10, 5, 8, 8)))
    assert items[0].reference == (*boxes, Region("Stomach", (5, 60, 20, 7)))
    assert items[1].reference == (Region("Spleen", (99, 79, 1, 1)),)
    assert "names no mask value 30 (1 images)" in capsys.readouterr().err
    (slake / "mask.txt").unlink()
    items, _ = read_vqa_dataset("slake", slake, None)
    assert (items[0].reference, items[1].reference) == (boxes, None)


def test_the_mask_of_a_name_is_its_pixels(slake: Path) -> None:
    masked(slake, 1, {70: (50, 30, 40, 46), 80: (60, 40, 3, 3)})
    nameless = Counter[int]()
    masks = slake_masks(slake / "imgs/xmlab1/mask.png", {70: "Liver", 90: "Right Eye"}, (100, 80), nameless)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"Liver": 40 * 46 - 9}
    assert masks["Liver"].shape == (80, 100)
    assert nameless == {80: 1}


def test_masks_decide_how_slake_writes_boxes(slake: Path) -> None:
    both = [{"Liver": [10, 12, 40, 44]}]  # inside the image, as a size and as corners
    for n in (1, 2):
        (slake / f"imgs/xmlab{n}/detection.json").write_text(json.dumps(both))
    assert read_vqa_dataset("slake", slake, None)[0][0].reference == (Region("Liver", (10, 12, 40, 44)),)
    (slake / "mask.txt").write_text("70:Liver")
    masked(slake, 2, {70: (10, 12, 30, 32)})
    assert read_vqa_dataset("slake", slake, None)[0][0].reference == (Region("Liver", (10, 12, 30, 32)),)
    masked(slake, 2, {70: (10, 12, 39, 44)})
    assert read_vqa_dataset("slake", slake, None)[0][0].reference == (Region("Liver", (10, 12, 40, 44)),)


@given(st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(1, 60), st.integers(1, 50)))
def test_the_box_of_a_mask_is_tight(box: tuple[int, int, int, int]) -> None:
    x, y, w, h = box
    mask = np.zeros((80, 100), bool)
    mask[y, x] = mask[y + h - 1, x + w - 1] = True
    assert box_of(mask) == box


@pytest.mark.parametrize("line", ["Liver", "70:", "x:Liver", "0:Background", "256:Liver", "70:Liver\n70:Spleen"])
def test_broken_mask_names_are_told(slake: Path, line: str) -> None:
    (slake / "mask.txt").write_text(line)
    with pytest.raises(Failure, match=r"mask\.txt, line [12]: not `value:name`"):
        read_vqa_dataset("slake", slake, None)


def test_broken_masks_are_told(slake: Path) -> None:
    (slake / "mask.txt").write_text("70:Liver")
    path = slake / "imgs/xmlab1/mask.png"
    picture(path, (80, 100))
    with pytest.raises(Failure, match=r"xmlab1/mask\.png: not grey in 8 bits and of its image's size 100 x 80"):
        read_vqa_dataset("slake", slake, None)
    Image.fromarray(np.arange(80 * 100 * 3, dtype=np.uint8).reshape(80, 100, 3)).save(path)
    with pytest.raises(Failure, match="not grey"):
        read_vqa_dataset("slake", slake, None)
    path.write_bytes(b"no picture")
    with pytest.raises(Failure, match=r"xmlab1/mask\.png: cannot be read.*move mask\.txt away"):
        read_vqa_dataset("slake", slake, None)


def test_vqa_rad_by_the_authors_split(tmp_path: Path) -> None:
    row = {"qid": "1", "image_name": "synpic1.jpg", "question": "How many gallstones?", "answer": 4,
           "answer_type": "CLOSED ", "question_type": "COUNT", "phrase_type": "freeform"}  # fmt: skip
    rows = [row, {**row, "qid": "2", "phrase_type": "test_para"}, {**row, "qid": 3, "phrase_type": "para"}]
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    items, images = read_vqa_dataset("vqa_rad", tmp_path, None)
    assert [q.split for q in items] == ["train", "test", "train"]
    assert (items[0].answer, items[0].kind, images.name) == ("4", "closed", "VQA_RAD Image Folder")


def pathology(root: Path, rows: list[dict[str, Any]]) -> Path:
    (root / "qas").mkdir()
    for split in ("train", "val", "test"):
        (root / "qas" / f"{split}_vqa.pkl").write_bytes(pickle.dumps(rows))
    return root


def test_path_vqa_and_no_pickle_that_runs_code(tmp_path: Path) -> None:
    row = {"answer_type": "other", "img_id": "train_0422", "label": {"in the canals of hering": 1},
           "question_id": 100422000, "question_type": "where", "sent": "Where are liver stem cells?"}  # fmt: skip
    pathology(tmp_path, [row, {**row, "label": {"yes": 1}, "answer_type": "yes/no"}])
    items, _ = read_vqa_dataset("path_vqa", tmp_path, None)
    assert [(q.kind, q.image) for q in items[:2]] == [
        ("open", "train/train_0422.jpg"), ("closed", "train/train_0422.jpg"),
    ]  # fmt: skip
    assert len({q.id for q in items[:2]}) == 2
    (tmp_path / "qas/val_vqa.pkl").write_bytes(pickle.dumps([Path("x")]))
    with pytest.raises(Failure, match=r"val_vqa\.pkl: refused, it names pathlib"):
        read_vqa_dataset("path_vqa", tmp_path, None)


def test_r2gens_annotation_and_mlrgs_studies(tmp_path: Path) -> None:
    study = {"id": "CXR1", "report": "The heart is normal.", "image_path": ["CXR1/0.png", "CXR1/1.png"]}
    (tmp_path / "annotation.json").write_text(json.dumps({"train": [study], "val": [], "test": [study]}))
    items, images = read_report_dataset("iu_xray", tmp_path, None)
    assert (items[0].images, items[1].split, images) == (("CXR1/0.png", "CXR1/1.png"), "test", tmp_path / "images")
    (tmp_path / "mlrg.json").write_text(json.dumps(mlrg_document()))
    found, images = read_report_dataset("mlrg", tmp_path / "mlrg.json", None)
    assert [(s.id, s.images, s.report) for s in found] == [("a", ("p10/a.jpg", "p10/b.jpg"), "lungs clear.")]
    assert images == tmp_path / "files"
    (tmp_path / "annotation.json").write_text("[]")
    with pytest.raises(Failure, match="no object with train"):
        read_report_dataset("iu_xray", tmp_path, None)


def mlrg_document() -> dict[str, Any]:
    row = {"id": "a", "findings": "lungs clear. ", "findings_factual_serialization": ["lungs clear"],
           "anchor_scan": {"image_path": ["p10/a.jpg"], "view_position": ["PA"]}, "indication_pure": "cough",
           "auxiliary_references": {"image_path": ["p10/b.jpg"], "view_position": ["LL"]},
           "prior_study": None}  # fmt: skip
    return {"train": [], "val": [], "test": [row, {**row, "id": "b", "findings_factual_serialization": []}]}


def test_a_dataset_that_is_not_there_is_told() -> None:
    with pytest.raises(UsageError, match="slake, vqa_rad, path_vqa, items"):
        read_vqa_dataset("vqa", Path(), None)
    with pytest.raises(UsageError, match=r"no train\.json; give the folder"):
        read_vqa_dataset("slake", Path("nowhere"), None)


def question(n: int, image: str, **more: Any) -> Question:
    return Question(f"{n}", image, "Is there a liver?", "yes", "closed", "test", **more)


def found_file(folder: Path, images: dict[str, list[Region]], size: tuple[int, int] = (100, 80)) -> Path:
    names = sorted({r.phrase for rs in images.values() for r in rs})
    rows = [
        {"id": 1, "image_id": n, "category_id": names.index(r.phrase) + 1, "bbox": list(r.bbox), "score": r.score}
        for n, rs in enumerate(images.values(), 1) for r in rs
    ]  # fmt: skip
    listed = [{"id": n, "file_name": i, "width": size[0], "height": size[1]} for n, i in enumerate(images, 1)]
    named = [{"id": n, "name": s} for n, s in enumerate(names, 1)]
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"images": listed, "annotations": rows, "categories": named}))
    return folder


def test_an_image_without_an_expert_goes_with_none_and_is_counted(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "bundle.json").write_text(json.dumps({"experts": ["ct", "xray"]}))
    folder = found_file(tmp_path / "found", {"a.png": [SPLEEN, LIVER], "b.png": [], "c.png": [LIVER]})
    known = arms.read_found(folder, bundle=bundle)
    assert known.regions["a.png"] == (LIVER, SPLEEN)
    items = [question(1, "a.png", modality="ct"), question(2, "b.png"), question(3, "c.png", modality="pathology"),
             question(4, "d.png", modality="ct")]  # fmt: skip
    sizes = dict.fromkeys(("a.png", "b.png", "c.png", "d.png"), (100, 80))
    predicted = arms.build(items, known, sizes=sizes, threshold=0.6)[1]
    assert predicted.regions == {"a.png": (LIVER,), "b.png": ()}
    assert predicted.counts == {"no_expert": 1, "not_grounded": 1, "nothing_found": 1}


def test_arms_share_items_and_no_reference_means_no_such_arm(tmp_path: Path) -> None:
    items = [question(1, "a.png"), question(2, "b.png")]
    known = arms.read_found(found_file(tmp_path / "f", {"a.png": [LIVER], "b.png": [SPLEEN]}))
    made = arms.build(items, known, sizes={"a.png": (100, 80), "b.png": (200, 40)})
    assert [a.name for a in made] == ["none", "predicted", "shuffled"]
    assert made[2].regions == {"a.png": (Region("spleen", (30, 40, 10, 40), 0.5),),
                               "b.png": (Region("liver", (20, 10, 60, 20), 0.91),)}  # fmt: skip


@given(st.integers(2, 30), st.integers(0, 5))
def test_no_image_keeps_its_own_regions(count: int, seed: int) -> None:
    regions = {f"{n}.png": (Region(str(n), (1, 1, 2, 2)),) for n in range(count)}
    sizes = dict.fromkeys(regions, (10, 10))
    mixed = arms.shuffled(regions, sizes, seed=seed)
    assert sorted(r[0].phrase for r in mixed.values()) == sorted(r[0].phrase for r in regions.values())
    assert all(mixed[name] != regions[name] for name in regions)
    assert mixed == arms.shuffled(dict(reversed(regions.items())), sizes, seed=seed)


def test_one_image_cannot_be_shuffled() -> None:
    with pytest.raises(Failure, match="two or more"):
        arms.shuffled({"a.png": (LIVER,)}, {"a.png": (10, 10)}, seed=0)


@pytest.mark.parametrize("broken", ['{"images": []}', '{"images": [], "categories": [], "annotations": [{}]}', "[]"])
def test_found_regions_that_are_none_name_the_file(tmp_path: Path, broken: str) -> None:
    (tmp_path / "results.json").write_text(broken)
    with pytest.raises(Failure, match="no results of `ground --out`"):
        arms.read_found(tmp_path)


def test_regions_as_text_have_one_form() -> None:
    assert inject.as_text([LIVER, SPLEEN], (100, 80)) == (
        "Detected regions: liver [0.10, 0.25, 0.40, 0.75] (0.91); spleen [0.60, 0.25, 0.80, 0.50] (0.50)."
    )
    assert inject.as_text([], (100, 80)) == ""
    assert inject.with_text("Why?", [], (100, 80)) == "Why?"


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(8, 200))
def test_the_sentence_keeps_to_its_budget_best_first(scores: list[float], budget: int) -> None:
    regions = arms.ordered([Region(f"organ {n}", (0, 0, 5, 5), s) for n, s in enumerate(scores)])
    text = inject.as_text(regions, (10, 10), budget)
    assert inject.length(text) <= budget
    shown = [r.phrase for r in regions if f"{r.phrase} [" in text]
    assert shown == [r.phrase for r in regions][: len(shown)]


def test_boxes_are_drawn_where_they_are() -> None:
    base = Image.new("L", (100, 80), 90)
    shown = np.asarray(inject.drawn(base, [LIVER]))
    assert tuple(shown[20, 10]) == tuple(shown[59, 39]) == (0xE6, 0x19, 0x4B)
    assert tuple(shown[60, 40]) == (90, 90, 90)
    assert inject.png(inject.drawn(base, [LIVER, SPLEEN])) == inject.png(inject.drawn(base, [LIVER, SPLEEN]))


def test_crops_are_the_best_regions_with_a_margin() -> None:
    base = Image.fromarray(np.arange(8000, dtype=np.uint8).reshape(80, 100))
    whole, first, tiny = inject.crops(base, [LIVER, Region("dot", (99, 79, 1, 1))])
    assert (whole.size, first.size) == ((100, 80), (36, 48))
    np.testing.assert_array_equal(np.asarray(first)[..., 0], np.asarray(base)[16:64, 7:43])
    assert min(tiny.size) >= 4


def test_items_come_back_and_broken_lines_are_named(tmp_path: Path) -> None:
    items = [question(1, "a.png", reference=(LIVER,)), question(2, "b.png")]
    write_items(tmp_path / "q.jsonl", items)
    assert read_items(tmp_path / "q.jsonl") == items
    (tmp_path / "q.jsonl").write_text('{"id": "1"}\n')
    with pytest.raises(Failure, match="line 1"):
        read_items(tmp_path / "q.jsonl")
    with pytest.raises(UsageError, match="leaves the folder"):
        arms.image_sizes(tmp_path, [question(1, "../a.png")])


@pytest.mark.parametrize("form", ["text", "drawn", "crops"])
def test_injection_from_files_to_files_twice_the_same(tmp_path: Path, form: str) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "data/images" / name)
    write_items(tmp_path / "data/questions.jsonl", [question(1, "a.png", reference=(LIVER,)), question(2, "b.png")])
    folder = found_file(tmp_path / "found", {"a.png": [LIVER], "b.png": []})
    for out in ("one", "two"):
        result = CliRunner().invoke(app, [
            "downstream", "inject", str(tmp_path / "data"), "--found", str(folder), "--out", str(tmp_path / out),
            "--form", form,
        ])  # fmt: skip
        assert result.exit_code == 0, result.output
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    assert {f"{arm}.jsonl" for arm in arms.ARMS} <= {str(f) for f in files}
    row = json.loads((tmp_path / "one/predicted.jsonl").read_text().splitlines()[0])
    bare = json.loads((tmp_path / "one/none.jsonl").read_text().splitlines()[0])
    assert bare == {"question_id": "1", "image": "a.png", "text": "Is there a liver?"}
    if form == "text":
        assert row["text"].startswith("Detected regions: liver [0.10,")
    else:
        assert (tmp_path / "one" / row["image"]).exists()
        assert row["text"] == bare["text"]


def test_mlrg_gets_a_sentence_boxes_and_features(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(mlrg_document()))
    for name in ("a", "b"):
        picture(tmp_path / f"files/p10/{name}.jpg")
    folder = found_file(tmp_path / "found", {"p10/a.jpg": [LIVER], "p10/b.jpg": [SPLEEN]})
    result = CliRunner().invoke(app, [
        "downstream", "mlrg", str(tmp_path / "in.json"), "--images", str(tmp_path / "files"), "--found", str(folder),
        "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    first, second = json.loads((tmp_path / "out/annotation.json").read_text())["test"]
    assert first["indication_pure"] == "Detected regions: liver [0.10, 0.25, 0.40, 0.75] (0.91). cough"
    assert list(first["regions"]) == ["p10/a.jpg", "p10/b.jpg"]
    assert second["findings_factual_serialization"] == []
    arrays = np.load(tmp_path / "out/regions.npz")
    np.testing.assert_allclose(arrays["p10/a.jpg/boxes"], [[0.1, 0.25, 0.4, 0.75]])
    features = {"p10/a.jpg": np.ones((1, 3), np.float32)}
    arm = arms.Arm("predicted", {"p10/a.jpg": (LIVER,)})
    mlrg.export(tmp_path / "in.json", arm, tmp_path / "more", sizes={"p10/a.jpg": (100, 80)}, features=features)
    assert np.load(tmp_path / "more/regions.npz")["p10/a.jpg/features"].shape == (1, 3)
