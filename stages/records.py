"""From the tables and pixels of a source to the image records that `export` writes, in key order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from etl import geometry
from etl.inventory import Case
from etl.labelmap import Mapping, Ontology
from etl.manifest import Manifest
from etl.records import ImageRecord, RegionRecord
from etl.results import Result
from stages.plan import Options, Work
from stages.select import Slice

At = tuple[str, int]  # axis, index
FOUND = ["case", "axis", "slice_index", "raw_label", "n", "rle"]


@dataclass(frozen=True, slots=True)
class Naming:
    """What turns raw labels into labels: the map of the source and the ontology."""

    mapping: dict[str, Mapping]
    ontology: Ontology

    def known(self) -> dict[str, str]:
        """Raw label -> label, of every entry that is not rejected."""
        return {raw: m.label for raw, m in self.mapping.items() if m.label and m.status != "rejected"}


def kept_regions(work: Work, options: Options) -> pd.DataFrame:
    """The regions that came through all stages."""
    return pd.read_parquet(options.stage("bbox", work.slug) / "regions.parquet")


def records(
    work: Work, results: list[Result], kept: pd.DataFrame, naming: Naming, *, splits: dict[tuple[str, str], str],
    left_out: frozenset[Slice],
) -> Iterator[ImageRecord]:
    """The image records of a source in key order; the pixels of one batch of cases are in memory at a time."""
    by_case = {str(case): frame for case, frame in kept.groupby("case", sort=False)}
    images = [
        (image, result, case)
        for result, case in zip(results, work.cases, strict=True)
        for image in result.images
        if image["case"] in by_case
    ]
    batch = _OpenBatch()
    for image, result, case in sorted(images, key=lambda x: f"{x[0]['case']}/"):
        maker = _Maker(work.manifest, case, image, naming, splits[work.slug, case.case])
        found, pixels = batch.rows(result, image["case"])
        groups = _by_slice(by_case[image["case"]].to_dict("records"))
        for at in sorted(groups, key=lambda k: f"{k[0]}/{k[1]}"):
            if (image["case"], *at) not in left_out:
                yield maker.record(at, groups[at], found[at], pixels[at][0]["png"])


def annotated(manifest: Manifest, case: Case) -> list[str]:
    """The raw labels that the source says it annotated in a case, with the unions of them."""
    names = set() if manifest.annotates == "all" else set(manifest.annotates)
    for mask in case.masks:
        rule = manifest.files[mask.rule]
        labels = manifest.rule_labels(rule)
        if mask.label is not None and rule.kind == "file_per_label":
            names |= {labels[mask.label]} if mask.label in labels else set()
        elif manifest.annotates == "all":
            names |= set(labels.values())
    return sorted(names | {d for d, parts in manifest.derive.items() if set(parts) <= names})


class _OpenBatch:
    """The tables of the batch read last: neighbouring cases are mostly in one."""

    def __init__(self) -> None:
        self._batch: object = None
        self._regions = self._images = pa.table({})

    def rows(self, result: Result, case: str) -> tuple[dict[At, list[Any]], dict[At, list[Any]]]:
        """(regions, encoded slices) of an image by slice."""
        if result.batch != self._batch:
            self._batch = result.batch
            self._regions, self._images = result.table("regions", FOUND), result.table("images")
        return _by_slice(_of(self._regions, case)), _by_slice(_of(self._images, case))


def _of(table: pa.Table, case: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.filter(pa.compute.equal(table["case"], case)).to_pylist()
    return rows


def _by_slice(rows: Iterable[dict[Any, Any]]) -> dict[At, list[dict[Any, Any]]]:
    groups: dict[At, list[dict[Any, Any]]] = {}
    for row in rows:
        groups.setdefault((row["axis"], int(row["slice_index"])), []).append(row)
    return groups


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the records of one image of a case; `image` are its facts from `slice`."""

    manifest: Manifest
    case: Case
    image: dict[str, Any]
    naming: Naming
    split: str

    def record(self, at: At, kept: list[Any], found: list[Any], png: bytes) -> ImageRecord:
        axis, index = at
        case, manifest, name = self.case, self.manifest, self.image["case"]
        key = f"{manifest.slug}/{name}/{axis}/{index}"
        rle = {(r["raw_label"], r["n"]): r["rle"] for r in found}
        regions = sorted((self.region(key, r, rle[r["raw_label"], r["n"]]) for r in kept), key=lambda r: r.key)
        labels, negative, partial = self.known(found, kept)
        return ImageRecord(
            key=key, source=manifest.slug, modality=manifest.modality, case=name, subject=case.subject,
            split=self.split, axis=axis, slice_index=index, width=int(kept[0]["width"]), height=int(kept[0]["height"]),
            spacing=self.spacing(axis), image=png, license=case.facts.get("license", manifest.license.name),
            redistribution=manifest.license.redistribution, annotated_label_ids=labels, neg_label_ids=negative,
            not_exhaustive_label_ids=partial, sex=case.facts.get("sex"), age=case.facts.get("age"),
            diagnosis=case.facts.get("diagnosis"), regions=regions,
        )

    def spacing(self, axis: str) -> tuple[float, float] | None:
        """(row, column) in mm."""
        if self.image["spacing"] is None:
            return None
        i, j, k = self.image["spacing"]
        return (i, j) if axis == "native" else geometry.plane_spacing((i, j, k), axis)

    def region(self, key: str, row: dict[str, Any], rle: bytes | None) -> RegionRecord:
        label = self.naming.ontology.labels[row["label"]]
        category = self.naming.ontology.categories[label.category]
        raw = row["raw_label"]
        return RegionRecord(
            key=f"{key}/{raw}/{row['n']}", label_id=label.id, label=label.name, category_id=category.id,
            category=category.name, body_region=category.body_region, raw_label=raw, phrase=row["phrase"],
            bbox=[row["x"], row["y"], row["w"], row["h"]], area=int(row["area"]), area_fraction=row["area_fraction"],
            derived=raw in self.manifest.derive,
            segmentation=None if rle is None else {
                "size": [int(row["height"]), int(row["width"])], "counts": rle.decode()},
        )

    def known(self, found: list[Any], kept: list[Any]) -> tuple[list[int], list[int], list[int]]:
        """(annotated, negative, not exhaustive) label ids of a slice."""
        label_of = self.naming.known()
        sure = set(annotated(self.manifest, self.case)) - set(self.image.get("unsure", ()))
        labels = {label_of[raw] for raw in sure if raw in label_of}
        whole = {(r["raw_label"], r["n"]) for r in kept}
        named = [r for r in found if r["raw_label"] in label_of]
        present = {label_of[r["raw_label"]] for r in named}
        partial = {label_of[r["raw_label"]] for r in named if (r["raw_label"], r["n"]) not in whole}

        def ids(names: set[str]) -> list[int]:
            return sorted(self.naming.ontology.labels[name].id for name in names)

        return ids(labels), ids(labels - present), ids(partial)
