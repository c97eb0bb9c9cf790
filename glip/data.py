"""Datasets on disk as numbered samples: the project's Parquet shards, or COCO JSON with PNG files."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from etl.errors import Failure
from glip.augment import Region

CACHED_GROUPS = 12
"""Row groups kept decoded; a shuffling window reads fewer at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of an image without reading it; `block` numbers the row group it is stored in."""

    modality: str
    subject: str
    width: int
    height: int
    block: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its regions."""

    key: str
    modality: str
    axis: str
    image: NDArray[np.uint8]
    """(rows, columns[, 3])."""
    regions: list[Region]
    absent: list[str]
    """Labels that the source annotated and that are nowhere in the image."""
    image_id: int
    """The dataset's own number of the image."""


class Source(Protocol):
    """A dataset: its rows, and a sample for each of their numbers."""

    rows: list[Row]
    labels: tuple[str, ...]

    def read(self, number: int) -> Sample:
        """The sample of a row."""


def open_dataset(path: Path, split: str, *, labels: tuple[str, ...]) -> Source:
    """The dataset of a split below `path`: an output folder, its `dataset`, or a folder of COCO JSON.

    `labels` names the ontology's labels by id − 1. Failure says what was looked for.
    """
    for folder in (path / "dataset", path):
        if (folder / "shards" / split).is_dir():
            return ShardSource(folder / "shards" / split, labels)
        if (folder / "annotations" / f"{split}.labels.json").is_file():
            return CocoSource(folder / "annotations" / f"{split}.labels.json", folder / "images")
    raise Failure(f"{path}: neither shards/{split} nor annotations/{split}.labels.json; run `medglip-etl build` first")


class ShardSource:
    """Parquet shards, memory-mapped; row groups are decoded on demand, and a few are kept.

    Safe to read from several threads.
    """

    COLUMNS = ("image_id", "key", "modality", "axis", "image", "annotated_label_ids", "absent_label_ids", "regions")

    def __init__(self, folder: Path, labels: tuple[str, ...]) -> None:
        import pyarrow.parquet as pq

        self.labels, self.rows = labels, list[Row]()
        self._blocks: list[tuple[Path, int]] = []
        self._place: list[int] = []
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        for path in sorted(folder.glob("*/*.parquet")):
            file = pq.ParquetFile(path, memory_map=True)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, ["modality", "subject", "width", "height"])
                for place, (m, s, w, h) in enumerate(zip(*(c.to_pylist() for c in table.columns), strict=True)):
                    self.rows.append(Row(m, s, w, h, len(self._blocks)))
                    self._place.append(place)
                self._blocks.append((path, group))
        if not self.rows:
            raise Failure(f"{folder}: no image in any shard")

    def _block(self, block: int) -> Any:
        import pyarrow.parquet as pq

        with self._lock:
            if block not in self._cache:
                path, group = self._blocks[block]
                file = pq.ParquetFile(path, memory_map=True)
                columns = [c for c in self.COLUMNS if c in file.schema_arrow.names]
                self._cache[block] = file.read_row_group(group, columns)
                while len(self._cache) > CACHED_GROUPS:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(block)
            return self._cache[block]

    def read(self, number: int) -> Sample:
        """The sample of a row, decoded; Failure names the image whose PNG is damaged."""
        table = self._block(self.rows[number].block)
        row = table.slice(self._place[number], 1).to_pylist()[0]
        regions = [
            Region(r["label"], tuple(r["bbox"]), _mask(r["segmentation"])) for r in row["regions"]
        ]
        return Sample(row["key"], row["modality"], row["axis"], _decoded(row["image"]["bytes"], row["key"]), regions,
                      self._absent(row), row["image_id"])  # fmt: skip

    def _absent(self, row: dict[str, Any]) -> list[str]:
        ids = row.get("absent_label_ids")
        if ids is None:  # shards of an older build: annotated and without a region here
            present = {r["label_id"] for r in row["regions"]}
            ids = [i for i in row["annotated_label_ids"] if i not in present]
        return [self.labels[i - 1] for i in ids]


class CocoSource:
    """COCO JSON as the project exports it (labels as categories), with the PNG files beside it."""

    def __init__(self, annotations: Path, images: Path) -> None:
        content = json.loads(annotations.read_text())
        self.names = {c["id"]: c["name"] for c in content["categories"]}
        self.labels = tuple(self.names.values())
        self.folder, self.images = images, content["images"]
        self.rows = [
            Row(i["modality"], i["subject"], i["width"], i["height"], n // 200) for n, i in enumerate(self.images)
        ]
        self._regions: dict[int, list[dict[str, Any]]] = {}
        for a in content["annotations"]:
            self._regions.setdefault(a["image_id"], []).append(a)
        if not self.rows:
            raise Failure(f"{annotations}: no image")

    def read(self, number: int) -> Sample:
        """The sample of a row; Failure names a file that is missing or damaged."""
        image = self.images[number]
        path = self.folder / image["file_name"]
        if not path.is_file():
            raise Failure(f"{path}: the picture of an annotated image is not there; build with --png")
        regions = [
            Region(self.names[a["category_id"]], tuple(a["bbox"]), _mask(a.get("segmentation") or None))
            for a in self._regions.get(image["id"], [])
        ]
        absent = [self.names[i] for i in image["neg_category_ids"]]
        return Sample(image["key"], image["modality"], image["axis"], _decoded(path.read_bytes(), image["key"]),
                      regions, absent, image["id"])  # fmt: skip


def _mask(segmentation: dict[str, Any] | None) -> NDArray[np.uint8] | None:
    if segmentation is None:
        return None
    from pycocotools import mask

    out: NDArray[np.uint8] = mask.decode(segmentation)
    return out


def _decoded(data: bytes, key: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    except (OSError, ValueError) as error:
        raise Failure(f"{key}: its picture cannot be decoded: {error}") from error
