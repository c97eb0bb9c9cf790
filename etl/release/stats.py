"""The numbers of a dataset, counted page by page for each source and added up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from etl.labels.table import LabelTable
from etl.release.coco import seen
from etl.release.records import SPLITS, Ledger, Page, array

IMAGE_KEYS = ("modality", "source", "axis", "split", "license", "redistribution")
REGION_KEYS = ("category", "label", "body_region")


class Tally:
    """Images and regions of a source by each key; an image counts once for each label it shows."""

    def __init__(self, labels: LabelTable) -> None:
        self.labels = labels
        self.images = self.regions = 0
        self.by_images: dict[str, Counter[str]] = {key: Counter() for key in (*IMAGE_KEYS, *REGION_KEYS, "status")}
        self.by_regions: dict[str, Counter[str]] = {key: Counter() for key in self.by_images}
        self.subjects: dict[str, set[tuple[str, str]]] = {split: set() for split in SPLITS}
        self.cases: set[tuple[str, str]] = set()

    def add(self, page: Page, status: str) -> None:
        """Counts one page; `status` is that of the source's manifest."""
        images = page.images
        per_image = np.bincount(page.image_of, minlength=len(images))
        self.images += len(images)
        self.regions += len(page.regions)
        for key in IMAGE_KEYS:
            self.count(key, images[key].combine_chunks(), per_image)
        self.count("status", pa.repeat(status, len(images)).dictionary_encode(), per_image)
        self.count_labels(page)
        self.cases.update((source, case) for source, case in distinct(images, "source", "case"))
        for split, source, subject in distinct(images, "split", "source", "subject"):
            self.subjects[split].add((source, subject))

    def count(self, key: str, values: pa.DictionaryArray, regions: Any) -> None:
        """Counts images under their values."""
        codes, names = values.indices.to_numpy(), values.dictionary.to_pylist()
        for counter, weights in ((self.by_images, None), (self.by_regions, regions)):
            totals = np.bincount(codes, weights, len(names))
            counter[key].update({name: int(n) for name, n in zip(names, totals, strict=True) if n})

    def count_labels(self, page: Page) -> None:
        """Counts regions, and the images that show them, under label, category and body region."""
        shown = seen(page, self.labels)
        regions = np.bincount(array(page.regions, "label_id"), minlength=self.labels.width)
        for key in REGION_KEYS:
            names = np.array(getattr(self.labels, key).to_pylist(), object)
            for name in sorted(set(names[regions > 0])):
                self.by_images[key][name] += int(shown[:, names == name].any(axis=1).sum())
                self.by_regions[key][name] += int(regions[names == name].sum())

    def result(self) -> dict[str, Any]:
        """The counts as plain values: by key and value [images, regions]."""
        by = {key: {value: [n, self.by_regions[key][value]] for value, n in counts.items()}
              for key, counts in self.by_images.items()}  # fmt: skip
        return {"images": self.images, "regions": self.regions, "cases": len(self.cases),
                "subjects": {split: len(found) for split, found in self.subjects.items()}, "by": by}


def together(tallies: Sequence[dict[str, Any]], ledger: Ledger) -> dict[str, Any]:
    """What `stats.json` holds, of the `Tally.result` of each source."""
    by: dict[str, dict[str, dict[str, int]]] = {key: {} for key in (*IMAGE_KEYS, *REGION_KEYS, "status")}
    by["split"] = {split: {"images": 0, "regions": 0} for split in SPLITS}  # an empty split is shown too
    for tally in tallies:
        for key, counts in tally["by"].items():
            for value, (images, regions) in counts.items():
                entry = by[key].setdefault(value, {"images": 0, "regions": 0})
                entry["images"] += images
                entry["regions"] += regions
    return ledger.extra | {
        **{name: sum(tally[name] for tally in tallies) for name in ("images", "regions", "cases")},
        "subjects": {split: sum(tally["subjects"][split] for tally in tallies) for split in SPLITS},
        "by": {key: dict(sorted(counts.items())) for key, counts in by.items()},
        "books": ledger.books,
        "too_small": ledger.too_small,
    }


def distinct(images: pa.Table, *names: str) -> Iterator[tuple[str, ...]]:
    """The different rows of these columns."""
    rows = images.group_by(list(names)).aggregate([])
    return zip(*(rows[name].to_pylist() for name in names), strict=True)
