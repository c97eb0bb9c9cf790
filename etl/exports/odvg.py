"""ODVG, one line an image with its boxes (`detection`) and its caption (`grounding`), in the dialects of its readers.

MMDetection needs `tokens_positive` in each region and a label number; Open-GroundingDino builds the caption from the
phrases itself and shows the class's name; TAO reads the same lines, but calls the image `file_name`. All number classes
from 0, and evaluate on a COCO file, which is beside.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import orjson

from etl.exports import coco
from etl.exports.job import Job, Row, corners, spans
from etl.store import write_json

Line = Callable[[Job, Row], Row]


def write(job: Job, folder: Path, *, line: Line) -> None:
    """`<split>.jsonl`, `<split>.json` (COCO, ids from 0), `label_map.json` and `images/…`."""
    write_json(folder / "label_map.json", {str(place): c.plain for place, c in enumerate(job.classes)})
    for split in job.splits:
        rest = coco.rest(job, split, first=0, plain=True)
        with coco.writer(folder / f"{split}.json", rest) as add, (folder / f"{split}.jsonl").open("wb") as file:
            for row in job.rows(split):
                job.save_image(row, folder / "images")
                add(coco.image(job, row), coco.annotations(job, row, first=0))
                file.write(orjson.dumps(line(job, row), option=orjson.OPT_APPEND_NEWLINE))


def mmdet_line(job: Job, row: Row) -> Row:
    """A line of `mmdet.datasets.ODVGDataset`: OD mode with a label map, VG mode without."""
    place = spans(row)
    instances = [{"bbox": corners(r), "label": job.place(r)} for r in row["regions"]]
    regions = [
        {"bbox": corners(r), "phrase": r["phrase"], "tokens_positive": [place[r["phrase"]]]} for r in row["regions"]
    ]
    return entry(row, instances, regions)


def open_groundingdino_line(job: Job, row: Row) -> Row:
    """A line as in Open-GroundingDino's `data_format.md`."""
    instances = [
        {"bbox": corners(r), "label": job.place(r), "category": job.classes[job.place(r)].plain} for r in row["regions"]
    ]
    return entry(row, instances, [{"bbox": corners(r), "phrase": r["phrase"]} for r in row["regions"]])


def tao_line(job: Job, row: Row) -> Row:
    """A line of TAO's `ODVGDataset` (`cv/grounding_dino/dataloader/odvg.py`)."""
    return open_groundingdino_line(job, row) | {"file_name": row["file_name"]}


def entry(row: Row, instances: list[Row], regions: list[Row]) -> Row:
    """A line."""
    return {
        "filename": row["file_name"], "height": row["height"], "width": row["width"],
        "detection": {"instances": instances},
        "grounding": {"caption": row["caption"], "regions": regions},
    }  # fmt: skip


def write_open_groundingdino(job: Job, folder: Path) -> None:
    """ODVG with `datasets.json`, its list of data, which holds for a run in this folder."""
    write(job, folder, line=open_groundingdino_line)
    train = {"root": "images", "anno": "train.jsonl", "label_map": "label_map.json", "dataset_mode": "odvg"}
    val = {"root": "images", "anno": "val.json", "label_map": None, "dataset_mode": "coco"}
    lists = {"train": [train] * ("train" in job.splits), "val": [val] * ("val" in job.splits)}
    write_json(folder / "datasets.json", lists)


write_mmdet = partial(write, line=mmdet_line)
write_tao = partial(write, line=tao_line)
