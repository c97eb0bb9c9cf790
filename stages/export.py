"""The last stage: accepted images and regions → the dataset folder, swapped in by a rename."""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from etl.card import croissant, readme
from etl.coco import CocoWriter, captioned
from etl.errors import Failure
from etl.htmlreport import ContactSheet, page
from etl.labelmap import Ontology
from etl.manifest import Manifest
from etl.records import SPLITS, ImageRecord, Ledger, NumberedImage, RegionRecord
from etl.shards import ShardWriter
from etl.stats import Tally

__all__ = ["ImageRecord", "Ledger", "RegionRecord", "export", "image_file_name"]

CASE_BYTES = 120
HASH_DIGITS = 16


def image_file_name(source: str, case: str, axis: str, index: int) -> str:
    """The image's path below `dataset/images/`: `source/case/axis-0000.png`, the case as one safe path part."""
    return f"{source}/{case_part(case)}/{axis}-{index:04d}.png"


def case_part(case: str) -> str:
    """A case name percent-encoded, at most 120 bytes; a longer one is cut and ends in a hash of the name."""
    pieces = [c if re.fullmatch(r"[A-Za-z0-9._-]", c) else percent(c) for c in case]
    if not case.strip("."):  # "", "." and ".." would be no folder of their own
        pieces = [percent(c) for c in case] or ["%"]
    if sum(map(len, pieces)) <= CASE_BYTES:
        return "".join(pieces)
    tail = "-" + hashlib.sha256(case.encode()).hexdigest()[:HASH_DIGITS]
    while sum(map(len, pieces)) + len(tail) > CASE_BYTES:
        pieces.pop()
    return "".join(pieces) + tail


def percent(character: str) -> str:
    """A character as %XX of its UTF-8 bytes."""
    return "".join(f"%{byte:02X}" for byte in character.encode())


def export(
    records: Callable[[], Iterable[ImageRecord]],
    manifests: Mapping[str, Manifest],
    ontology: Ontology,
    out: Path,
    *,
    png: bool,
    ledger: Ledger,
) -> dict[str, Any]:
    """The numbers of the dataset it wrote at `out/dataset`; `records()` yields images in key order.

    Raises:
        Failure: a record is out of order, has no region, or has an unknown split.
    """
    final, fresh = out / "dataset", out / "dataset.tmp"
    recover(final)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tally, sheet = Tally(), ContactSheet()
    write_data(numbered(records()), fresh, ontology, manifests, tally=tally, sheet=sheet, png=png)
    stats = tally.result(ledger)
    write_pages(fresh, stats, manifests, sheet)
    swap(fresh, final)
    return stats


def numbered(records: Iterable[ImageRecord]) -> Iterator[NumberedImage]:
    """The images with ids from 1 in key order.

    An index ends an image key and "/" sorts before any digit, so images in key order, each with its regions
    in key order, are all regions in key order: no list of keys is needed.
    """
    image_id, region_id, last = 0, 1, ""
    for record in records:
        checked(record, last)
        record.regions.sort(key=lambda region: region.key)
        image_id, last = image_id + 1, record.key
        name = image_file_name(record.source, record.case, record.axis, record.slice_index)
        yield NumberedImage(record, image_id, region_id, name, *captioned(record.regions))
        region_id += len(record.regions)


def checked(record: ImageRecord, last: str) -> None:
    """Nothing, if the record may follow the key `last`."""
    if record.key <= last:
        raise Failure(f"images are not in key order: {record.key} after {last}")
    if record.split not in SPLITS:
        raise Failure(f"{record.key}: unknown split {record.split}")
    if not record.regions:
        raise Failure(f"{record.key}: an image without a region")
    if len({region.key for region in record.regions}) < len(record.regions):
        raise Failure(f"{record.key}: two regions have the same key")


def write_data(
    images: Iterable[NumberedImage],
    folder: Path,
    ontology: Ontology,
    manifests: Mapping[str, Manifest],
    *,
    tally: Tally,
    sheet: ContactSheet,
    png: bool,
) -> None:
    """Writes shards, COCO, grounding and PNG files in one pass over the images."""
    with closing(ShardWriter(folder / "shards")) as shards, closing(CocoWriter(folder, ontology)) as coco:
        for image in images:
            manifest = manifests.get(image.record.source)
            tally.add(image.record, manifest.status if manifest else "unverified")
            sheet.add(image.record)
            shards.add(image)
            coco.add(image)
            if png:
                write_png(folder / "images" / image.file_name, image.record.image)


def write_png(path: Path, data: bytes) -> None:
    """Writes one loose image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_pages(folder: Path, stats: dict[str, Any], manifests: Mapping[str, Manifest], sheet: ContactSheet) -> None:
    """Writes the numbers, the dataset card, its Croissant description and the report."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    used = [manifests[slug] for slug in sorted(stats["by"]["source"]) if slug in manifests]
    (folder / "stats.json").write_bytes(orjson.dumps(stats, option=options))
    (folder / "README.md").write_text(readme(stats, used), encoding="utf-8")
    (folder / "croissant.json").write_bytes(orjson.dumps(croissant(stats, used, folder), option=options))
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text(page(stats, used, sheet), encoding="utf-8")


def recover(folder: Path) -> None:
    """Puts the old folder back if a swap was cut off between its two renames."""
    old = folder.with_name(f"{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def swap(fresh: Path, folder: Path) -> None:
    """Makes `fresh` the folder."""
    old = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
