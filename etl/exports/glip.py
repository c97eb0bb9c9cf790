"""GLIP: COCO with a caption for each image and the words that name each annotation, and an ODinW configuration."""

import json
from pathlib import Path

from etl.exports import coco
from etl.exports.job import Job, Row, spans
from etl.store import write_bytes

HEADS = ("ATSS", "DYHEAD", "FCOS", "ROI_BOX_HEAD")


def write(job: Job, folder: Path) -> None:
    """`annotations/<split>.json`, `images/…` and `odinw.yaml`.

    `CocoGrounding` (ODinW) reads boxes and categories, `ModulatedDataset` captions and `tokens_positive`. No masks:
    both would take them for polygons.
    """
    for split in job.splits:
        rest = coco.rest(job, split, first=1, plain=True)
        with coco.writer(folder / "annotations" / f"{split}.json", rest) as add:
            for row in job.rows(split):
                job.save_image(row, folder / "images")
                add(coco.image(job, row) | {"caption": row["caption"], "dataset_name": row["source"]}, named(job, row))
    write_bytes(folder / "odinw.yaml", configuration(job).encode())


def named(job: Job, row: Row) -> list[Row]:
    """The annotations, each with the span of its phrase in the caption."""
    place = spans(row)
    plain = coco.annotations(job, row, first=1, masks=False)
    return [entry | {"tokens_positive": [place[entry["phrase"]]]} for entry in plain]


def configuration(job: Job) -> str:
    """The task configuration, in the keys of `configs/odinw_13`; JSON, which is YAML too."""
    override = coco.rest(job, "", first=1, plain=True)["categories"]
    register = {s: {"ann_file": f"annotations/{s}.json", "img_dir": "images"} for s in job.splits}
    data = {
        "DATASETS": {
            "OVERRIDE_CATEGORY": json.dumps(override),
            "REGISTER": register,
            "TRAIN": "('train',)",
            "TEST": f"('{'val' if 'val' in job.splits else job.splits[0]}',)",
        },
        "MODEL": {head: {"NUM_CLASSES": 1 + len(job.classes)} for head in HEADS},
    }
    return json.dumps(data, indent=1) + "\n"
