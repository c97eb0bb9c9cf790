"""The flags of the images of a source: what the checks say of the facts noted by `slice` and of the regions."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa

from etl.quality import checks
from etl.release.records import Page
from etl.results import Result
from stages.plan import Options, Work
from stages.records import Naming
from stages.select import SLICE, Slice
from stages.tables import regions_of

EXAMPLES = 20  # of each flag that the numbers of a dataset show


def plain(regions: pa.Table) -> pd.DataFrame:
    """A region table for pandas, names as text."""
    text = [pa.field(f.name, pa.string()) if pa.types.is_dictionary(f.type) else f for f in regions.schema]
    frame: pd.DataFrame = regions.cast(pa.schema(text)).to_pandas()
    return frame


@dataclass(slots=True)
class Flags:
    """Flags with their evidence, by case and by image."""

    cases: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    images: dict[tuple[str, str, int], dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def of(self, case: str, axis: str, index: int) -> list[str]:
        """The flags of an image, sorted."""
        return sorted({*self.cases.get(case, ()), *self.images.get((case, axis, index), ())})

    def on(self, page: Page) -> Page:
        """A page with the flags of its images."""
        at = zip(*(page.images[name].to_pylist() for name in SLICE), strict=True)
        found = pa.array([self.of(*place) for place in at], pa.list_(pa.string()))
        number = page.images.schema.get_field_index("flags")
        return Page(page.images.set_column(number, "flags", found), page.regions)


def flags(
    work: Work, results: list[Result], kept: pa.Table, names: Naming, options: Options
) -> Flags:
    """What is to be said of a source whose `kept` regions came through all stages."""
    found, modality = Flags(), work.manifest.modality
    for facts in (image for result in results for image in result.images):
        for name, evidence in checks.of_image(facts["seen"]):
            found.cases[facts["case"]].setdefault(name, evidence)
    regions = plain(regions_of("validate", work, options))
    regions["label"] = regions["raw_label"].map(names.labels())
    several = work.manifest.components
    regions["several"] = True if several == "all" else regions["raw_label"].isin(several)
    labelled = regions[regions["label"].notna()]
    for case, (name, evidence) in checks.of_regions(labelled, names.ontology, modality, options.slicing.stride):
        found.cases[case].setdefault(name, evidence)
    for place, (name, evidence) in checks.of_slices(plain(kept)):
        found.images[place][name] = evidence
    return found


class Summary:
    """Adds up the flags of all sources for the numbers of a dataset."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._examples: dict[str, list[dict[str, str]]] = defaultdict(list)

    def add(self, slug: str, found: Flags, places: frozenset[Slice]) -> None:
        """Enters a source; `places` are its exported images."""
        cases = {case for case, _, _ in places}
        for case, axis, index in places:
            for name in found.of(case, axis, index):
                self._counts[name][slug] += 1
        told = [(name, case, text) for case in cases for name, text in found.cases.get(case, {}).items()]
        told += [(name, f"{c}/{a}/{i}", text) for c, a, i in places
                 for name, text in found.images.get((c, a, i), {}).items()]  # fmt: skip
        for name, where, text in sorted(told):
            if len(self._examples[name]) < EXAMPLES:
                self._examples[name].append({"where": f"{slug}/{where}", "evidence": text})

    def state(self) -> dict[str, Any]:
        """The counts and examples as plain values."""
        return {"counts": self._counts, "examples": self._examples}

    def join(self, state: dict[str, Any]) -> None:
        """Enters those of another."""
        for name, counts in state["counts"].items():
            self._counts[name].update(counts)
        for name, told in state["examples"].items():
            self._examples[name] += told[: EXAMPLES - len(self._examples[name])]

    def result(self) -> dict[str, object]:
        """`{flag: {tier, level, images: {source: n}, examples: [{where, evidence}]}}`, every check there is."""
        return {
            name: {"tier": check.tier, "level": check.level, "images": dict(sorted(self._counts[name].items())),
                   "examples": self._examples[name]}
            for name, check in checks.CHECKS.items()
        }  # fmt: skip
