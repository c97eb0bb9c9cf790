"""COCO JSON of labels and of categories, and grounding lines, written as a stream."""

import shutil
from pathlib import Path
from typing import IO, Any

import orjson

from etl.labelmap import Ontology
from etl.records import SPLITS, ImageRecord, NumberedImage, RegionRecord

LICENSE_URLS = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC-BY-NC-3.0": "https://creativecommons.org/licenses/by-nc/3.0/",
    "CC-BY-NC-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "CC-BY-NC-SA-4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "CC-BY-NC-ND-4.0": "https://creativecommons.org/licenses/by-nc-nd/4.0/",
    "CC-BY-ND-4.0": "https://creativecommons.org/licenses/by-nd/4.0/",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "MIT": "https://opensource.org/license/mit",
}


def captioned(regions: list[RegionRecord]) -> tuple[str, dict[str, tuple[int, int]]]:
    """The caption (phrases once each, in order of label id) and each phrase's span in code points."""
    caption, spans = "", {}
    for region in sorted(regions, key=lambda r: (r.label_id, r.phrase)):
        if region.phrase not in spans:
            caption += ". " if caption else ""
            spans[region.phrase] = (len(caption), len(caption) + len(region.phrase))
            caption += region.phrase
    return caption, spans


def number(value: float) -> float | int:
    """A whole float as an integer, for short and exact JSON."""
    return int(value) if value == int(value) else value


def grounding_line(image: NumberedImage) -> dict[str, Any]:
    """One ODVG record; boxes are [x1, y1, x2, y2] in pixels."""
    regions = []
    for region in image.record.regions:
        x, y, w, h = (number(v) for v in region.bbox)
        span = [list(image.spans[region.phrase])]
        regions.append({"phrase": region.phrase, "bbox": [x, y, x + w, y + h], "tokens_positive": span})
    record = image.record
    grounding = {"caption": image.caption, "regions": regions}
    return {"filename": image.file_name, "height": record.height, "width": record.width, "grounding": grounding}


class Negatives:
    """Which categories an image lacks, and which it shows without all of their regions."""

    def __init__(self, ontology: Ontology) -> None:
        self.members: dict[int, set[int]] = {category.id: set() for category in ontology.categories.values()}
        self.anatomy: dict[int, set[int]] = {category.id: set() for category in ontology.categories.values()}
        self.category: dict[int, int] = {}
        for label in ontology.labels.values():
            category_id = ontology.categories[label.category].id
            self.category[label.id] = category_id
            self.members[category_id].add(label.id)
            if label.kind == "anatomy":
                self.anatomy[category_id].add(label.id)

    def labels(self, record: ImageRecord) -> tuple[list[int], list[int]]:
        """Negative and not exhaustive label ids; what is seen or not exhaustive is never negative."""
        open_ids = set(record.not_exhaustive_label_ids)
        seen = {region.label_id for region in record.regions}
        absent = set(record.neg_label_ids) & set(record.annotated_label_ids)
        return sorted(absent - open_ids - seen), sorted(open_ids)

    def categories(self, record: ImageRecord) -> tuple[list[int], list[int]]:
        """Negative and not exhaustive category ids.

        A category is negative if one of its labels is annotated and all its anatomy labels are absent; one
        with a region in the image, or a label that is not exhaustive, never is.
        """
        absent, open_labels = self.labels(record)
        open_ids = {self.category[n] for n in open_labels if n in self.category}
        never = open_ids | {region.category_id for region in record.regions}
        annotated, gone = set(record.annotated_label_ids), set(absent)
        negative = [
            category_id
            for category_id, members in self.members.items()
            if category_id not in never and members & annotated and self.anatomy[category_id] <= gone
        ]
        return sorted(negative), sorted(open_ids)


class CocoFile:
    """One COCO JSON file; annotations wait in a file beside it until the images are all written."""

    def __init__(self, path: Path) -> None:
        self.path, self.spool_path = path, path.with_name(f".{path.name}.annotations")
        self.file: IO[bytes] = path.open("wb")
        self.spool: IO[bytes] = self.spool_path.open("wb")
        self.images = self.annotations = 0

    def image(self, value: dict[str, Any]) -> None:
        """Adds an image."""
        self.file.write((b",\n" if self.images else b'{"images":[\n') + orjson.dumps(value))
        self.images += 1

    def annotation(self, value: dict[str, Any]) -> None:
        """Adds an annotation."""
        self.spool.write((b",\n" if self.annotations else b"") + orjson.dumps(value))
        self.annotations += 1

    def close(self, rest: dict[str, Any]) -> None:
        """Ends the file with the annotations and the keys of `rest`."""
        self.spool.close()
        self.file.write(b'\n],"annotations":[\n' if self.images else b'{"images":[],"annotations":[\n')
        with self.spool_path.open("rb") as spool:
            shutil.copyfileobj(spool, self.file, 2**20)
        self.spool_path.unlink()
        self.file.write(b"\n]," + orjson.dumps(rest)[1:] + b"\n")
        self.file.close()


