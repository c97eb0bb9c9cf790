"""FiftyOne: for each split a folder of its `COCODetectionDataset`."""

from pathlib import Path

from etl.exports import coco
from etl.exports.job import Job


def write(job: Job, folder: Path) -> None:
    """`<split>/labels.json` and `<split>/data/…`."""
    for split in job.splits:
        with coco.writer(folder / split / "labels.json", coco.rest(job, split, first=1)) as add:
            for row in job.rows(split):
                job.save_image(row, folder / split / "data")
                add(coco.image(job, row), coco.annotations(job, row, first=1))
