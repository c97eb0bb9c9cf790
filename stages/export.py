"""The last stage: accepted images and regions → the dataset folder, there as a whole.

Every source has a part of the dataset, in `stages/export/<source>/`: its lines of the JSON files, its shards, its
numbers. A part is made again only if something it is made from has changed; joining them copies and links.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from etl import store
from etl.errors import Failure
from etl.frames import by_name
from etl.labels.maps import Ontology
from etl.labels.table import LabelTable, label_table
from etl.manifests.manifest import Manifest
from etl.quality.report import page as html_page
from etl.quality.samples import Samples, samples_of
from etl.release import coco, grounding, shards, stats
from etl.release.card import croissant, readme
from etl.release.grounding import with_captions
from etl.release.jsontext import joined
from etl.release.records import SPLITS, Ledger, Page, Refused

CASE_BYTES = 120
HASH_DIGITS = 16
PNG_LIMIT = 100_000
MARK = "stats.json"  # written last
VERSION = 2


@dataclass(frozen=True, slots=True)
class Share:
    """What a source gives to the dataset; `key` is a digest of all that it is made from.

    `make(folder)` gives an account of the source, plain values, and its pages in key order; it may leave files in
    the folder, which stay with the part.
    """

    slug: str
    key: str
    make: Callable[[Path], tuple[dict[str, Any], Iterable[Page]]]


@dataclass(slots=True)
class Place:
    """Where the next part begins: its first ids, and the licences before it with their numbers."""

    image: int = 1
    region: int = 1
    licenses: dict[str, int] = field(default_factory=dict)

    def after(self, report: dict[str, Any]) -> "Place":
        """The place behind a part that was made for this place."""
        tally = report["tally"]
        return Place(self.image + tally["images"], self.region + tally["regions"], self._numbers(report))

    def holds(self, report: dict[str, Any]) -> bool:
        """Whether a part was made for this place."""
        numbers = self._numbers(report)
        return report["first"] == [self.image, self.region] and all(numbers[n] == i for n, i in report["licenses"])

    def _numbers(self, report: dict[str, Any]) -> dict[str, int]:
        licenses = dict(self.licenses)
        for name, _ in report["licenses"]:
            licenses.setdefault(name, len(licenses) + 1)
        return licenses


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
    shares: Iterable[Share],
    manifests: Mapping[str, Manifest],
    ontology: Ontology,
    out: Path,
    *,
    png: bool | None,
    ledger: Callable[[list[dict[str, Any]], list[Path]], Ledger],
) -> dict[str, Any]:
    """The numbers of the dataset it wrote at `out/dataset`; `shares` are in key order.

    `png`: whether to write loose images; None: up to 100,000 of them. `ledger` makes the books of the accounts of
    all shares and the folders of their parts.

    Raises:
        Failure: an image is out of order, has no region, or has an unknown split.
    """
    final = out / "dataset"
    labels = label_table(ontology)
    status = {slug: manifest.status for slug, manifest in manifests.items()}
    place, files, reports, last = Place(), {}, [], ""
    with ThreadPoolExecutor(2) as pool:
        for share in shares:
            if f"{share.slug}/" <= last:
                raise Failure(f"images are not in key order: {share.slug}/ after {last}")
            last = f"{share.slug}/"
            folder = out / "stages" / "export" / share.slug
            files[folder] = set(store.names(folder))
            report = kept(folder, files[folder], share.key, place)
            if report is None:
                report = make_part(share, folder, place, labels, status.get(share.slug, "unverified"), pool)
                files[folder] = set(store.names(folder))
            place = place.after(report)
            reports.append(report)
    books = ledger([report["account"] for report in reports], list(files))
    numbers = stats.together([report["tally"] for report in reports], books)
    fresh = store.begun(final, MARK)
    coco.compose(files, fresh / "annotations", ontology, place.licenses)
    grounding.compose(files, fresh / "grounding")
    shards.compose(files, fresh / "shards")
    if numbers["images"] <= PNG_LIMIT if png is None else png:
        for folder in files:
            write_images(folder / "shards", fresh / "images")
    sheet = Samples()
    for folder in files:
        sheet.join(Samples.load((folder / "samples.json").read_bytes()))
    known = {name: digest for report in reports for name, digest in report["shards"].items()}
    write_pages(fresh, numbers, manifests, sheet, books.refused, known)
    store.settled(fresh, final)
    return numbers


def kept(folder: Path, files: set[str], key: str, place: Place) -> dict[str, Any] | None:
    """The report of the part in a folder, if it was made from what `key` stands for and for this place."""
    report: dict[str, Any] | None = store.read_json(folder / "report.json") if files else None
    if report is None or report["key"] != key or not place.holds(report):
        return None
    return report if files.issuperset(report["shards"]) else None


def make_part(
    share: Share, folder: Path, place: Place, labels: LabelTable, status: str, pool: ThreadPoolExecutor
) -> dict[str, Any]:
    """Makes the part of a source at a place; returns its report, which is in the folder too."""
    fresh = store.begun(folder, "report.json")
    account, pages = share.make(fresh)
    tally, sheet = stats.Tally(labels), Samples()
    with (
        closing(coco.CocoWriter(fresh, labels, dict(place.licenses))) as annotations,
        closing(grounding.GroundingWriter(fresh)) as lines,
        closing(shards.ShardWriter(fresh / "shards", labels)) as rows,
    ):
        for page in ahead(numbered(pages, place)):
            tally.add(page, status)
            sheet.add(samples_of(page, labels))
            for split, part in annotations.number_licenses(page).by_split():
                for _ in pool.map(lambda writer, split=split, part=part: writer.add(split, part),
                                  (annotations, lines, rows)):
                    pass  # a fault in a writer is raised here
    (fresh / "samples.json").write_bytes(sheet.dump())
    written = sorted((fresh / "shards").rglob("*.parquet"))
    report = {
        "key": share.key, "first": [place.image, place.region], "account": account, "tally": tally.result(),
        "licenses": [[name, n] for name, n in annotations.used.items()],
        "shards": {path.relative_to(fresh).as_posix(): store.sha256(path) for path in written},
    }  # fmt: skip
    store.write_json(fresh / "report.json", report)
    store.settled(fresh, folder)
    return report


def ahead(pages: Iterator[Page]) -> Iterator[Page]:
    """The pages, each made while the one before it is written: Arrow leaves the interpreter to others."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, pages, None)
        while (page := following.result()) is not None:
            following = pool.submit(next, pages, None)
            yield page


