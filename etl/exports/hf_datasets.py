"""Hugging Face `datasets`: Parquet in the layout of its object detection sets, `objects` with a `ClassLabel`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl.errors import UsageError
from etl.exports.job import ID, Job, batches
from etl.release.shards import COLUMNS, Part, feature

KEPT = {"image_id", "image", "width", "height", "key", "source", "modality", "caption", "license", "redistribution"}
LISTS = {
    "id": pa.list_(pa.int64()),
    "area": pa.list_(pa.int64()),
    "bbox": pa.list_(pa.list_(pa.float32())),
    "category": pa.list_(pa.int64()),
    "phrase": pa.list_(pa.string()),
}


def write(job: Job, folder: Path) -> None:
    """`data/<split>/part-images-00000.parquet`, …, and `README.md`, by which `load_dataset(folder)` finds them.

    Raises:
        UsageError: without images.
    """
    if not job.images:
        raise UsageError("--no-images: these Parquet files hold their images")
    shown = [split for split in job.splits if job.sizes[split]]
    columns = schema(job)
    for split in shown:
        part = Part(folder / "data" / split, "images", columns)
        for batch in (batch for parts in job.parts(split) for batch in batches(parts)):
            job.counts.update(images=len(batch), regions=len(batch["regions"].flatten()))
            pixels = pc.binary_length(batch["image"].field("bytes")).to_numpy()
            part.add(converted(job, batch).cast(columns), pixels)
        part.close()
    (folder / "README.md").write_text(card(job, shown), encoding="utf-8")


def schema(job: Job) -> pa.Schema:
    """The columns, with the `datasets` features in their metadata."""
    kept = [(name, kind) for name, kind in COLUMNS if name in KEPT]
    objects: dict[str, Any] = {name: feature(kind) for name, kind in LISTS.items()}
    objects["category"] = [{"names": [c.name for c in job.classes], "_type": "ClassLabel"}]
    features = {name: feature(kind) for name, kind in kept} | {"objects": objects}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([*kept, ("objects", pa.struct(list(LISTS.items())))], metadata=metadata)


def converted(job: Job, batch: pa.RecordBatch) -> pa.Table:
    """Rows of a shard in these columns."""
    regions = batch["regions"]
    ends, items = pc.subtract(regions.offsets, regions.offsets[0]), regions.flatten()
    place = np.zeros(1 + max(job.places), np.int64)
    place[list(job.places)] = list(job.places.values())
    columns = {
        "id": items.field("region_id"),
        "area": items.field("area").cast(pa.int64()),
        "bbox": items.field("bbox"),
        "category": pa.array(place[items.field(ID[job.level]).to_numpy()]),
        "phrase": items.field("phrase"),
    }
    lists = [pa.ListArray.from_arrays(ends, values).cast(LISTS[name]) for name, values in columns.items()]
    kept = [(name, batch[name]) for name, _ in COLUMNS if name in KEPT]
    objects = pa.StructArray.from_arrays(lists, names=list(LISTS))
    return pa.table(dict([*kept, ("objects", objects)]))


def card(job: Job, splits: list[str]) -> str:
    """The front matter that `load_dataset` reads, and what the columns are."""
    files = [{"split": split, "path": f"data/{split}/*.parquet"} for split in splits]
    head = {"configs": [{"config_name": "default", "data_files": files}], "task_categories": ["object-detection"]}
    lines = [f"{key}: {json.dumps(value)}" for key, value in head.items()]
    text = (
        f"Images with boxes of {len(job.classes)} classes ({job.level} level), exported by medglip-etl. `objects.bbox` "
        "is [x, y, width, height] in pixels. Each image is under the licence in its row.\n"
    )
    return "\n".join(["---", *lines, "---", "", text])
