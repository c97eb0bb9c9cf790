"""From the tables and pixels of a source to the pages of images that `export` writes, in key order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from etl.frames import numbers_by_name
from etl.labels.maps import Mapping, Ontology
from etl.manifests.manifest import Manifest
from etl.pixels import geometry
from etl.release.jsontext import joined
from etl.release.records import IMAGES, REGIONS, Page, array, id_lists
from etl.results import Result, by_batch, open_part, part_size
from etl.sources.inventory import Case
from stages.plan import Work
from stages.select import Slice

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]  # (rows, label ids)
PAGE_IMAGES = 8192
PAGE_BYTES = 64 * 2**20
AXES = sorted((*geometry.AXES, "native"))
FACTS = ("sex", "age", "diagnosis", "scanner", "contrast_phase")


@dataclass(frozen=True, slots=True)
class Naming:
    """What turns raw labels into labels: the map of the source and the ontology."""

    mapping: dict[str, Mapping]
    ontology: Ontology
    accept_proposed: bool = False

    def ids(self) -> dict[str, int]:
        """Raw label -> label id, of every entry that is not rejected."""
        named = {raw: m.label for raw, m in self.mapping.items() if m.label and m.status != "rejected"}
        return {raw: self.ontology.labels[label].id for raw, label in named.items()}

    def labels(self) -> dict[str, str]:
        """Raw label -> label, of the entries that reach the dataset."""
        found = ((raw, m.used(accept_proposed=self.accept_proposed)) for raw, m in self.mapping.items())
        return {raw: label for raw, label in found if label is not None}

    def used(self) -> dict[str, int]:
        """Raw label -> label id, of the entries that reach the dataset."""
        return {raw: self.ontology.labels[label].id for raw, label in self.labels().items()}

    @property
    def width(self) -> int:
        """One more than the largest label id."""
        return 1 + max(label.id for label in self.ontology.labels.values())


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


def pages(
    work: Work, results: list[Result], kept: pa.Table, found: pa.Table, naming: Naming, *,
    splits: dict[tuple[str, str], str], left_out: frozenset[Slice],
) -> Iterator[Page]:
    """The images with regions `kept` by the stages, of all those `found`, as pages of bounded size."""
    cases = _Cases.of(work, results, set(kept["case"].unique().to_pylist()), naming, splits)
    places = _Places(cases.number, 1 + (pc.max(found["slice_index"]).as_py() or 0))
    code = places.codes(kept)
    if left_out:
        stays = np.isin(code, places.codes_of(left_out), invert=True)
        kept, code = kept.filter(pa.array(stays)), code[stays]
    order = np.lexsort((_rank(kept), code))
    kept, code = kept.take(pa.array(order)), code[order]
    images, first = np.unique(code, return_index=True)
    labels = _Labels.of(found, places.codes(found), images, _ids(kept), naming)
    batches = list(by_batch(results))
    first = np.r_[first, len(code)]
    for start, stop in _cuts(array(kept, "batch")[first[:-1]], batches):
        regions = kept.slice(first[start], first[stop] - first[start])
        image = np.searchsorted(images[start:stop], code[first[start] : first[stop]])
        at = images[start:stop]
        here = regions.take(pa.array(first[start:stop] - first[start]))
        page = _images(here, cases, labels.slice(start, stop), _shown(regions, image, len(at), naming), work.manifest)
        page = page.append_column("png", _pixels(at, array(here, "batch"), batches, places))
        rle = _run_lengths(regions, batches)
        rows = _regions(regions, image, page["key"], rle, naming, work.manifest)
        yield Page(page.select(IMAGES.names).cast(IMAGES), rows)


@dataclass(frozen=True, slots=True)
class _Cases:
    """The cases of a source in key order: the number of each, its facts as columns, what is annotated in it, and of
    which labels something was lost."""

    number: dict[str, int]
    facts: pa.Table
    spacing: npt.NDArray[np.float64]  # (cases, i j k), NaN if unknown
    annotated: Flags
    lost: Flags

    @staticmethod
    def of(
        work: Work, results: list[Result], names: set[str], naming: Naming, splits: dict[tuple[str, str], str]
    ) -> _Cases:
        pairs = [(image, case) for result, case in zip(results, work.cases, strict=True) for image in result.images
                 if image["case"] in names]  # fmt: skip
        pairs.sort(key=lambda pair: f"{pair[0]['case']}/")
        terms = work.manifest.license
        columns: dict[str, list[str | None]] = {
            "case": [image["case"] for image, _ in pairs],
            "subject": [case.subject for _, case in pairs],
            "split": [splits[work.slug, case.case] for _, case in pairs],
            "license": [case.facts.get("license", terms.name) for _, case in pairs],
            "redistribution": [terms.redistribution] * len(pairs),
            **{name: [case.facts.get(name) for _, case in pairs] for name in FACTS},
        }
        spacing = np.array([image["spacing"] or [np.nan] * 3 for image, _ in pairs], float).reshape(-1, 3)
        return _Cases(
            {str(name): n for n, name in enumerate(columns["case"])},
            pa.table({name: pa.array(values, pa.string()).dictionary_encode() for name, values in columns.items()}),
            spacing, _annotated(pairs, work.manifest, naming), _lost(pairs, naming),
        )  # fmt: skip


def _annotated(pairs: list[tuple[dict[str, Any], Case]], manifest: Manifest, naming: Naming) -> Flags:
    ids, flags = naming.used(), np.zeros((len(pairs), naming.width), bool)
    known: dict[Any, list[int]] = {}
    for row, (image, case) in enumerate(pairs):
        unsure = frozenset(image.get("unsure", ()))
        key = (unsure, tuple((mask.rule, mask.label) for mask in case.masks))
        if key not in known:
            known[key] = [ids[raw] for raw in annotated(manifest, case) if raw in ids and raw not in unsure]
        flags[row, known[key]] = True
    return flags


def _lost(pairs: list[tuple[dict[str, Any], Case]], naming: Naming) -> Flags:
    ids, flags = naming.used(), np.zeros((len(pairs), naming.width), bool)
    for row, (image, _) in enumerate(pairs):
        flags[row, [ids[raw] for raw in image["lost"] if raw in ids]] = True
    return flags


class _Places:
    """Numbers slices so that they are in key order: by case, axis, and the index as text."""

    def __init__(self, cases: dict[str, int], indices: int) -> None:
        self._cases, self._axes = cases, {axis: n for n, axis in enumerate(AXES)}
        self._rank = np.argsort(np.argsort(np.array([str(n) for n in range(indices)])))

    def codes(self, table: pa.Table) -> Ints:
        """The number of each row's slice; -1 if its case is none of these."""
        case, axis = numbers_by_name(table["case"], self._cases), numbers_by_name(table["axis"], self._axes)
        index = self._rank[np.where(case < 0, 0, array(table, "slice_index"))]
        return np.where(case < 0, -1, (case << 40) | (axis << 32) | index)

    def codes_of(self, slices: Iterable[Slice]) -> list[int]:
        """The numbers of these slices."""
        return [(self._cases[c] << 40) | (self._axes[a] << 32) | int(self._rank[i]) for c, a, i in slices]


