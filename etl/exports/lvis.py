"""LVIS: COCO that says of each image which classes are absent and which are not shown in full."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from etl.errors import Failure
from etl.exports import coco
from etl.exports.job import ID, Job, Row
from etl.store import opened

KNOWN = ("neg_category_ids", "not_exhaustive_category_ids")
RARE, COMMON = 10, 100  # images of the training split; Gupta et al., LVIS, CVPR 2019


def write(job: Job, folder: Path) -> None:
    """`annotations/<split>.json` and `images/…`."""
    frequencies = classes(job)
    for split in job.splits:
        known = job.knowledge(split)
        rest = coco.rest(job, split, first=1) | {"categories": frequencies}
        with coco.writer(folder / "annotations" / f"{split}.json", rest) as add:
            for row in job.rows(split):
                job.save_image(row, folder / "images")
                add(coco.image(job, row) | negatives(job, row, next(known, {})), coco.annotations(job, row, first=1))


def negatives(job: Job, row: Row, known: Row) -> Row:
    """What the dataset's COCO file says of an image, in the ids of the export."""
    if known.get("id") != row["image_id"]:
        raise Failure(f"{row['key']}: shards and COCO files differ; run `medglip-etl stage export` again")
    return {name: [1 + job.places[n] for n in known[name]] for name in KNOWN}


def classes(job: Job) -> list[Row]:
    """The classes with their number of images and instances in the training split, and `r`, `c` or `f` by the former.

    Classes without an image there are rare.
    """
    images, instances = Counter[int](), Counter[int]()
    column = f"regions.list.element.{ID[job.level]}"
    for part in (part for parts in job.parts("train") for part in parts):
        with pq.ParquetFile(opened(part)) as file:
            for batch in file.iter_batches(columns=[column]):
                for regions in batch["regions"].to_pylist():
                    found = [region[ID[job.level]] for region in regions]
                    instances.update(found)
                    images.update(set(found))
    return [
        {"id": 1 + place, "name": c.name, "supercategory": c.parent, "synonyms": [c.name],
         "image_count": images[c.id], "instance_count": instances[c.id], "frequency": frequency(images[c.id])}
        for place, c in enumerate(job.classes)
    ]  # fmt: skip


def frequency(images: int) -> str:
    """Rare, common or frequent."""
    return "r" if images <= RARE else "c" if images <= COMMON else "f"
