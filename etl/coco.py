"""COCO JSON of labels and of categories, written page by page."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from etl.jsontext import arrays, floats, id_texts, integers, objects, texts, together
from etl.labelmap import Ontology
from etl.labeltable import LabelTable
from etl.records import SPLITS, Page, array, id_lists, id_matrix

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
    partial = known.not_exhaustive @ labels.members > 0
    shown = seen(page, labels) @ labels.members > 0
    annotated = id_matrix(page.images["annotated_label_ids"], labels.width) @ labels.members > 0
    absent = ~known.negative @ labels.anatomy == 0
    return Known(annotated & absent & ~partial & ~shown, partial)


def seen(page: Page, labels: LabelTable) -> Ids:
    """The labels of each image's regions."""
    matrix = np.zeros((len(page.images), labels.width), bool)
    matrix[page.image_of, array(page.regions, "label_id")] = True
    return matrix


class CocoFile:
    """One COCO JSON file; annotations wait in a file beside it until the images are all written."""

    def __init__(self, path: Path) -> None:
        self.spool_path = path.with_name(f".{path.name}.annotations")
        self.images: IO[bytes] = path.open("wb")
        self.spool: IO[bytes] = self.spool_path.open("w+b")
        self.images.write(b'{"images":[\n')
        self.empty = True

    def add(self, images: pa.Array, annotations: pa.Array) -> None:
        """Adds lines of at least one image and one annotation."""
        for file, lines in ((self.images, images), (self.spool, annotations)):
            file.write(b"" if self.empty else b",\n")
            file.write(together(lines, ",\n"))
        self.empty = False

    def close(self, rest: dict[str, Any]) -> None:
        """Ends the file with the annotations and the keys of `rest`."""
        if self.empty:
            self.images.seek(len(b'{"images":['))
        self.images.write(b'],"annotations":[\n' if self.empty else b'\n],"annotations":[\n')
        self.spool.seek(0)
        shutil.copyfileobj(self.spool, self.images, 2**20)
        self.spool.close()
        self.spool_path.unlink()
        self.images.write(b"\n]," + orjson.dumps(rest)[1:] + b"\n")
        self.images.close()


class CocoWriter:
    """Both COCO levels of all three splits."""

    def __init__(self, folder: Path, ontology: Ontology, labels: LabelTable) -> None:
        folder.mkdir(parents=True)
        self.ontology, self.labels = ontology, labels
        self.licenses: dict[tuple[str, str], int] = {}
        self.files = {split: (CocoFile(folder / f"{split}.labels.json"), CocoFile(folder / f"{split}.json"))
                      for split in SPLITS}  # fmt: skip

    def add(self, whole: Page) -> None:
        """Takes one page; licences are numbered as they come, in key order."""
        for name in zip(*(whole.images[n].to_pylist() for n in ("license", "redistribution")), strict=True):
            self.licenses.setdefault(name, len(self.licenses) + 1)
        for (split,), page in whole.split_up("split"):
            known = label_level(page, self.labels)
            levels = known, category_level(page, self.labels, known)
            label_id = array(page.regions, "label_id")
            image, region = self.image_fields(page), region_fields(page, self.labels)
            for file, level, ids in zip(self.files[split], levels, (label_id, self.labels.category_id[label_id]), strict=True):
                image["neg_category_ids"] = id_texts(id_lists(level.negative))
                image["not_exhaustive_category_ids"] = id_texts(id_lists(level.not_exhaustive))
                region["category_id"] = integers(pa.array(ids))
                file.add(objects(image), objects(region))

    def image_fields(self, page: Page) -> dict[str, Any]:
        """The COCO images but for their negatives, as JSON columns."""
        images = page.images
        terms = zip(*(images[n].to_pylist() for n in ("license", "redistribution")), strict=True)
        return {
            "id": integers(images["image_id"]),
            "file_name": texts(images["file_name"]),
            "width": integers(images["width"]),
            "height": integers(images["height"]),
            "license": integers(pa.array([self.licenses[t] for t in terms])),
            "source": texts(images["source"]),
            "modality": texts(images["modality"]),
            "axis": texts(images["axis"]),
            "slice_index": integers(images["slice_index"]),
            "case": texts(images["case"]),
            "subject": texts(images["subject"]),
            "key": texts(images["key"]),
        }

    def close(self) -> None:
        """Ends all files."""
        for split, files in self.files.items():
            for file, categories in zip(files, (label_categories, region_categories), strict=True):
                file.close(self.rest(split, categories(self.ontology)))

    def rest(self, split: str, categories: list[dict[str, Any]]) -> dict[str, Any]:
        """What a file holds besides images and annotations."""
        licenses = [
            {"id": n, "name": name, "url": LICENSE_URLS.get(name, ""), "redistribution": redistribution}
            for (name, redistribution), n in self.licenses.items()
        ]
        info = {"description": f"medglip-etl dataset, {split} split", "version": "1"}
        return {"categories": categories, "licenses": licenses, "info": info}


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