def numbered(pages: Iterable[Page], place: Place) -> Iterator[Page]:
    """The pages with ids from a place on in key order, file names and captions.

    An index ends an image key and "/" sorts before any digit, so images in key order, each with its regions
    in key order, are all regions in key order: no list of keys is needed.
    """
    image_id, region_id, last = place.image, place.region, ""
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
    """Each image's path below `dataset/images/`: `source/case/axis-0000.png`, the case as one safe path part."""
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


def write_images(rows: Path, folder: Path) -> None:
    """Writes the loose images of these shards."""
    for path in sorted(rows.rglob("*.parquet")):
        file = pq.ParquetFile(store.opened(path))
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, ["file_name", "image.bytes"])
            data = pc.struct_field(table["image"].combine_chunks(), "bytes")
            for name, png in zip(table["file_name"].to_pylist(), data.to_pylist(), strict=True):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(png)


def write_pages(
    folder: Path, numbers: dict[str, Any], manifests: Mapping[str, Manifest], sheet: Samples, refused: list[Refused],
    known: Mapping[str, str],
) -> None:
    """Writes the numbers, the dataset card, its Croissant description and the report."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    used = [manifests[slug] for slug in sorted(numbers["by"]["source"]) if slug in manifests]
    text = orjson.dumps(numbers, option=options)
    (folder / "README.md").write_text(readme(numbers, used), encoding="utf-8")
    (folder / "croissant.json").write_bytes(orjson.dumps(croissant(numbers, used, folder, known), option=options))
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text(html_page(orjson.loads(text), sheet, refused), encoding="utf-8")
    (folder / MARK).write_bytes(text)