def _rank(regions: pa.Table) -> Ints:
    """The place of each region among those of its image: by raw label and number, as text."""
    raw, n = regions["raw_label"].combine_chunks(), array(regions, "n").astype(np.int64)
    pairs, pair = np.unique((raw.indices.to_numpy().astype(np.int64) << 32) | n, return_inverse=True)
    texts = [f"{raw.dictionary[int(p) >> 32].as_py()}/{int(p) & 0xFFFFFFFF}" for p in pairs]
    rank = np.empty(len(texts), np.int64)
    rank[sorted(range(len(texts)), key=texts.__getitem__)] = np.arange(len(texts))
    ranked: Ints = rank[pair]
    return ranked


def _ids(regions: pa.Table) -> Ints:
    """Which region of the source each is: batch and row."""
    ids: Ints = (array(regions, "batch").astype(np.int64) << 32) | array(regions, "row")
    return ids


def _cuts(batch: npt.NDArray[np.int32], batches: list[Path]) -> Iterator[tuple[int, int]]:
    """Ranges of images of about a page each, by their number and the mean size of the images in their batch."""
    count = np.bincount(batch, minlength=len(batches))
    mean = np.array([part_size(path, "images") / n if n else 0 for path, n in zip(batches, count, strict=True)])
    by_number, by_size = np.arange(len(batch)) // PAGE_IMAGES, (np.cumsum(mean[batch]) // PAGE_BYTES).astype(int)
    page = by_number << 32 | by_size
    starts = [0, *(np.flatnonzero(np.diff(page)) + 1).tolist(), len(batch)]
    yield from pairwise(starts)


@dataclass(frozen=True, slots=True)
class _Labels:
    """What was found in each image: rows of (image, label id, whether all of it was kept), by image."""

    image: Ints
    label: Ints
    whole: Flags
    width: int

    @staticmethod
    def of(found: pa.Table, code: Ints, images: Ints, kept: Ints, naming: Naming) -> _Labels:
        label = numbers_by_name(found["raw_label"], naming.ids())
        place = np.minimum(np.searchsorted(images, code), max(len(images) - 1, 0))
        use = (label >= 0) & (images[place] == code) if len(images) else np.zeros(len(code), bool)
        whole = np.isin(_ids(found), kept)
        order = np.argsort(place[use], kind="stable")
        return _Labels(place[use][order], label[use][order], whole[use][order], naming.width)

    def slice(self, start: int, stop: int) -> tuple[Flags, Flags]:
        """Of these images: the labels that are there, and those that were not kept whole."""
        a, b = np.searchsorted(self.image, (start, stop))
        present, partial = np.zeros((2, stop - start, self.width), bool)
        image, label, broken = self.image[a:b] - start, self.label[a:b], ~self.whole[a:b]
        present[image, label] = True
        partial[image[broken], label[broken]] = True
        return present, partial


