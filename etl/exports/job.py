"""What an export reads: the Parquet shards of a built dataset, row group by row group, and the names of its classes."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from etl.errors import Failure, UsageError
from etl.progress import tracked
from etl.release.grounding import BETWEEN
from etl.release.records import SPLITS
from etl.store import opened

BATCH = 16  # images in memory at a time, of each modality
TAIL = 2**20  # bytes; more than the categories, licences and info that end a COCO file
ID = {"category": "category_id", "label": "label_id"}
SUFFIX = {"category": ".json", "label": ".labels.json"}
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Class:
    """A category or label: its id in the dataset, its name, and what it belongs to."""

    id: int
    name: str
    parent: str

    @property
    def plain(self) -> str:
        """The name without brackets; GLIP and MMDetection cut off what stands in them: all of a region would be one."""
        return self.name.replace("(", "").replace(")", "")


@dataclass(frozen=True, slots=True)
class Job:
    """A built dataset, and what of it to export at which level; `counts` are the images and regions read so far.

    `places` is the place of each class id in `classes`, `licenses` the COCO licence of each (name, redistribution).
    """

    dataset: Path
    level: str
    splits: tuple[str, ...]
    images: bool
    classes: tuple[Class, ...]
    places: dict[int, int]
    licenses: dict[tuple[str, str], Row]
    sizes: dict[str, int]
    counts: Counter[str] = field(default_factory=Counter)

    def place(self, region: Row) -> int:
        """The place of a region's class in `classes`, from 0."""
        return self.places[region[ID[self.level]]]

    def parts(self, split: str) -> list[list[Path]]:
        """The shards of a split, in order, of each modality."""
        found = sorted((self.dataset / "shards" / split).rglob("*.parquet"))
        return [list(parts) for _, parts in groupby(found, key=lambda part: part.parent)]

    def rows(self, split: str) -> Iterator[Row]:
        """The images of a split in order of their id; `image` is there only with `images`."""
        streams = [self.stream(parts) for parts in self.parts(split)]
        merged = heapq.merge(*streams, key=lambda row: row["image_id"])
        for row in tracked(merged, self.sizes[split], f"export: {split}"):
            self.counts["images"] += 1
            self.counts["regions"] += len(row["regions"])
            yield row

    def stream(self, parts: Iterable[Path]) -> Iterator[Row]:
        """The rows of the shards of a modality."""
        for batch in batches(parts, without=() if self.images else ("image",)):
            yield from batch.to_pylist()

    def save_image(self, row: Row, root: Path, name: str | None = None) -> None:
        """Writes the PNG of a row at its file name (or this one) below a folder, if images are wanted."""
        if self.images:
            path = root / (name or row["file_name"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row["image"]["bytes"])

    def knowledge(self, split: str) -> Iterator[Row]:
        """The COCO entry of each image in order of id: `neg_category_ids`, `not_exhaustive_category_ids`, ….

        Read line by line: the COCO files of a dataset hold one image a line.
        """
        with coco_file(self.dataset, split, self.level).open("rb") as file:
            next(file)
            for line in file:
                if not line.startswith(b"{"):
                    return
                yield orjson.loads(line.rstrip(b",\n"))


def open_job(out: Path, splits: Iterable[str], level: str, *, images: bool) -> Job:
    """The built dataset at `out`, to be exported.

    Raises:
        Failure: there is none, or none of its images is in these splits.
        UsageError: no such level or split.
    """
    wanted, dataset = set(splits), out / "dataset"
    if level not in ID:
        raise UsageError(f"--level {level}: it is category or label")
    if not wanted <= set(SPLITS):
        raise UsageError(f"--split {min(wanted - set(SPLITS))}: it is train, val or test")
    chosen = tuple(split for split in SPLITS if split in wanted)
    stats = dataset / "stats.json"
    if not stats.is_file():
        raise Failure(f"{stats} is not there; run `medglip-etl build` first")
    by_split = orjson.loads(stats.read_bytes())["by"]["split"]
    sizes = {split: by_split.get(split, {}).get("images", 0) for split in chosen}
    if not any(sizes.values()):
        raise Failure(f"{dataset} has no image in {', '.join(chosen)}")
    end = ending(coco_file(dataset, chosen[0], level))
    classes = tuple(Class(c["id"], c["name"], c["supercategory"]) for c in end["categories"])
    licenses = {(entry["name"], entry["redistribution"]): entry for entry in end["licenses"]}
    places = {c.id: place for place, c in enumerate(classes)}
    return Job(dataset, level, chosen, images, classes, places, licenses, sizes)


def coco_file(dataset: Path, split: str, level: str) -> Path:
    """The dataset's own COCO file of a split and level."""
    return dataset / "annotations" / f"{split}{SUFFIX[level]}"


def ending(path: Path) -> Row:
    """What ends a COCO file of a dataset: `categories`, `licenses`, `info`.

    Raises:
        Failure: the file is not there or does not end so.
    """
    if not path.is_file():
        raise Failure(f"{path} is not there; run `medglip-etl stage export` first")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        _, found, text = file.read().rpartition(b"\n],")
    if not found:
        raise Failure(f"{path} is not as this version writes it; run `medglip-etl stage export` again")
    last: Row = orjson.loads(b"{" + text)
    return last


def spans(row: Row) -> dict[str, list[int]]:
    """Where each phrase of an image stands in its caption: [start, end] in code points.

    Raises:
        Failure: the caption is not the phrases in order of label id.
    """
    phrases = [phrase for _, phrase in sorted({(r["label_id"], r["phrase"]) for r in row["regions"]})]
    if BETWEEN.join(phrases) != row["caption"]:
        raise Failure(f"{row['key']}: its caption is not made of the phrases of its regions")
    found, start = {}, 0
    for phrase in phrases:
        found[phrase] = [start, start + len(phrase)]
        start += len(phrase) + len(BETWEEN)
    return found


def box(region: Row) -> list[int]:
    """[x, y, width, height] in pixels; the boxes of a dataset are whole numbers."""
    return [int(v) for v in region["bbox"]]


def corners(region: Row) -> list[int]:
    """[x1, y1, x2, y2] in pixels; x2 and y2 are exclusive."""
    x, y, w, h = box(region)
    return [x, y, x + w, y + h]


def batches(parts: Iterable[Path], *, without: tuple[str, ...] = ()) -> Iterator[pa.RecordBatch]:
    """The rows of these shards, a few at a time.

    Row group by row group: asked for the batches of a whole file, the reader would keep all that it has read.
    """
    for part in parts:
        with pq.ParquetFile(opened(part)) as file:
            names = [name for name in file.schema_arrow.names if name not in without]
            for group in range(file.num_row_groups):
                yield from file.iter_batches(BATCH, row_groups=[group], columns=names)
