"""YOLO as Ultralytics reads it: a text file an image, numbers relative to its width and height, classes from 0."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pycocotools import mask as rle

from etl.errors import UsageError
from etl.exports.job import Job, Row, box, corners
from etl.exports.outline import outline
from etl.store import write_bytes

Numbers = Callable[[Row, Row], list[float]]


def write(job: Job, folder: Path, *, numbers: Numbers) -> None:
    """`data.yaml`, `images/<split>/…` and `labels/<split>/…`.

    Raises:
        UsageError: without images; readers find the labels from the place of their image.
    """
    if not job.images:
        raise UsageError("--no-images: a YOLO folder is nothing without its images")
    for split in job.splits:
        for row in job.rows(split):
            name = file_name(row)
            job.save_image(row, folder / "images" / split, f"{name}.png")
            path = folder / "labels" / split / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(line(job, row, region, numbers) for region in row["regions"]))
    paths = {split: f"images/{split}" for split in job.splits if job.sizes[split]}
    data = paths | {"names": {place: c.name for place, c in enumerate(job.classes)}}
    write_bytes(folder / "data.yaml", yaml(data).encode())


def file_name(row: Row) -> str:
    """The image's name in `images/<split>`, without a suffix; some readers look into no folder further.

    No part of a file name of a dataset has a `+`, so two images never have one name.
    """
    return str(row["file_name"]).removesuffix(".png").replace("/", "+")


def line(job: Job, row: Row, region: Row, numbers: Numbers) -> str:
    """A line: the class and its numbers."""
    return " ".join([str(job.place(region)), *(f"{n:.6f}" for n in numbers(row, region))]) + "\n"


def center_box(row: Row, region: Row) -> list[float]:
    """Centre x and y, width and height, relative to the image."""
    x, y, w, h = box(region)
    width, height = row["width"], row["height"]
    return [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]


def polygon(row: Row, region: Row) -> list[float]:
    """The outline of the mask, x and y by turns; a given box is its four corners.

    A reader that finds one polygon in a file takes every line for one, so that a box may not stay four numbers.
    """
    if region["segmentation"] is None:
        x1, y1, x2, y2 = corners(region)
        points = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
    else:
        points = outline(rle.decode(region["segmentation"])).tolist()
    return [value for x, y in points for value in (x / row["width"], y / row["height"])]


def yaml(data: Row) -> str:
    """`data.yaml`; without `path` the reader takes the folder of the file. Each name is JSON, which is YAML too."""
    lines = [f"{key}: {value}" for key, value in data.items() if key != "names"]
    names = [f"  {place}: {json.dumps(name)}" for place, name in data["names"].items()]
    return "\n".join([*lines, "names:", *names, ""])


write_boxes = partial(write, numbers=center_box)
write_polygons = partial(write, numbers=polygon)
