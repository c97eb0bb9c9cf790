"""Drawn marks as lists of objects: boxes, polygons and run lengths in JSON, XML, CSV and text files."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from etl.demo.shapes import Mask
from etl.errors import UsageError
from etl.manifests.manifest import Rule
from etl.miniature.masks import Drawn

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of a list: its name there, its size (rows, columns), what is drawn in it."""

    name: str
    size: tuple[int, int]
    drawn: Drawn

    def objects(self) -> Iterator[tuple[str, Mask, Box]]:
        """(key, mask of rows × columns, box) of each object."""
        for mark, blocks in self.drawn:
            for block in blocks:
                plane = block[:, :, 0]
                rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
                x, y = int(columns[0]), int(rows[0])
                yield mark.key, plane, (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


def write(path: Path, rule: Rule, entries: Sequence[Entry]) -> None:
    """Write the file of these images; UsageError for a kind that is no such list, or has one file an image."""
    writers = {"coco": _coco, "voc": _voc, "yolo": _yolo, "labelme": _labelme, "csv_boxes": _boxes,
               "rle_csv": _runs, "json_polygons": _polygons}  # fmt: skip
    if rule.kind not in writers:
        raise UsageError(f"annotations of kind {rule.kind} cannot be drawn")
    if rule.kind in ("voc", "yolo", "labelme") and len(entries) > 1:
        names = f"{entries[0].name} and {entries[1].name}"
        raise UsageError(f"'{rule.mask}' is one file for {names}; kind {rule.kind} has a file for each image")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(writers[rule.kind](rule, entries), encoding="utf-8")


def _corners(box: Box) -> list[int]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def _coco(rule: Rule, entries: Sequence[Entry]) -> str:
    names = sorted({key for entry in entries for key, _, _ in entry.objects()})
    numbers = {name: number for number, name in enumerate(names)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, entry in enumerate(entries, 1):
        rows, columns = entry.size
        images.append({"id": number, "file_name": entry.name, "height": rows, "width": columns})
        for key, _, box in entry.objects():
            drawn = {"segmentation": [_corners(box)]} if len(annotations) % 2 else {"segmentation": []}
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": numbers[key], "bbox": list(box)}
            annotations.append({**place, **drawn, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def _voc(rule: Rule, entries: Sequence[Entry]) -> str:
    """One image: `xmin` counts from 1 and `xmax` belongs to the box."""
    root = ElementTree.Element("annotation")
    size = ElementTree.SubElement(root, "size")
    for name, value in zip(("height", "width"), entries[0].size, strict=True):
        ElementTree.SubElement(size, name).text = str(value)
    for key, _, (x, y, w, h) in entries[0].objects():
        node = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(node, "name").text = key
        box = ElementTree.SubElement(node, "bndbox")
        for name, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + w), ("ymax", y + h)):
            ElementTree.SubElement(box, name).text = str(value)
    return ElementTree.tostring(root, encoding="unicode")


def _yolo(rule: Rule, entries: Sequence[Entry]) -> str:
    rows, columns = entries[0].size
    lines = []
    for key, _, (x, y, w, h) in entries[0].objects():
        lines.append(f"{key} {(x + w / 2) / columns:.9f} {(y + h / 2) / rows:.9f} {w / columns:.9f} {h / rows:.9f}")
    return "\n".join(lines) + "\n"


def _labelme(rule: Rule, entries: Sequence[Entry]) -> str:
    rows, columns = entries[0].size
    shapes: list[dict[str, Any]] = []
    for key, _, box in entries[0].objects():
        numbers = _corners(box)
        points = list(zip(numbers[0::2], numbers[1::2], strict=True))
        shapes.append({"label": key, "points": points, "shape_type": "polygon", "group_id": None})
    return json.dumps({"shapes": shapes, "imageHeight": rows, "imageWidth": columns, "imagePath": entries[0].name})


def _polygons(rule: Rule, entries: Sequence[Entry]) -> str:
    """A list of images, each with its classes, boxes and polygons in parallel lists."""
    columns = {"image": "file_name", "label": "labels", "polygons": "polygons", **_columns(rule)}
    nodes = []
    for entry in entries:
        objects = list(entry.objects())
        corners = [_corners(box) for _, _, box in objects]
        points = [list(zip(c[0::2], c[1::2], strict=True)) for c in corners]
        nodes.append({columns["image"]: entry.name, columns["label"]: [key for key, _, _ in objects],
                      "boxes": [[c[0], c[1], c[4], c[5]] for c in corners], columns["polygons"]: points})
    return json.dumps(nodes)


def _boxes(rule: Rule, entries: Sequence[Entry]) -> str:
    columns = _columns(rule)
    extent = "width" in columns
    names = ("x", "y", "width", "height") if extent else ("xmin", "ymin", "xmax", "ymax")
    rows = []
    for entry in entries:
        for key, _, (x, y, w, h) in entry.objects():
            numbers = (x, y, w, h) if extent else (x, y, x + w, y + h)
            rows.append({"image": entry.name, "label": key, **dict(zip(names, map(str, numbers), strict=True))})
    return _csv(rows, columns)


def _runs(rule: Rule, entries: Sequence[Entry]) -> str:
    """Pairs of start (from 1, down the columns or along the rows) and length."""
    rows = []
    for entry in entries:
        for key, plane, _ in entry.objects():
            flat = np.concatenate(([0], (plane if rule.runs == "rows" else plane.T).ravel().astype(np.int8), [0]))
            starts, ends = np.flatnonzero(np.diff(flat) == 1), np.flatnonzero(np.diff(flat) == -1)
            pairs = " ".join(f"{a + 1} {b - a}" for a, b in zip(starts, ends, strict=True))
            rows.append({"image": entry.name, "label": key, "rle": pairs})
    return _csv(rows, _columns(rule))


def _columns(rule: Rule) -> dict[str, str]:
    """What the manifest calls the columns, by what they mean."""
    return {str(role): name for role, name in (rule.columns or {}).items()}


def _csv(rows: list[dict[str, str]], columns: dict[str, str]) -> str:
    sink = io.StringIO(newline="")
    roles = list(rows[0])
    writer = csv.writer(sink)
    writer.writerow([columns.get(role, role) for role in roles])
    writer.writerows([row[role] for role in roles] for row in rows)
    return sink.getvalue()
