"""Strict readers of exports, after the rules of the programs that are too heavy for the suite."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import yaml
from PIL import Image
from pycocotools.coco import COCO

Row = dict[str, Any]
Boxes = dict[str, list[tuple[Any, ...]]]  # file name → (class, x, y, w, h), sorted


def shard_rows(out: Path, split: str) -> list[Row]:
    """The rows of the shards, read whole and plainly."""
    parts = sorted((out / "dataset" / "shards" / split).rglob("*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return sorted(rows, key=lambda row: int(row["image_id"]))


def truth(out: Path, split: str, name: str) -> Boxes:
    """The boxes of the shards; `name` is the field that names the class: category, label or phrase."""
    return {
        row["file_name"]: sorted((r[name], *map(int, r["bbox"])) for r in row["regions"])
        for row in shard_rows(out, split)
    }


def of_coco(path: Path, images: Path, first: int) -> Boxes:
    """The boxes of a COCO file as pycocotools gives them; class ids must be contiguous, and all images there."""
    coco = COCO(str(path))
    assert sorted(coco.cats) == list(range(first, first + len(coco.cats)))
    found: Boxes = {}
    for image in coco.loadImgs(coco.getImgIds()):
        assert Image.open(images / image["file_name"]).size == (image["width"], image["height"])
        entries = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        found[image["file_name"]] = sorted((coco.cats[a["category_id"]]["name"], *a["bbox"]) for a in entries)
    return found


def plain(boxes: Boxes) -> Boxes:
    """The boxes with class names without brackets."""
    return {k: [(re.sub("[()]", "", name), *rest) for name, *rest in found] for k, found in boxes.items()}


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def xywh(x1: int, y1: int, x2: int, y2: int) -> tuple[int, ...]:
    return x1, y1, x2 - x1, y2 - y1


def detections(entry: Row, names: Row) -> list[tuple[Any, ...]]:
    """OD mode: both readers look the label up as text and need the box inside the image."""
    for instance in entry["detection"]["instances"]:
        x1, y1, x2, y2 = instance["bbox"]
        assert 0 <= x1 < x2 <= entry["width"]
        assert 0 <= y1 < y2 <= entry["height"]
        assert instance.get("category") in (None, names[str(instance["label"])])
    return sorted((names[str(i["label"])], *xywh(*i["bbox"])) for i in entry["detection"]["instances"])


def groundings(entry: Row, spans_needed: bool) -> list[tuple[Any, ...]]:
    """VG mode: MMDetection takes the words at `tokens_positive`, in lower case; the other takes the phrase."""
    found = []
    for region in entry["grounding"]["regions"]:
        words = region["phrase"]
        if spans_needed:
            ((start, end),) = region["tokens_positive"]
            assert entry["grounding"]["caption"].lower().strip()[start:end] == words.lower()
            words = entry["grounding"]["caption"][start:end]
        else:
            assert region.keys() == {"bbox", "phrase"}
        found.append((words, *xywh(*region["bbox"])))
    return sorted(found)


def yolo_lines(folder: Path, split: str) -> dict[str, tuple[Row, list[list[float]]]]:
    """Image stem → its size and lines, as Ultralytics finds and checks them."""
    data = yaml.safe_load((folder / "data.yaml").read_text())
    assert "path" not in data
    assert sorted(data["names"]) == list(range(len(data["names"])))
    found = {}
    for image in sorted((folder / data[split]).rglob("*.*")):
        labels = Path("/labels/".join(str(image).rsplit("/images/", 1))).with_suffix(".txt")
        rows = [[float(v) for v in line.split()] for line in labels.read_text().splitlines()]
        assert all(0 <= v <= 1 for row in rows for v in row[1:])
        width, height = Image.open(image).size
        found[image.stem] = ({"width": width, "height": height, "names": data["names"]}, rows)
    return found


def filled(points: npt.NDArray[np.float64], rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """The pixels whose centre is inside a polygon, by the even-odd rule."""
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    inside = np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
