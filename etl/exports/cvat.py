"""CVAT: the archive layout of its COCO 1.0 format; class ids from 1, for 0 means no label there."""

from pathlib import Path

from etl.exports import coco
from etl.exports.job import Job
from etl.store import write_json


def write(job: Job, folder: Path) -> None:
    """`annotations/instances_<split>.json`, `images/<split>/…`, and `labels.json` for the label editor."""
    write_json(folder / "labels.json", [{"name": c.name, "attributes": []} for c in job.classes])
    for split in job.splits:
        path = folder / "annotations" / f"instances_{split}.json"
        with coco.writer(path, coco.rest(job, split, first=1)) as add:
            for row in job.rows(split):
                job.save_image(row, folder / "images" / split)
                add(coco.image(job, row), coco.annotations(job, row, first=1))