def _shown(regions: pa.Table, image: Ints, count: int, naming: Naming) -> Flags:
    """The labels of the regions of each of `count` images; whatever the manifest says, these were annotated."""
    flags = np.zeros((count, naming.width), bool)
    numbers = {name: label.id for name, label in naming.ontology.labels.items()}
    flags[image, numbers_by_name(regions["label"], numbers)] = True
    return flags


def _images(
    here: pa.Table, cases: _Cases, labels: tuple[Flags, Flags], shown: Flags, manifest: Manifest
) -> pa.Table:
    """The images of a page but for their pixels; `here` is a region of each."""
    case = numbers_by_name(here["case"], cases.number)
    present, partial = labels
    annotated = cases.annotated[case] | shown
    lost = cases.lost[case] & annotated
    facts = cases.facts.take(pa.array(case))
    axis = here["axis"].combine_chunks().cast(pa.string())
    name, index = facts["case"].combine_chunks().cast(pa.string()), here["slice_index"].combine_chunks()
    same = {"source": manifest.slug, "modality": manifest.modality}
    return pa.table({
        **dict(zip(facts.column_names, facts.columns, strict=True)),
        **{column: pa.repeat(value, len(here)).dictionary_encode() for column, value in same.items()},
        "key": joined(f"{manifest.slug}/", name, "/", axis, "/", index.cast(pa.string())),
        "axis": here["axis"], "slice_index": index, "width": here["width"], "height": here["height"],
        "spacing": _spacing(cases.spacing[case], axis.to_numpy(zero_copy_only=False)),
        "annotated_label_ids": id_lists(annotated), "neg_label_ids": id_lists(annotated & ~present & ~lost),
        "not_exhaustive_label_ids": id_lists(partial | lost),
        "flags": pa.nulls(len(here), pa.list_(pa.string())),
    })  # fmt: skip


def _spacing(voxels: npt.NDArray[np.float64], axes: npt.NDArray[Any]) -> pa.ListArray:
    """(row, column) in mm of each image, null if unknown."""
    pairs = voxels[:, :2].copy()
    for axis in geometry.AXES:
        on = axes == axis
        i, j, k = voxels[on].T
        pairs[on] = np.stack(geometry.plane_spacing((i, j, k), axis), axis=1)
    unknown = np.isnan(pairs).any(axis=1)
    offsets = np.arange(0, 2 * len(pairs) + 1, 2, dtype=np.int32)
    values = pa.array(pairs.ravel().astype(np.float32))
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(unknown))


def _regions(
    regions: pa.Table, image: Ints, keys: pa.ChunkedArray, rle: pa.Array, naming: Naming, manifest: Manifest
) -> pa.Table:
    raw = regions["raw_label"].combine_chunks()
    numbers = {name: label.id for name, label in naming.ontology.labels.items()}
    key = keys.combine_chunks().take(pa.array(image))
    columns = {
        **{name: regions[name] for name in regions.column_names},
        "image": pa.array(image), "label_id": pa.array(numbers_by_name(regions["label"], numbers)), "rle": rle,
        "key": joined(key, "/", raw.cast(pa.string()), "/", regions["n"].combine_chunks().cast(pa.string())),
        "derived": pa.array(numbers_by_name(regions["raw_label"], dict.fromkeys(manifest.derive, 1)) > 0),
    }  # fmt: skip
    return pa.table([columns[name] for name in REGIONS.names], names=REGIONS.names).cast(REGIONS)


def _run_lengths(regions: pa.Table, batches: list[Path]) -> pa.Array:
    """The run lengths of these regions, from the batches that hold them."""
    batch, row = array(regions, "batch"), array(regions, "row")
    parts = []
    for number in np.unique(batch):
        where = np.flatnonzero(batch == number)
        column = open_part(batches[number], "regions").read(["rle"], use_threads=False)["rle"].combine_chunks()
        parts.append((where, column.take(pa.array(row[where]))))
    return _assembled(parts).cast(pa.string())


def _pixels(images: Ints, batch: npt.NDArray[np.int32], batches: list[Path], places: _Places) -> pa.Array:
    """The PNG of each image, from the batches that hold them; one row group is in memory at a time."""
    parts = []
    for number in np.unique(batch):
        where = np.flatnonzero(batch == number)
        file = open_part(batches[number], "images")
        for group in range(file.num_row_groups):
            code = places.codes(file.read_row_group(group, ["case", "axis", "slice_index"], use_threads=False))
            _, wanted, row = np.intersect1d(images[where], code, return_indices=True)
            if len(row):
                column = file.read_row_group(group, ["png"], use_threads=False)["png"].combine_chunks()
                parts.append((where[wanted], column.take(pa.array(row))))
    return _assembled(parts)


def _assembled(parts: list[tuple[npt.NDArray[np.intp], pa.Array]]) -> pa.Array:
    """Values with the place of each, in order of place."""
    order = np.argsort(np.concatenate([place for place, _ in parts]), kind="stable")
    return pa.concat_arrays([values for _, values in parts]).take(pa.array(order))
