"""The numbers of a dataset, counted as it streams by."""

from collections import Counter
from typing import Any

from etl.records import SPLITS, ImageRecord, Ledger

IMAGE_KEYS = ("modality", "source", "axis", "split", "license", "redistribution")
REGION_KEYS = ("category", "label", "body_region")


class Tally:
    """Images and regions by each key; an image counts once for each label it shows."""

    def __init__(self) -> None:
        self.images = self.regions = 0
        self.by_images: dict[str, Counter[str]] = {key: Counter() for key in (*IMAGE_KEYS, *REGION_KEYS, "status")}
        self.by_regions: dict[str, Counter[str]] = {key: Counter() for key in self.by_images}
        self.subjects: dict[str, set[tuple[str, str]]] = {split: set() for split in SPLITS}
        self.cases: set[tuple[str, str]] = set()

    def add(self, record: ImageRecord, status: str) -> None:
        """Counts one image; `status` is its manifest's."""
        n = len(record.regions)
        self.images += 1
        self.regions += n
        for key in IMAGE_KEYS:
            self.count(key, getattr(record, key), n)
        self.count("status", status, n)
        for key in REGION_KEYS:
            values = Counter(str(getattr(region, key)) for region in record.regions)
            self.by_regions[key].update(values)
            self.by_images[key].update(values.keys())
        self.subjects[record.split].add((record.source, record.subject))
        self.cases.add((record.source, record.case))

    def count(self, key: str, value: str, regions: int) -> None:
        """Counts one image under a value."""
        self.by_images[key][value] += 1
        self.by_regions[key][value] += regions

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
