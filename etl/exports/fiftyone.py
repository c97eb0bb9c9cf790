"""FiftyOne: for each split a folder of its `COCODetectionDataset`."""

from pathlib import Path

from etl.exports import coco
from etl.exports.job import Job, Row


def write(job: Job, folder: Path) -> None:
    """`<split>/labels.json` and `<split>/data/…`."""
    for split in job.splits:
        with coco.writer(folder / split / "labels.json", coco.rest(job, split, first=1)) as add:
            for row in job.rows(split):
                job.save_image(row, folder / split / "data")
                add(coco.image(job, row), [renamed(entry) for entry in coco.annotations(job, row, first=1)])


def renamed(entry: Row) -> Row:
    """The annotation with `label` as `fine_label`: extra keys become attributes, where `label` is the class."""
    return {"fine_label" if name == "label" else name: value for name, value in entry.items()}
