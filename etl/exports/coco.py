"""COCO files of an export: the ids of their classes start where their reader wants them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from etl.exports.job import Job, Row, box
from etl.release.coco import KINDS, Lines
from etl.store import append

IMAGE = ("file_name", "width", "height", "source", "modality", "axis", "slice_index", "case", "subject", "key")
REGION = ("label", "raw_label", "phrase", "key")
Add = Callable[[Row, list[Row]], None]


@contextmanager
def writer(path: Path, rest: Row) -> Iterator[Add]:
    """A COCO file that grows by an image and its annotations at a time, and ends with the keys of `rest`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [Lines(path.with_name(f".{path.name}.{kind}")) for kind in KINDS]

    def add(image: Row, annotations: list[Row]) -> None:
        for file, entries in zip(files, ([image], annotations), strict=True):
            file.add(lines(entries))

    yield add
    with path.open("wb") as target:
        target.write(b"{")
        for kind, file in zip(KINDS, files, strict=True):
            target.write(f'"{kind}":[\n'.encode())
            if file.file is not None:
                file.close()
                append(file.path, target)
                file.path.unlink()
            target.write(b"\n],")
        target.write(orjson.dumps(rest)[1:] + b"\n")


def lines(entries: list[Row]) -> pa.Array:
    """Each entry as JSON."""
    return pa.array([orjson.dumps(entry).decode() for entry in entries], pa.string())


def image(job: Job, row: Row) -> Row:
    """The COCO entry of an image."""
    terms = job.licenses[row["license"], row["redistribution"]]
    return {"id": row["image_id"], "license": terms["id"]} | {name: row[name] for name in IMAGE}


def annotations(job: Job, row: Row, *, first: int, masks: bool = True) -> list[Row]:
    """The COCO entries of an image's regions; class ids start at `first`; given boxes have an empty segmentation."""
    return [
        {"id": region["region_id"], "image_id": row["image_id"], "category_id": first + job.place(region),
         "bbox": box(region), "area": region["area"], "iscrowd": 0}
        | ({"segmentation": region["segmentation"] or []} if masks else {})
        | {name: region[name] for name in REGION}
        for region in row["regions"]
    ]  # fmt: skip


def rest(job: Job, split: str, *, first: int, plain: bool = False) -> dict[str, Any]:
    """Classes, licences and a title; `plain` names have no brackets."""
    classes = [
        {"id": first + place, "name": c.plain if plain else c.name, "supercategory": c.parent}
        for place, c in enumerate(job.classes)
    ]
    info = {"description": f"medglip-etl dataset, {split} split", "version": "1"}
    return {"categories": classes, "licenses": list(job.licenses.values()), "info": info}
