"""Sources of the demo that publish boxes only: COCO and YOLO.

Boxes are drawn with corners between pixels; the region is the smallest one of whole pixels around it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from etl.demo.files import picture
from etl.demo.shapes import Box, Expected, Floats, jitter, texture
from etl.store import write_bytes

Rng = Callable[[str], np.random.Generator]


def xray_boxes(root: Path, expected: Expected, rng: Rng) -> None:
    """One COCO file: category 0 is a class, boxes overlap, one image shows nothing, one is not listed."""
    shape = (126, 150)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, case in enumerate(("c1", "c2", "c3", "c4", "c5")):
        r = rng(case)
        boxes = [] if case == "c4" else [_around(r, (42, 62), (22, 42)), _around(r, (106, 62), (22, 42))]
        lung = [(x, y, w, h) for x, y, w, h in boxes]
        heart = [_around(r, (84, 84), (24, 20))] if boxes else []
        picture(root / "images" / f"{case}.png", _shades(r, shape, [*lung, *heart]))
        if case == "c5":
            continue
        images.append({"id": 10 + number, "file_name": f"{case}.png", "height": shape[0], "width": shape[1]})
        for category, box in [(0, lung[0]), (1, lung[1]), (7, heart[0])] if boxes else []:
            annotations.append({"id": len(annotations), "image_id": 10 + number, "category_id": category,
                                "bbox": list(box), "area": box[2] * box[3], "segmentation": [], "iscrowd": 0})
        names = ("right lung", "left lung", "heart")
        expected.boxes("demo_xray_boxes", case, shape, list(zip(names, [*lung, *heart], strict=False)))
    categories = [{"id": n, "name": name} for n, name in ((0, "Lung R"), (1, "Lung L"), (7, "Heart"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_bytes(root / "annotations.json", json.dumps(content, indent=1).encode())


def fundus_boxes(root: Path, expected: Expected, rng: Rng) -> None:
    """YOLO text beside each image, as shares of its size; an empty text is an image without a finding."""
    shape = (128, 144)
    for case in ("y1", "y2", "y3"):
        r = rng(case)
        disc = _around(r, (44, 60), (14, 15))
        bleeds = [_around(r, (100, 40), (12, 10)), _around(r, (108, 48), (11, 13))]
        drawn = [("optic disc", disc), *(("retinal hemorrhage", box) for box in bleeds)] if case != "y3" else []
        picture(root / "images" / f"{case}.jpg", _shades(r, shape, [box for _, box in drawn]), quality=90)
        lines = [_yolo_line(0 if label == "optic disc" else 2, box, shape) for label, box in drawn]
        write_bytes(root / "labels" / f"{case}.txt", "".join(lines).encode())
        expected.boxes("demo_fundus_boxes", case, shape, drawn)


def _around(rng: np.random.Generator, center: tuple[int, int], half: tuple[int, int]) -> Box:
    """A box (x, y, width, height) with corners in quarters of a pixel, exact in binary and never on a pixel's edge."""
    x, y = (round(v) + 0.125 for v in jitter(rng, center, 4))
    width, height = (2 * round(v) + 0.25 for v in jitter(rng, half, 3))
    return (x - width / 2 + 0.5, y - height / 2 + 0.5, width, height)


def _yolo_line(number: int, box: Box, shape: tuple[int, int]) -> str:
    x, y, width, height = box
    values = ((x + width / 2) / shape[1], (y + height / 2) / shape[0], width / shape[1], height / shape[0])
    return " ".join([str(number), *(f"{v:.12f}" for v in values)]) + "\n"


def _shades(rng: np.random.Generator, shape: tuple[int, int], boxes: list[Box]) -> Any:
    """Grey values, darker in the ellipse of each box."""
    grey: Floats = 150.0 + 9.0 * texture(rng, shape)
    rows, columns = np.indices(shape)
    for x, y, width, height in boxes:
        inside = ((columns + 0.5 - x) / width * 2 - 1) ** 2 + ((rows + 0.5 - y) / height * 2 - 1) ** 2 <= 1
        grey[inside] -= 50
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


SOURCES: dict[str, tuple[Callable[[Path, Expected, Rng], None], dict[str, Any], dict[str, Any]]] = {
    "demo_xray_boxes": (
        xray_boxes,
        {
            "modality": "xray",
            "detail": "anteroposterior",
            "body_regions": ["chest"],
            "files": [{"image": "images/{case}.png", "mask": "annotations.json", "kind": "coco"}],
            "labels": {"Lung R": "Lung R", "Lung L": "Lung L", "Heart": "Heart"},
        },
        {"Lung R": "right lung", "Lung L": "left lung", "Heart": "heart"},
    ),
    "demo_fundus_boxes": (
        fundus_boxes,
        {
            "modality": "fundus",
            "body_regions": ["head and neck"],
            "files": [{"image": "images/{case}.jpg", "mask": "labels/{case}.txt", "kind": "yolo"}],
            "labels": {0: "disc", 2: "haemorrhage"},
        },
        {"disc": "optic disc", "haemorrhage": "retinal hemorrhage"},
    ),
}
