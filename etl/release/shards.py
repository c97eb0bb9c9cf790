"""The master: Parquet shards of one row an image, with the PNG in the row."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from etl.labels.table import LabelTable
from etl.release.records import SPLITS, Page
from etl.store import Files, link

FOLDER = "shards"
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
    ("scanner", pa.string()),
    ("contrast_phase", pa.string()),
    ("flags", pa.list_(pa.string())),
    ("regions", pa.list_(REGION)),
]


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


def rows(page: Page, labels: LabelTable) -> pa.Table:
    """The shard rows of a page, in the columns of the schema."""
    first = np.searchsorted(page.image_of, np.arange(len(page.images) + 1)).astype(np.int32)
    regions = pa.ListArray.from_arrays(pa.array(first), region_rows(page, labels))
    path = page.images["file_name"].combine_chunks()
    image = pa.StructArray.from_arrays([page.images["png"].combine_chunks(), path], fields=list(IMAGE))
    table = page.images.append_column("image", image).append_column("regions", regions)
    table = table.append_column("absent_label_ids", page.images["neg_label_ids"])
    return table.select([name for name, _ in COLUMNS])


def region_rows(page: Page, labels: LabelTable) -> pa.StructArray:
    """The regions of a page, in the fields of REGION."""
    regions = page.regions.combine_chunks()
    columns = {name: regions[name].combine_chunks() for name in regions.column_names}
    ids = columns["label_id"]
    columns |= {"label": labels.label.take(ids), "category": labels.category.take(ids),
                "body_region": labels.body_region.take(ids), "category_id": pa.array(labels.category_id).take(ids)}
    columns["bbox"] = side_by_side(*(columns[name] for name in "xywh"))
    columns["segmentation"] = segmentation(page, columns["rle"])
    return pa.StructArray.from_arrays([columns[f.name].cast(f.type) for f in REGION], fields=list(REGION))


def side_by_side(*columns: pa.Array) -> pa.ListArray:
    """A list in each row of the values of these columns."""
    flat = np.stack([column.to_numpy() for column in columns], axis=1).ravel()
    offsets = np.arange(0, len(flat) + 1, len(columns), dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def segmentation(page: Page, counts: pa.Array) -> pa.StructArray:
    """COCO run lengths with the size of their image, null for given boxes."""
    kind = REGION.field("segmentation").type
    size = page.images.select(["height", "width"]).take(page.regions["image"]).combine_chunks()
    sizes = side_by_side(*(column.combine_chunks() for column in size.columns))
    return pa.StructArray.from_arrays([sizes, counts], fields=list(kind), mask=counts.is_null())


def weights(page: Page) -> npt.NDArray[np.int64]:
    """The bytes that dominate each row: the PNG and the run lengths."""
    runs = pc.binary_length(page.regions["rle"]).fill_null(64).to_numpy()
    pixels = pc.binary_length(page.images["png"]).to_numpy()
    total: npt.NDArray[np.int64] = pixels + np.bincount(page.image_of, runs, len(pixels)).astype(np.int64)
    return total


class Part:
    """The shards of one source in one split: `part-<source>-00000.parquet`, …, one open at a time."""

    def __init__(self, folder: Path, source: str, columns: pa.Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.source, self.columns, self.count = folder, source, columns, 0
        self.pending = columns.empty_table()
        self.weight = 0
        self.sink: Any = None
        self.writer: Any = None

    def add(self, table: pa.Table, weights: npt.NDArray[np.int64]) -> None:
        """Takes rows; writes a row group whenever enough are pending."""
        start, count = 0, len(self.pending)
        for n, weight in enumerate(weights.tolist(), 1):
            count += 1
            self.weight += weight
            if count >= GROUP_ROWS or self.weight >= GROUP_BYTES:
                self.flush(table.slice(start, n - start))
                start, count = n, 0
        self.pending = pa.concat_tables([self.pending, table.slice(start)]).combine_chunks()

    def flush(self, more: pa.Table) -> None:
        """Writes what is pending and `more` as one row group."""
        if self.writer is None:
            self.open()
        group = pa.concat_tables([self.pending, more]).combine_chunks()
        self.writer.write_table(group)
        self.pending, self.weight = self.columns.empty_table(), 0
        if self.sink.tell() >= SHARD_BYTES:
            self.close_file()

    def open(self) -> None:
        """Opens the next shard."""
        self.sink = (self.folder / f"part-{self.source}-{self.count:05d}.parquet").open("wb")
        self.writer = writer(self.sink, self.columns)
        self.count += 1

    def close_file(self) -> None:
        """Closes the open shard."""
        if self.writer is not None:
            self.writer.close()
            self.sink.close()
        self.writer = self.sink = None

    def close(self) -> None:
        """Writes the rest."""
        if len(self.pending):
            self.flush(self.columns.empty_table())
        self.close_file()


def writer(sink: Any, columns: pa.Schema) -> Any:
    """A Parquet writer; a dictionary or min/max of PNG bytes would only cost memory."""
    text = [name for name, kind in COLUMNS if pa.types.is_string(kind) and name not in ("key", "file_name")]
    return pq.ParquetWriter(
        sink, columns, compression="zstd", use_dictionary=text, write_statistics=[*text, "image_id"]
    )


class ShardWriter:
    """The shards of one source: `folder/<split>/<modality>/part-<source>-00000.parquet`, …"""

    def __init__(self, folder: Path, labels: LabelTable) -> None:
        self.folder, self.labels, self.columns = folder, labels, schema()
        self.parts: dict[tuple[str, str], Part] = {}

    def add(self, split: str, page: Page) -> None:
        """Takes images of a split."""
        modality = str(page.images["modality"][0])
        if (split, modality) not in self.parts:
            self.parts[split, modality] = Part(self.folder / split / modality, page.source, self.columns)
        self.parts[split, modality].add(rows(page, self.labels).cast(self.columns), weights(page))

    def close(self) -> None:
        """Closes all."""
        for part in self.parts.values():
            part.close()


def compose(parts: Files, folder: Path) -> None:
    """Puts the shards of all sources together; each modality has a shard in each split, also an empty one."""
    there = set()
    for part, names in parts.items():
        for name in names:
            if name.startswith(f"{FOLDER}/"):
                path = PurePosixPath(name).relative_to(FOLDER)
                link(part / name, folder / path)
                there.add(path.parts[:2])
    for modality in sorted({modality for _, modality in there}):
        for split in SPLITS:
            if (split, modality) not in there:
                (folder / split / modality).mkdir(parents=True)
                with (folder / split / modality / "part-00000.parquet").open("wb") as sink:
                    writer(sink, schema()).close()
