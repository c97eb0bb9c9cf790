"""What `export` writes, said plainly: one record an image, one row at a time. For tests to compare with."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import orjson
import pyarrow as pa

from etl.labels.maps import Ontology
from etl.release.records import IMAGES, REGIONS, SPLITS, Page
from etl.release.shards import schema
from stages.export import case_part


def image_file_name(source: str, case: str, axis: str, index: int) -> str:
    return f"{source}/{case_part(case)}/{axis}-{index:04d}.png"


@dataclass(slots=True)
class RegionRecord:
    """One labelled area of an image; `bbox` is [x, y, width, height]; `rle` None for a given box."""

    key: str
    label: str
    raw_label: str
    bbox: tuple[int, int, int, int]
    area: int
    area_fraction: float
    rle: str | None
    derived: bool = False


@dataclass(slots=True)
class ImageRecord:
    """One image as PNG bytes with its facts."""

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
    png: bytes
    license: str
    redistribution: str
    annotated_label_ids: list[int]
    neg_label_ids: list[int]
    not_exhaustive_label_ids: list[int]
    sex: str | None = None
    age: str | None = None
    diagnosis: str | None = None
    scanner: str | None = None
    contrast_phase: str | None = None
    flags: list[str] = field(default_factory=list)
    regions: list[RegionRecord] = field(default_factory=list)


def pages(records: Iterable[ImageRecord], ontology: Ontology, size: int = 1000) -> Iterator[Page]:
    """The records, in key order, as pages of at most `size` images of a source."""
    for _, found in groupby(records, key=lambda record: record.source):
        members = list(found)
        for start in range(0, len(members), size):
            yield page(members[start : start + size], ontology)


def page(records: list[ImageRecord], ontology: Ontology) -> Page:
    """These records as one page."""
    images = [{name: getattr(record, name) for name in IMAGES.names} for record in records]
    rows = [
        {"image": n, "key": r.key, "label_id": ontology.labels[r.label].id, "raw_label": r.raw_label, "phrase": r.label,
         **dict(zip("xywh", r.bbox, strict=True)), "area": r.area, "area_fraction": r.area_fraction,
         "derived": r.derived, "rle": r.rle}
        for n, record in enumerate(records) for r in sorted(record.regions, key=lambda r: r.key)
    ]  # fmt: skip
    return Page(table(images, IMAGES), table(rows, REGIONS))


def table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; names are dictionary-encoded."""
    plain = pa.schema([(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in schema])
    return pa.Table.from_pylist(rows, plain).cast(schema)


def numbered(records: list[ImageRecord]) -> Iterator[tuple[int, ImageRecord, list[tuple[int, RegionRecord]]]]:
    """Each image with its id, and its regions with theirs."""
    region_id = 1
    for image_id, record in enumerate(records, 1):
        regions = sorted(record.regions, key=lambda r: r.key)
        yield image_id, record, list(enumerate(regions, region_id))
        region_id += len(regions)


def known(record: ImageRecord, ontology: Ontology, level: str) -> tuple[list[int], list[int]]:
    """(negative, not exhaustive) ids of an image at a level."""
    partial, annotated = set(record.not_exhaustive_label_ids), set(record.annotated_label_ids)
    seen = {ontology.labels[r.label].id for r in record.regions}
    absent = (set(record.neg_label_ids) & annotated) - partial - seen
    if level == "labels":
        return sorted(absent), sorted(partial)
    members: dict[int, set[int]] = {category.id: set() for category in ontology.categories.values()}
    for label in ontology.labels.values():
        members[ontology.categories[label.category].id].add(label.id)
    anatomy = {label.id for label in ontology.labels.values() if label.kind == "anatomy"}
    unseen = {n: ids for n, ids in members.items() if not ids & (seen | partial)}
    negative = [n for n, ids in unseen.items() if ids & annotated and ids & anatomy <= absent]
    return sorted(negative), [n for n, ids in sorted(members.items()) if ids & partial]


def coco_lines(
    records: list[ImageRecord], ontology: Ontology, split: str, level: str
) -> tuple[list[bytes], list[bytes]]:
    """The lines of images and of annotations of a COCO file."""
    licenses: dict[tuple[str, str], int] = {}
    images, annotations = [], []
    for image_id, record, regions in numbered(records):
        license_id = licenses.setdefault((record.license, record.redistribution), len(licenses) + 1)
        if record.split != split:
            continue
        negative, partial = known(record, ontology, level)
        images.append({
            "id": image_id, "file_name": image_file_name(record.source, record.case, record.axis, record.slice_index),
            "width": record.width, "height": record.height, "license": license_id, "source": record.source,
            "modality": record.modality, "axis": record.axis, "slice_index": record.slice_index, "case": record.case,
            "subject": record.subject, "key": record.key, "neg_category_ids": negative,
            "not_exhaustive_category_ids": partial,
        })  # fmt: skip
        for region_id, r in regions:
            label = ontology.labels[r.label]
            category_id = label.id if level == "labels" else ontology.categories[label.category].id
            segmentation = [] if r.rle is None else {"size": [record.height, record.width], "counts": r.rle}
            annotations.append({
                "id": region_id, "image_id": image_id, "category_id": category_id, "bbox": list(r.bbox), "area": r.area,
                "iscrowd": 0, "segmentation": segmentation, "label_id": label.id, "label": r.label,
                "raw_label": r.raw_label, "phrase": r.label, "area_fraction": r.area_fraction, "key": r.key,
            })  # fmt: skip
    return [orjson.dumps(v) for v in images], [orjson.dumps(v) for v in annotations]


def captioned(record: ImageRecord, ontology: Ontology) -> tuple[str, dict[str, list[int]]]:
    """The caption of an image and the span of each phrase."""
    caption, spans = "", {}
    for name in sorted({r.label for r in record.regions}, key=lambda name: ontology.labels[name].id):
        caption += ". " if caption else ""
        spans[name] = [len(caption), len(caption) + len(name)]
        caption += name
    return caption, spans


def grounding_lines(records: list[ImageRecord], ontology: Ontology, split: str) -> list[bytes]:
    """The lines of a grounding file."""
    lines = []
    for _, record, regions in numbered(records):
        if record.split == split:
            caption, spans = captioned(record, ontology)
            listed = [{"phrase": r.label, "bbox": [r.bbox[0], r.bbox[1], r.bbox[0] + r.bbox[2], r.bbox[1] + r.bbox[3]],
                       "tokens_positive": [spans[r.label]]} for _, r in regions]  # fmt: skip
            name = image_file_name(record.source, record.case, record.axis, record.slice_index)
            lines.append(orjson.dumps({"filename": name, "height": record.height, "width": record.width,
                                       "grounding": {"caption": caption, "regions": listed}}))
    return lines


def counts(records: list[ImageRecord], ontology: Ontology, key: str) -> dict[str, dict[str, int]]:
    """Images and regions by a key; an image counts once for each value it shows."""
    totals: dict[str, dict[str, int]] = {}
    if key == "split":
        totals = {split: {"images": 0, "regions": 0} for split in sorted(SPLITS)}
    for record in records:
        values = [value(record, region, ontology, key) for region in record.regions]
        for name in values:
            totals.setdefault(name, {"images": 0, "regions": 0})["regions"] += 1
        for name in set(values):
            totals[name]["images"] += 1
    return dict(sorted(totals.items()))


def value(record: ImageRecord, region: RegionRecord, ontology: Ontology, key: str) -> str:
    """What a region counts under."""
    label = ontology.labels[region.label]
    category = ontology.categories[label.category]
    named = {"label": label.name, "category": category.name, "body_region": category.body_region}
    return str(named.get(key) or getattr(record, key))


def shard_rows(records: list[ImageRecord], ontology: Ontology) -> list[dict[str, Any]]:
    """The rows of the shards."""
    rows = []
    for image_id, record, regions in numbered(records):
        name = image_file_name(record.source, record.case, record.axis, record.slice_index)
        facts = {field.name: getattr(record, field.name, None) for field in schema()}
        spacing = None if record.spacing is None else [float32(v) for v in record.spacing]
        rows.append(facts | {
            "image_id": image_id, "file_name": name, "image": {"bytes": record.png, "path": name},
            "caption": captioned(record, ontology)[0], "spacing": spacing, "absent_label_ids": record.neg_label_ids,
            "regions": [shard_region(record, region_id, region, ontology) for region_id, region in regions],
        })  # fmt: skip
    return rows


def shard_region(record: ImageRecord, region_id: int, region: RegionRecord, ontology: Ontology) -> dict[str, Any]:
    """A region in the row of its image."""
    label = ontology.labels[region.label]
    category = ontology.categories[label.category]
    size = {"size": [record.height, record.width], "counts": region.rle}
    return {
        "region_id": region_id, "key": region.key, "label_id": label.id, "label": label.name,
        "category_id": category.id, "category": category.name, "body_region": category.body_region,
        "raw_label": region.raw_label, "phrase": region.label, "bbox": [float(v) for v in region.bbox],
        "area": region.area, "area_fraction": float32(region.area_fraction), "derived": region.derived,
        "segmentation": None if region.rle is None else size,
    }  # fmt: skip


def float32(number: float) -> float:
    """The number as a float32 holds it."""
    return struct.unpack("f", struct.pack("f", number))[0]
