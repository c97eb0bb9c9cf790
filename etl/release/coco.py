"""COCO JSON of labels and of categories, written page by page for each source and joined."""

from collections.abc import Mapping as Map
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from etl.labels.maps import Ontology
from etl.labels.table import LabelTable, Matrix
from etl.release.jsontext import arrays, floats, id_texts, integers, joined, objects, texts, together
from etl.release.records import SPLITS, Page, array, id_lists, id_matrix
from etl.store import Files, append

KINDS = ("images", "annotations")
BETWEEN = b",\n"
SEPARATOR = "\n"  # between the name of a licence and its redistribution
Ids = npt.NDArray[np.bool_]  # (images, ids)

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


@dataclass(frozen=True, slots=True)
class Known:
    """What is said of each image at one level: the ids that it lacks, and those shown without all their regions."""

    negative: Ids
    not_exhaustive: Ids


def label_level(page: Page, labels: LabelTable) -> Known:
    """Label ids; what is seen or not exhaustive is never negative."""
    annotated, negative, partial = (
        id_matrix(page.images[name], labels.width)
        for name in ("annotated_label_ids", "neg_label_ids", "not_exhaustive_label_ids")
    )
    return Known(negative & annotated & ~partial & ~seen(page, labels), partial)


def category_level(page: Page, labels: LabelTable, known: Known) -> Known:
    """Category ids, from what is known of labels.

    A category is negative if one of its labels is annotated and all its anatomy labels are absent; one
    with a region in the image, or a label that is not exhaustive, never is.
    """
    partial = any_of(known.not_exhaustive, labels.members)
    shown = any_of(seen(page, labels), labels.members)
    annotated = any_of(id_matrix(page.images["annotated_label_ids"], labels.width), labels.members)
    absent = ~any_of(~known.negative, labels.anatomy)
    return Known(annotated & absent & ~partial & ~shown, partial)


def any_of(labels: Ids, members: Matrix) -> Ids:
    """Whether an image has any of these labels in each category."""
    return labels.astype(np.float32) @ members > 0


def seen(page: Page, labels: LabelTable) -> Ids:
    """The labels of each image's regions."""
    matrix = np.zeros((len(page.images), labels.width), bool)
    matrix[page.image_of, array(page.regions, "label_id")] = True
    return matrix


class Lines:
    """A file of texts between commas, opened with the first of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[bytes] | None = None

    def add(self, texts: pa.Array) -> None:
        """Adds at least one text."""
        if self.file is None:
            self.file = self.path.open("wb")
        else:
            self.file.write(BETWEEN)
        self.file.write(together(texts, BETWEEN.decode()))

    def close(self) -> None:
        """Ends the file."""
        if self.file is not None:
            self.file.close()


class CocoWriter:
    """The images and annotations of one source at both levels, in a folder: what `compose` makes COCO files of.

    `licenses` are the terms of the sources before it, each with its number; new ones are added.
    """

    def __init__(self, folder: Path, labels: LabelTable, licenses: dict[str, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.labels, self.licenses = labels, licenses
        self.used: dict[str, int] = {}
        self.files = {split: [[Lines(folder / f"{name}.{kind}") for kind in KINDS] for name in levels(split)]
                      for split in SPLITS}  # fmt: skip

    def number_licenses(self, page: Page) -> Page:
        """The page with the column `license_id`; licences are numbered as they come, in key order."""
        names = [page.images[name].combine_chunks().cast(pa.string()) for name in ("license", "redistribution")]
        terms = joined(names[0], SEPARATOR, names[1]).dictionary_encode()
        ids = [self.licenses.setdefault(name, len(self.licenses) + 1) for name in terms.dictionary.to_pylist()]
        self.used |= zip(terms.dictionary.to_pylist(), ids, strict=True)
        return Page(page.images.append_column("license_id", pa.array(ids).take(terms.indices)), page.regions)

    def add(self, split: str, page: Page) -> None:
        """Takes images of a split."""
        known = label_level(page, self.labels)
        label_id = array(page.regions, "label_id")
        ids = label_id, self.labels.category_id[label_id]
        image, region = image_fields(page), region_fields(page, self.labels)
        for files, level, category in zip(
            self.files[split], (known, category_level(page, self.labels, known)), ids, strict=True
        ):
            image["neg_category_ids"] = id_texts(id_lists(level.negative))
            image["not_exhaustive_category_ids"] = id_texts(id_lists(level.not_exhaustive))
            region["category_id"] = integers(pa.array(category))
            for file, fields in zip(files, (image, region), strict=True):
                file.add(objects(fields))

    def close(self) -> None:
        """Ends all files."""
        for files in self.files.values():
            for file in (*files[0], *files[1]):
                file.close()


def levels(split: str) -> tuple[str, str]:
    """The names of the two COCO files of a split: of labels, of categories."""
    return f"{split}.labels", split


def compose(parts: Files, folder: Path, ontology: Ontology, licenses: Map[str, int]) -> None:
    """Writes the COCO files of all splits in `folder` from what `CocoWriter` left of each source, in key order."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        for name, categories in zip(levels(split), (label_categories, region_categories), strict=True):
            with (folder / f"{name}.json").open("wb") as target:
                target.write(b"{")
                for kind in KINDS:
                    found = [part / f"{name}.{kind}" for part, names in parts.items() if f"{name}.{kind}" in names]
                    target.write(f'"{kind}":['.encode())
                    for number, path in enumerate(found):
                        target.write(BETWEEN if number else b"\n")
                        append(path, target)
                    target.write(b"\n]," if found else b"]," if kind == "images" else b"\n\n],")
                target.write(orjson.dumps(rest(split, categories(ontology), licenses))[1:] + b"\n")


