"""What `export` is given: one record an image, with its regions, and the books of the stages before it."""

from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

SPLITS = ("train", "val", "test")


@dataclass(slots=True)
class RegionRecord:
    """One labelled area of an image; `bbox` is [x, y, width, height] in pixels, `area` in pixels."""

    key: str
    label_id: int
    label: str
    category_id: int
    category: str
    body_region: str
    raw_label: str
    phrase: str
    bbox: list[float]
    area: int
    area_fraction: float
    derived: bool
    segmentation: dict[str, Any] | None  # {"size": [height, width], "counts": str}, COCO compressed RLE


@dataclass(slots=True)
class ImageRecord:
    """One image as PNG bytes with its facts; `spacing` is (row, column) in mm."""

    key: str
    source: str
    modality: str
    case: str
    subject: str
    split: str
    axis: str
    slice_index: int
    width: int
    height: int
    spacing: tuple[float, float] | None
    image: bytes
    license: str
    redistribution: str
    annotated_label_ids: list[int]
    neg_label_ids: list[int]
    not_exhaustive_label_ids: list[int]
    sex: str | None
    age: str | None
    diagnosis: str | None
    regions: list[RegionRecord]
    scanner: str | None = None
    contrast_phase: str | None = None
    flags: list[str] = field(default_factory=list)  # names of checks, see `etl.checks`


REFUSED = pa.schema([(n, pa.string()) for n in ("reason", "key", "detail")] + [("png", pa.binary())])


@dataclass(frozen=True, slots=True)
class Refused:
    """A picture that went to quarantine, and why."""

    reason: str
    key: str
    detail: str
    png: bytes

    @staticmethod
    def table(rows: list["Refused"]) -> pa.Table:
        """These pictures as a table."""
        return pa.Table.from_pylist([asdict(row) for row in rows], REFUSED)


@dataclass(slots=True)
class Ledger:
    """The books of all stages, as `stats.json` shows them."""

    books: dict[str, Any] = field(default_factory=dict)
    too_small: dict[str, dict[str, int]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class NumberedImage:
    """A record with the integer ids and names of this build; region n has the id `first_region_id + n`."""

    record: ImageRecord
    image_id: int
    first_region_id: int
    file_name: str
    caption: str
    spans: dict[str, tuple[int, int]]  # phrase -> [start, end) in the caption, in code points