class CocoWriter:
    """Both COCO levels and the grounding lines of all three splits."""

    def __init__(self, folder: Path, ontology: Ontology) -> None:
        for name in ("annotations", "grounding"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.ontology, self.negatives = ontology, Negatives(ontology)
        self.licenses: dict[tuple[str, str], int] = {}
        annotations = folder / "annotations"
        self.label_files = {split: CocoFile(annotations / f"{split}.labels.json") for split in SPLITS}
        self.category_files = {split: CocoFile(annotations / f"{split}.json") for split in SPLITS}
        self.lines: dict[str, IO[bytes]] = {s: (folder / "grounding" / f"{s}.jsonl").open("wb") for s in SPLITS}

    def add(self, image: NumberedImage) -> None:
        """Takes one image."""
        split, record = image.record.split, image.record
        common = self.image_entry(image)
        for file, (negative, not_exhaustive) in (
            (self.label_files[split], self.negatives.labels(record)),
            (self.category_files[split], self.negatives.categories(record)),
        ):
            extra = {"neg_category_ids": negative, "not_exhaustive_category_ids": not_exhaustive}
            file.image(common | extra)
        for n, region in enumerate(record.regions):
            entry = annotation_entry(region, image.first_region_id + n, image.image_id)
            self.label_files[split].annotation(entry | {"category_id": region.label_id})
            self.category_files[split].annotation(entry)
        self.lines[split].write(orjson.dumps(grounding_line(image)) + b"\n")

    def image_entry(self, image: NumberedImage) -> dict[str, Any]:
        """The COCO image but for its negatives; licences are numbered as they come, in key order."""
        record = image.record
        terms = (record.license, record.redistribution)
        return {
            "id": image.image_id,
            "file_name": image.file_name,
            "width": record.width,
            "height": record.height,
            "license": self.licenses.setdefault(terms, len(self.licenses) + 1),
            "source": record.source,
            "modality": record.modality,
            "axis": record.axis,
            "slice_index": record.slice_index,
            "case": record.case,
            "subject": record.subject,
            "key": record.key,
        }

    def close(self) -> None:
        """Ends all files."""
        for split in SPLITS:
            self.label_files[split].close(self.rest(split, label_categories(self.ontology)))
            self.category_files[split].close(self.rest(split, region_categories(self.ontology)))
            self.lines[split].close()

    def rest(self, split: str, categories: list[dict[str, Any]]) -> dict[str, Any]:
        """What a file holds besides images and annotations."""
        licenses = [
            {"id": n, "name": name, "url": LICENSE_URLS.get(name, ""), "redistribution": redistribution}
            for (name, redistribution), n in self.licenses.items()
        ]
        info = {"description": f"medglip-etl dataset, {split} split", "version": "1"}
        return {"categories": categories, "licenses": licenses, "info": info}


def annotation_entry(region: RegionRecord, region_id: int, image_id: int) -> dict[str, Any]:
    """The COCO annotation at category level; given boxes have an empty segmentation."""
    return {
        "id": region_id,
        "image_id": image_id,
        "category_id": region.category_id,
        "bbox": [number(v) for v in region.bbox],
        "area": region.area,
        "iscrowd": 0,
        "segmentation": region.segmentation or [],
        "label_id": region.label_id,
        "label": region.label,
        "raw_label": region.raw_label,
        "phrase": region.phrase,
        "area_fraction": region.area_fraction,
        "key": region.key,
    }


def label_categories(ontology: Ontology) -> list[dict[str, Any]]:
    """The labels as COCO categories, their category as supercategory."""
    labels = sorted(ontology.labels.values(), key=lambda label: label.id)
    return [{"id": label.id, "name": label.name, "supercategory": label.category} for label in labels]


def region_categories(ontology: Ontology) -> list[dict[str, Any]]:
    """The categories as COCO categories, their body region as supercategory."""
    categories = sorted(ontology.categories.values(), key=lambda category: category.id)
    return [{"id": c.id, "name": c.name, "supercategory": c.body_region} for c in categories]