def rest(split: str, categories: list[dict[str, Any]], numbers: Map[str, int]) -> dict[str, Any]:
    """What a file holds besides images and annotations."""
    licenses = [
        {"id": n, "name": name, "url": LICENSE_URLS.get(name, ""), "redistribution": redistribution}
        for (name, redistribution), n in ((terms.split(SEPARATOR), n) for terms, n in numbers.items())
    ]
    info = {"description": f"medglip-etl dataset, {split} split", "version": "1"}
    return {"categories": categories, "licenses": licenses, "info": info}


def image_fields(page: Page) -> dict[str, Any]:
    """The COCO images but for their negatives, as JSON columns."""
    images = page.images
    return {
        "id": integers(images["image_id"]),
        "file_name": texts(images["file_name"]),
        "width": integers(images["width"]),
        "height": integers(images["height"]),
        "license": integers(images["license_id"]),
        "source": texts(images["source"]),
        "modality": texts(images["modality"]),
        "axis": texts(images["axis"]),
        "slice_index": integers(images["slice_index"]),
        "case": texts(images["case"]),
        "subject": texts(images["subject"]),
        "key": texts(images["key"]),
    }


def region_fields(page: Page, labels: LabelTable) -> dict[str, Any]:
    """The COCO annotations but for their category, as JSON columns; given boxes have an empty segmentation."""
    regions = page.regions
    size = page.images.select(["height", "width"]).take(regions["image"])
    counts = objects({"size": arrays(*map(integers, size.columns)), "counts": texts(regions["rle"])})
    return {
        "id": integers(regions["region_id"]),
        "image_id": integers(page.images["image_id"].take(regions["image"])),
        "category_id": "",
        "bbox": arrays(*(integers(regions[name]) for name in "xywh")),
        "area": integers(regions["area"]),
        "iscrowd": "0",
        "segmentation": counts.fill_null("[]"),
        "label_id": integers(regions["label_id"]),
        "label": texts(labels.label).take(regions["label_id"].combine_chunks()),
        "raw_label": texts(regions["raw_label"]),
        "phrase": texts(regions["phrase"]),
        "area_fraction": floats(array(regions, "area_fraction")),
        "key": texts(regions["key"]),
    }


def label_categories(ontology: Ontology) -> list[dict[str, Any]]:
    """The labels as COCO categories, their category as supercategory."""
    labels = sorted(ontology.labels.values(), key=lambda label: label.id)
    return [{"id": label.id, "name": label.name, "supercategory": label.category} for label in labels]


def region_categories(ontology: Ontology) -> list[dict[str, Any]]:
    """The categories as COCO categories, their body region as supercategory."""
    categories = sorted(ontology.categories.values(), key=lambda category: category.id)
    return [{"id": c.id, "name": c.name, "supercategory": c.body_region} for c in categories]
