"""The master: Parquet shards of one row an image, with the PNG in the row."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from etl.records import SPLITS, ImageRecord, NumberedImage

GROUP_ROWS = 200
GROUP_BYTES = 32 * 2**20  # pending bytes that end a row group early
SHARD_BYTES = 400 * 10**6  # a shard that reached this is closed

REGION = pa.struct(
    [
        ("region_id", pa.int64()),
        ("key", pa.string()),
        ("label_id", pa.int16()),
        ("label", pa.string()),
        ("category_id", pa.int16()),
        ("category", pa.string()),
        ("body_region", pa.string()),
        ("raw_label", pa.string()),
        ("phrase", pa.string()),
        ("bbox", pa.list_(pa.float32())),
        ("area", pa.int32()),
        ("area_fraction", pa.float32()),
        ("derived", pa.bool_()),
        ("segmentation", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
    ]
)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS: list[tuple[str, pa.DataType]] = [
    ("image_id", pa.int64()),
    ("key", pa.string()),
    ("source", pa.string()),
    ("modality", pa.string()),
    ("case", pa.string()),
    ("subject", pa.string()),
    ("split", pa.string()),
    ("axis", pa.string()),
    ("slice_index", pa.int32()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("spacing", pa.list_(pa.float32())),
    ("file_name", pa.string()),
    ("image", IMAGE),
    ("caption", pa.string()),
    ("license", pa.string()),
    ("redistribution", pa.string()),
    ("annotated_label_ids", pa.list_(pa.int16())),
    ("absent_label_ids", pa.list_(pa.int16())),
    ("sex", pa.string()),
    ("age", pa.string()),
    ("diagnosis", pa.string()),
    ("regions", pa.list_(REGION)),
]
PLAIN = ("key", "source", "modality", "case", "subject", "split", "axis", "slice_index", "width", "height")
FACTS = ("license", "redistribution", "sex", "age", "diagnosis")


def feature(kind: pa.DataType) -> Any:
    """The `datasets` feature of an Arrow type; a list as a plain JSON list, which every version reads."""
    if kind.equals(IMAGE):
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: feature(field.type) for field in kind}
    return {"dtype": str(kind), "_type": "Value"}


def schema() -> pa.Schema:
    """The shard schema with the `datasets` features in its metadata."""
    features = {name: feature(kind) for name, kind in COLUMNS}
    return pa.schema(COLUMNS, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def row(image: NumberedImage) -> dict[str, Any]:
    """One shard row, in the columns of the schema."""
    record = image.record
    values: dict[str, Any] = {name: getattr(record, name) for name in PLAIN + FACTS}
    values |= {
        "image_id": image.image_id,
        "spacing": list(record.spacing) if record.spacing else None,
        "file_name": image.file_name,
        "image": {"bytes": record.image, "path": image.file_name},
        "caption": image.caption,
        "annotated_label_ids": sorted(record.annotated_label_ids),
        "absent_label_ids": sorted(set(record.neg_label_ids) & set(record.annotated_label_ids)),
        "regions": region_rows(image),
    }
    return values


def region_rows(image: NumberedImage) -> list[dict[str, Any]]:
    """The regions of one row, in key order."""
    names = [field.name for field in REGION if field.name != "region_id"]
    return [
        {"region_id": image.first_region_id + n} | {name: getattr(region, name) for name in names}
        for n, region in enumerate(image.record.regions)
    ]


def weight(record: ImageRecord) -> int:
    """The bytes that dominate a row: the PNG and the run lengths."""
    return len(record.image) + sum(len(r.segmentation["counts"]) if r.segmentation else 64 for r in record.regions)


class Part:
    """The shards of one split and modality: `part-00000.parquet`, `part-00001.parquet`, …, one open at a time."""

    def __init__(self, folder: Path, columns: pa.Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.columns, self.count = folder, columns, 0
        self.rows: list[dict[str, Any]] = []
        self.pending = 0
        self.sink: Any = None
        self.writer: Any = None

    def add(self, image: NumberedImage) -> None:
        """Takes one row; writes a row group when enough are pending."""
        self.rows.append(row(image))
        self.pending += weight(image.record)
        if len(self.rows) >= GROUP_ROWS or self.pending >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending as one row group (an empty table opens the file all the same)."""
        if self.writer is None:
            self.open()
        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.columns))
            self.rows, self.pending = [], 0
        if self.sink.tell() >= SHARD_BYTES:
            self.close_file()

    def open(self) -> None:
        """Opens the next shard."""
        self.sink = (self.folder / f"part-{self.count:05d}.parquet").open("wb")
        text = [name for name, kind in COLUMNS if pa.types.is_string(kind) and name not in ("key", "file_name")]
        # A dictionary or min/max of PNG bytes would only cost memory.
        self.writer = pq.ParquetWriter(
            self.sink, self.columns, compression="zstd", use_dictionary=text, write_statistics=[*text, "image_id"]
        )
        self.count += 1

    def close_file(self) -> None:
        """Closes the open shard."""
        if self.writer is not None:
            self.writer.close()
            self.sink.close()
        self.writer = self.sink = None

    def close(self) -> None:
        """Writes the rest; a part without rows becomes one empty shard."""
        if self.rows or self.count == 0:
            self.flush()
        self.close_file()


class ShardWriter:
    """Sends each image to its split and modality below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.columns = folder, schema()
        self.parts: dict[tuple[str, str], Part] = {}

    def add(self, image: NumberedImage) -> None:
        """Takes one image."""
        self.part(image.record.split, image.record.modality).add(image)

    def part(self, split: str, modality: str) -> Part:
        """The shards of one split and modality."""
        if (split, modality) not in self.parts:
            self.parts[split, modality] = Part(self.folder / split / modality, self.columns)
        return self.parts[split, modality]

    def close(self) -> None:
        """Closes all; each modality of the dataset has a shard in each split, also an empty one."""
        for modality in sorted({modality for _, modality in self.parts}):
            for split in SPLITS:
                self.part(split, modality)
        for part in self.parts.values():
            part.close()
