"""The numbers of a dataset, counted page by page."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from etl.coco import seen
from etl.labeltable import LabelTable
from etl.records import SPLITS, Ledger, Page, array

IMAGE_KEYS = ("modality", "source", "axis", "split", "license", "redistribution")
REGION_KEYS = ("category", "label", "body_region")


class Tally:
    """Images and regions by each key; an image counts once for each label it shows."""

    def __init__(self, labels: LabelTable) -> None:
        self.labels = labels
        self.images = self.regions = 0
        self.by_images: dict[str, Counter[str]] = {key: Counter() for key in (*IMAGE_KEYS, *REGION_KEYS, "status")}
        self.by_regions: dict[str, Counter[str]] = {key: Counter() for key in self.by_images}
        self.subjects: dict[str, set[tuple[str, str]]] = {split: set() for split in SPLITS}
        self.cases: set[tuple[str, str]] = set()

    def add(self, page: Page, status: Mapping[str, str]) -> None:
        """Counts one page; `status` is that of each source's manifest."""
        images = page.images
        per_image = np.bincount(page.image_of, minlength=len(images))
        self.images += len(images)
        self.regions += len(page.regions)
        for key in IMAGE_KEYS:
            self.count(key, images[key].combine_chunks(), per_image)
        sources = images["source"].combine_chunks()
        by_status = pa.array([status.get(slug, "unverified") for slug in sources.dictionary.to_pylist()], pa.string())
        self.count("status", by_status.take(sources.indices).dictionary_encode(), per_image)
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

    def result(self, ledger: Ledger) -> dict[str, Any]:
        """What `stats.json` holds."""
        for split in SPLITS:
            self.by_images["split"][split] += 0  # an empty split is shown too
        by = {
            key: {v: {"images": counts[v], "regions": self.by_regions[key][v]} for v in sorted(counts)}
            for key, counts in self.by_images.items()
        }
        return ledger.extra | {
            "images": self.images,
            "regions": self.regions,
            "cases": len(self.cases),
            "subjects": {split: len(self.subjects[split]) for split in SPLITS},
            "by": by,
            "books": ledger.books,
            "too_small": ledger.too_small,
        }


def distinct(images: pa.Table, *names: str) -> Iterator[tuple[str, ...]]:
    """The different rows of these columns."""
    rows = images.group_by(list(names)).aggregate([])
    return zip(*(rows[name].to_pylist() for name in names), strict=True)
