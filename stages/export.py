"""The last stage: accepted images and regions → the dataset folder, swapped in by a rename."""

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from etl.card import croissant, readme
from etl.coco import CocoWriter
from etl.errors import Failure
from etl.frames import by_name
from etl.grounding import GroundingWriter, with_captions
from etl.jsontext import joined
from etl.labelmap import Ontology
from etl.labeltable import label_table
from etl.manifest import Manifest
from etl.records import SPLITS, Ledger, Page, Refused
from etl.report import page as html_page
from etl.samples import Samples, samples_of
from etl.shards import ShardWriter
from etl.stats import Tally

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
    pages: Iterable[Page],
    manifests: Mapping[str, Manifest],
    ontology: Ontology,
    out: Path,
    *,
    png: bool,
    ledger: Ledger,
) -> dict[str, Any]:
    """The numbers of the dataset it wrote at `out/dataset`; `pages` are in key order.

    Raises:
        Failure: an image is out of order, has no region, or has an unknown split.
    """
    final, fresh = out / "dataset", out / "dataset.tmp"
    recover(final)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    labels = label_table(ontology)
    tally, sheet = Tally(labels), Samples()
    status = {slug: manifest.status for slug, manifest in manifests.items()}
    with (
        closing(CocoWriter(fresh / "annotations", ontology, labels)) as coco,
        closing(GroundingWriter(fresh / "grounding")) as grounding,
        closing(ShardWriter(fresh / "shards", labels)) as shards,
        ThreadPoolExecutor(2) as pool,
    ):
        for page in ahead(numbered(pages)):
            tally.add(page, status)
            sheet.add(samples_of(page, labels))
            for split, part in coco.number_licenses(page).by_split():
                for _ in pool.map(lambda writer, split=split, part=part: writer.add(split, part),
                                  (coco, grounding, shards)):
                    pass  # a fault in a writer is raised here
            if png:
                write_images(fresh / "images", page)
    stats = tally.result(ledger)
    write_pages(fresh, stats, manifests, sheet, ledger.refused)
    swap(fresh, final)
    return stats


def ahead(pages: Iterator[Page]) -> Iterator[Page]:
    """The pages, each made while the one before it is written: Arrow leaves the interpreter to others."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, pages, None)
        while (page := following.result()) is not None:
            following = pool.submit(next, pages, None)
            yield page


def numbered(pages: Iterable[Page]) -> Iterator[Page]:
    """The pages with ids from 1 in key order, file names and captions.

    An index ends an image key and "/" sorts before any digit, so images in key order, each with its regions
    in key order, are all regions in key order: no list of keys is needed.
    """
    image_id, region_id, last = 1, 1, ""
    for page in pages:
        last = checked(page, last)
        images = page.images.append_column("image_id", counting(image_id, len(page.images)))
        regions = page.regions.append_column("region_id", counting(region_id, len(page.regions)))
        yield with_captions(Page(images.append_column("file_name", file_names(images)), regions))
        image_id, region_id = image_id + len(images), region_id + len(regions)


def counting(first: int, count: int) -> pa.Array:
    """`count` numbers from `first` up."""
    return pa.array(np.arange(first, first + count, dtype=np.int64))


def file_names(images: pa.Table) -> pa.Array:
    """`image_file_name` of each image."""
    source, axis = (images[name].combine_chunks().cast(pa.string()) for name in ("source", "axis"))
    case = by_name(images["case"], case_part)
    index = pc.utf8_lpad(images["slice_index"].combine_chunks().cast(pa.string()), 4, "0")
    return joined(source, "/", case, "/", axis, "-", index, ".png")


def checked(page: Page, last: str) -> str:
    """The last key of a page, if the page may follow the key `last`."""
    keys = pa.array([last, *page.images["key"].to_pylist()])
    wrong = pc.index(pc.less(keys[:-1], keys[1:]), False).as_py()
    if wrong >= 0:
        raise Failure(f"images are not in key order: {keys[wrong + 1]} after {keys[wrong]}")
    for split in page.images["split"].unique().to_pylist():
        if split not in SPLITS:
            raise Failure(f"{page.source}: unknown split {split}")
    empty = np.bincount(page.image_of, minlength=len(page.images)) == 0
    if empty.any():
        raise Failure(f"{keys[1 + int(empty.argmax())]}: an image without a region")
    regions = page.regions["key"].combine_chunks()
    wrong = pc.index(pc.less(regions[:-1], regions[1:]), False).as_py()
    if wrong >= 0:
        raise Failure(f"regions have the same key or are not in key order: {regions[wrong + 1]} after {regions[wrong]}")
    return str(keys[-1])


def write_images(folder: Path, page: Page) -> None:
    """Writes loose images."""
    for name, data in zip(page.images["file_name"].to_pylist(), page.images["png"].to_pylist(), strict=True):
        write_png(folder / name, data)


def write_png(path: Path, data: bytes) -> None:
    """Writes one loose image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_pages(
    folder: Path, stats: dict[str, Any], manifests: Mapping[str, Manifest], sheet: Samples, refused: list[Refused]
) -> None:
    """Writes the numbers, the dataset card, its Croissant description and the report."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    used = [manifests[slug] for slug in sorted(stats["by"]["source"]) if slug in manifests]
    text = orjson.dumps(stats, option=options)
    (folder / "stats.json").write_bytes(text)
    (folder / "README.md").write_text(readme(stats, used), encoding="utf-8")
    (folder / "croissant.json").write_bytes(orjson.dumps(croissant(stats, used, folder), option=options))
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text(html_page(orjson.loads(text), sheet, refused), encoding="utf-8")


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
