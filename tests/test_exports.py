"""Each export of a small built demo, read back and compared box by box with the shards.

By its own reader where that is light; the others are in test_exports_readers.py, and strict ones follow their rules
here. docs/exports.md says what is proven how.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import export_readers as read
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset  # type: ignore[import-untyped]
import yaml
from export_site import Make, built, maker
from PIL import Image
from program import medglip
from pycocotools import mask as rle
from pycocotools.coco import COCO

from etl.errors import Failure, UsageError
from etl.exports import FORMATS, run
from etl.exports.job import open_job, spans
from etl.exports.run import MARK, WRITERS, export
from etl.release.records import SPLITS

SOURCES = ("demo_mri_heart", "demo_ct_spine", "demo_fundus_boxes", "demo_fundus_lesions", "demo_us_fetal",
           "demo_us_breast", "demo_xray_boxes")  # fmt: skip
DOCS = Path(__file__).parents[1] / "docs" / "exports.md"
LEVELS = ("category", "label")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of volumes and pictures, with masks and given boxes, with images in all splits."""
    return built(tmp_path_factory.mktemp("exports"), SOURCES)


@pytest.fixture(scope="module")
def made(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(out, tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", SPLITS)
def test_cvat(out: Path, made: Any, split: str, level: str) -> None:
    folder = made("cvat", level)
    path = folder / "annotations" / f"instances_{split}.json"
    assert read.of_coco(path, folder / "images" / split, 1) == read.truth(out, split, level)
    labels = json.loads((folder / "labels.json").read_text())
    assert [entry["name"] for entry in labels] == [c["name"] for c in json.loads(path.read_text())["categories"]]


def test_coco_keeps_the_masks(out: Path, made: Any) -> None:
    masks, given_boxes = 0, 0
    for split in SPLITS:
        coco = COCO(str(made("cvat") / "annotations" / f"instances_{split}.json"))
        for row in read.shard_rows(out, split):
            for region in row["regions"]:
                entry = coco.anns[region["region_id"]]
                if region["segmentation"] is None:
                    assert entry["segmentation"] == []
                    given_boxes += 1
                else:
                    assert np.array_equal(coco.annToMask(entry), rle.decode(region["segmentation"]))
                    masks += 1
    assert masks > 100
    assert given_boxes > 10


@pytest.mark.parametrize("split", SPLITS)
def test_fiftyone(out: Path, made: Any, split: str) -> None:
    folder = made("fiftyone") / split
    assert read.of_coco(folder / "labels.json", folder / "data", 1) == read.truth(out, split, "category")
    own = {"id", "label", "attributes", "tags", "bounding_box", "mask", "mask_path", "confidence", "index", "instance"}
    coco = {"id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "score"}
    for entry in json.loads((folder / "labels.json").read_text())["annotations"]:
        assert not (entry.keys() - coco) & own  # its importer makes attributes of the rest, and fails on these


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["tao", "odvg-mmdet", "odvg-open-groundingdino"])
def test_odvg(out: Path, made: Any, name: str, level: str) -> None:
    folder = made(name, level)
    names = json.loads((folder / "label_map.json").read_text())
    assert sorted(map(int, names)) == list(range(len(names)))
    for split in SPLITS:
        expected = read.plain(read.truth(out, split, level))
        assert read.of_coco(folder / f"{split}.json", folder / "images", 0) == expected
        entries = read.lines(folder / f"{split}.jsonl")
        assert all(e.get("file_name", e["filename"]) == e["filename"] and ("file_name" in e) == (name == "tao")
                   for e in entries)  # fmt: skip
        assert {e["filename"]: read.detections(e, names) for e in entries} == expected
        assert {e["filename"]: read.groundings(e, name == "odvg-mmdet") for e in entries} == read.truth(
            out, split, "phrase"
        )


def test_open_groundingdino_lists_its_files(made: Any) -> None:
    folder = made("odvg-open-groundingdino")
    listed = json.loads((folder / "datasets.json").read_text())
    for entry in (*listed["train"], *listed["val"]):
        assert all((folder / entry[key]).exists() for key in ("root", "anno"))
    assert [e["dataset_mode"] for e in (*listed["train"], *listed["val"])] == ["odvg", "coco"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", SPLITS)
def test_glip(out: Path, made: Any, split: str, level: str) -> None:
    folder = made("glip", level)
    path = folder / "annotations" / f"{split}.json"
    assert read.of_coco(path, folder / "images", 1) == read.plain(read.truth(out, split, level))
    document = json.loads(path.read_text())
    cut = [re.sub(r"\(.*\)", "", c["name"]).replace("_", " ") for c in document["categories"]]  # as its clean_name
    assert len(set(cut)) == len(cut)
    captions, named = {i["id"]: i for i in document["images"]}, defaultdict(list)
    for entry in document["annotations"]:
        ((start, end),) = entry["tokens_positive"]
        image = captions[entry["image_id"]]
        named[image["file_name"]].append((image["caption"][start:end], *entry["bbox"]))
        assert "segmentation" not in entry
    assert {name: sorted(found) for name, found in named.items()} == read.truth(out, split, "phrase")


def test_glip_configuration(made: Any) -> None:
    folder = made("glip")
    data = yaml.safe_load((folder / "odinw.yaml").read_text())
    categories = json.loads((folder / "annotations" / "train.json").read_text())["categories"]
    assert json.loads(data["DATASETS"]["OVERRIDE_CATEGORY"]) == categories
    assert {head["NUM_CLASSES"] for head in data["MODEL"].values()} == {len(categories) + 1}
    for registered in data["DATASETS"]["REGISTER"].values():
        assert all((folder / registered[key]).exists() for key in ("ann_file", "img_dir"))


@pytest.mark.parametrize("level", LEVELS)
def test_lvis(out: Path, made: Any, level: str) -> None:
    lvis = pytest.importorskip("lvis", reason="lvis needs OpenCV, which needs libGL", exc_type=ImportError)
    folder = made("lvis", level)
    own = "" if level == "category" else ".labels"
    unknown = 0
    for split in SPLITS:
        api = lvis.LVIS(str(folder / "annotations" / f"{split}.json"))
        found = {
            i["file_name"]: sorted((api.cats[a["category_id"]]["name"], *a["bbox"]) for a in api.img_ann_map[n])
            for n, i in api.imgs.items()
        }
        assert found == read.truth(out, split, level)
        coco = COCO(str(out / "dataset" / "annotations" / f"{split}{own}.json"))
        for n, image in api.imgs.items():
            for key in ("neg_category_ids", "not_exhaustive_category_ids"):
                assert [api.cats[c]["name"] for c in image[key]] == [coco.cats[c]["name"] for c in coco.imgs[n][key]]
            unknown += len(image["not_exhaustive_category_ids"])
    assert unknown


def test_lvis_judges_only_what_is_known(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "float", float, raising=False)  # its evaluation is older than NumPy 1.24
    lvis = pytest.importorskip("lvis", reason="lvis needs OpenCV, which needs libGL", exc_type=ImportError)
    api = lvis.LVIS(str(made("lvis", "label") / "annotations" / "train.json"))
    right = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.5} for a in api.anns.values()]
    seen = {a["category_id"] for a in api.anns.values()}
    image = next(i for i in api.imgs.values() if seen & set(i["neg_category_ids"]))
    shown = {a["category_id"] for a in api.img_ann_map[image["id"]]}
    absent = next(c for c in sorted(seen) if c in image["neg_category_ids"])
    unknown = next(c for c in sorted(seen) if c not in {*shown, *image["neg_category_ids"]})

    def judged(more: list[int]) -> float:
        wrong = [{"image_id": image["id"], "category_id": c, "bbox": [1, 1, 9, 9], "score": 0.9} for c in more]
        judge = lvis.LVISEval(api, [*right, *wrong], "bbox")
        judge.run()
        return float(judge.results["AP"])

    assert judged([]) == judged([unknown]) == pytest.approx(1)
    assert judged([absent]) < 0.999


def test_lvis_frequencies(out: Path, made: Any) -> None:
    document = json.loads((made("lvis", "label") / "annotations" / "val.json").read_text())
    rows = read.shard_rows(out, "train")
    for entry in document["categories"]:
        found = [sum(r["label"] == entry["name"] for r in row["regions"]) for row in rows]
        images = sum(n > 0 for n in found)
        assert (entry["image_count"], entry["instance_count"]) == (images, sum(found))
        assert entry["frequency"] == ("r" if images <= 10 else "c" if images <= 100 else "f")
    assert {entry["frequency"] for entry in document["categories"]} >= {"r", "c"}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", SPLITS)
def test_yolo(out: Path, made: Any, split: str, level: str) -> None:
    found: read.Boxes = {}
    for stem, (image, rows) in read.yolo_lines(made("yolo", level), split).items():
        width, height = image["width"], image["height"]
        boxes = []
        for place, x, y, w, h in rows:
            exact = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            assert np.abs(np.round(exact) - exact).max() < 0.01
            boxes.append((image["names"][int(place)], *map(round, exact)))
        found[stem.replace("+", "/") + ".png"] = sorted(boxes)
    assert found == read.truth(out, split, level)


@pytest.mark.parametrize("split", SPLITS)
def test_yolo_polygons(out: Path, made: Any, split: str) -> None:
    found = read.yolo_lines(made("yolo-segment"), split)
    for row in read.shard_rows(out, split):
        image, rows = found[row["file_name"].removesuffix(".png").replace("/", "+")]
        for region, (place, *numbers) in zip(row["regions"], rows, strict=True):
            points = np.reshape(numbers, (-1, 2)) * [row["width"], row["height"]]
            low, high = np.round(points.min(0)), np.round(points.max(0))
            assert [*low, *(high - low)] == region["bbox"]
            assert image["names"][int(place)] == region["category"]
            if region["segmentation"]:
                expected = rle.decode(region["segmentation"])
                assert np.array_equal(read.filled(np.round(points * 2) / 2, *expected.shape), expected)


@pytest.mark.parametrize("split", SPLITS)
def test_webdataset(out: Path, made: Any, split: str) -> None:
    tar = str(made("webdataset") / f"{split}-000000.tar")
    samples = list(webdataset.WebDataset(tar, shardshuffle=False).decode("pil"))
    rows = read.shard_rows(out, split)
    assert [sample["__key__"] + ".png" for sample in samples] == [row["file_name"] for row in rows]
    for sample, row in zip(samples, rows, strict=True):
        assert sample["png"].size == (row["width"], row["height"])
        pixels = row.pop("image")["bytes"]
        assert sample["json"] == json.loads(json.dumps(row))
        path = out / "dataset" / "images" / row["file_name"]
        assert pixels == path.read_bytes()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", SPLITS)
def test_datasets(out: Path, made: Any, split: str, level: str, tmp_path: Path) -> None:
    rows = datasets.load_dataset(str(made("datasets", level)), split=split, streaming=True, cache_dir=str(tmp_path))
    names = rows.features["objects"]["category"].feature.names
    found: read.Boxes = {}
    for row in rows:
        objects = row["objects"]
        assert row["image"].size == (row["width"], row["height"])
        source, case, axis, index = row["key"].split("/")
        found[f"{source}/{case}/{axis}-{int(index):04d}.png"] = sorted(
            (names[c], *map(int, b)) for c, b in zip(objects["category"], objects["bbox"], strict=True)
        )
    assert found == read.truth(out, split, level)


def test_the_dataset_itself_streams(out: Path, tmp_path: Path) -> None:
    rows = datasets.load_dataset(str(out / "dataset"), split="train", streaming=True, cache_dir=str(tmp_path))
    found = {r["file_name"]: sorted((x["label"], *map(int, x["bbox"])) for x in r["regions"]) for r in rows}
    assert found == read.truth(out, "train", "label")
    assert next(iter(rows))["image"].getbbox()


@pytest.mark.parametrize("split", SPLITS)
def test_llava(out: Path, made: Any, split: str) -> None:
    folder = made("llava")
    chats = json.loads((folder / f"{split}.json").read_text())
    questions = {entry["question_id"]: entry for entry in read.lines(folder / f"{split}.questions.jsonl")}
    exact: read.Boxes = {}
    for chat in chats:
        exact[chat["image"]] = sorted((r["phrase"], *read.xywh(*r["bbox"])) for r in chat["regions"])
        width, height = Image.open(folder / "images" / chat["image"]).size
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        turns = chat["conversations"]
        assert [t["from"] for t in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert [t["value"].count("<image>") for t in turns] == [1] + [0] * (len(turns) - 1)
        told = []
        for n, (question, answer) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
            asked = questions.pop(f"{chat['id']}/{n}")
            assert asked["text"].replace("<image>", "").strip() == question["value"].replace("<image>", "").strip()
            assert (asked["image"], asked["answer"]) == (chat["image"], answer["value"])
            for numbers in re.findall(r"\[([^]]*)\]", answer["value"]):
                box = np.array([float(v) for v in numbers.split(",")]) * side - [left, top, left, top]
                told.append((re.split(": ", question["value"])[-1].rstrip("."), box))
        assert len(told) == len(chat["regions"])
        for region in chat["regions"]:
            near = [np.abs(box - region["bbox"]).max() for name, box in told if name == region["phrase"]]
            assert min(near) <= 0.00051 * side
    assert exact == read.truth(out, split, "phrase")
    assert not questions


@pytest.mark.parametrize("name", FORMATS)
def test_same_bytes_again(out: Path, made: Any, name: str, tmp_path: Path) -> None:
    to = tmp_path / "again"
    for _ in range(2):  # the second replaces the first
        done = export(out, name, to=to, splits=reversed(SPLITS), level="category", images=True)
        assert read.tree(to) == read.tree(made(name))
    rows = [row for split in SPLITS for row in read.shard_rows(out, split)]
    assert (done["images"], done["regions"]) == (len(rows), sum(len(row["regions"]) for row in rows))
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_a_failed_export_leaves_the_old_one(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = tmp_path / "cvat"
    export(out, "cvat", to=to, splits=SPLITS, level="category", images=False)
    before = read.tree(to)

    def broken(job: Any, folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    monkeypatch.setitem(run.WRITERS, "cvat", broken)
    with pytest.raises(OSError, match="disk full"):
        export(out, "cvat", to=to, splits=SPLITS, level="category", images=False)
    assert read.tree(to) == before
    assert [p.name for p in tmp_path.iterdir()] == ["cvat"]


def test_nothing_else_is_replaced(out: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    for to in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UsageError, match="no export"):
            export(out, "cvat", to=to, splits=SPLITS, level="category", images=False)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_without_images_the_names_are_those_of_the_dataset(out: Path, tmp_path: Path) -> None:
    export(out, "glip", to=tmp_path / "glip", splits=["val"], level="category", images=False)
    assert not (tmp_path / "glip" / "images").exists()
    found = read.of_coco(tmp_path / "glip" / "annotations" / "val.json", out / "dataset" / "images", 1)
    assert found == read.plain(read.truth(out, "val", "category"))
    assert sorted(p.name for p in (tmp_path / "glip" / "annotations").iterdir()) == ["val.json"]
    for name in ("yolo", "yolo-segment", "webdataset", "datasets"):
        with pytest.raises(UsageError, match="--no-images"):
            export(out, name, to=tmp_path / name, splits=["val"], level="category", images=False)


def test_command(out: Path, tmp_path: Path) -> None:
    done = medglip("export", out, "--format", "cvat", "--split", "val", "--no-images", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["to"], told["splits"]) == (str(out / "exports" / "cvat"), ["val"])
    assert (out / "exports" / "cvat" / MARK).is_file()
    for code, *wrong in ((2, "--format", "tfrecord"), (2, "--format", "cvat", "--split", "dev"),
                         (2, "--format", "cvat", "--level", "organ")):  # fmt: skip
        done = medglip("export", out, *wrong)
        assert (done.returncode, done.stdout) == (code, "")
    done = medglip("export", tmp_path, "--format", "cvat")
    assert done.returncode == 1
    assert "build" in done.stderr


def test_faulty_datasets_are_told(out: Path) -> None:
    row = read.shard_rows(out, "train")[0]
    with pytest.raises(Failure, match=row["key"]):
        spans(row | {"caption": "something else"})


def test_memory_is_that_of_a_row_group(out: Path, tmp_path: Path) -> None:
    big, small = 2**20, read.shard_rows(out, "val")[:1]
    schema = pq.read_schema(next((out / "dataset" / "shards" / "val").rglob("*.parquet")))
    for path in ("stats.json", "annotations/val.json"):
        (tmp_path / "dataset" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dataset" / path).write_bytes((out / "dataset" / path).read_bytes())
    folder = tmp_path / "dataset" / "shards" / "val" / "ct"
    folder.mkdir(parents=True)
    with pq.ParquetWriter(folder / "part-00000.parquet", schema) as file:
        for n in range(100):
            pixels = {"bytes": np.random.default_rng(n).bytes(big), "path": ""}
            file.write_table(pa.Table.from_pylist([small[0] | {"image_id": n, "image": pixels}], schema))
    peak = 0
    for n, row in enumerate(open_job(tmp_path, ["val"], "category", images=True).rows("val")):
        assert row["image_id"] == n
        peak = max(peak, pa.total_allocated_bytes())
    assert n == 99
    assert peak < 60 * big


def test_every_format_is_documented() -> None:
    assert list(FORMATS) == list(WRITERS)
    text = DOCS.read_text()
    assert all(f"| `{name}` |" in text for name in FORMATS)
