"""Parts of a dataset as small datasets of their own: what one run trains on, and what all runs are tested on.

A selection is a folder that everything reads as it reads a built dataset: Parquet shards with the pictures, and COCO
annotations of the labels. Image ids stay those of the whole dataset.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from etl.errors import Failure, UsageError
from etl.evaluation.detections import read_json
from etl.labels.maps import load_ontology
from etl.store import TableFile, write_bytes, write_json
from etl.store import read_json as stored
from glip.experiment.protocol import Amount, HeldOut, Study

BUNDLED = Path(__file__).resolve().parents[2]
ROWS = 200
"""Rows read and written at a time."""
NEGATIVES = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which images, and which of their labels; `split` is what the part is called in the selection."""

    split: str
    subjects: dict[str, dict[str, tuple[str, ...]]]
    """Source → split of the dataset → subjects."""
    only: tuple[str, ...] = ()
    """Labels that are kept; all without any."""
    without: tuple[str, ...] = ()
    """Labels that are left out, with their regions."""

    def keeps(self, label: str) -> bool:
        """Whether a label stays."""
        return label not in self.without and (not self.only or label in self.only)


@dataclass(frozen=True, slots=True)
class Selection:
    """A written selection."""

    folder: Path
    split: str
    about: dict[str, Any]
    """`digest` (of all it holds but pixels), `images`, `subjects`, `regions`, `modalities`."""

    @property
    def truth(self) -> Path:
        """Its COCO annotations at the level of labels."""
        return self.folder / "dataset" / "annotations" / f"{self.split}.labels.json"


def people(data: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Source → split → subject → number of images, of a built dataset; Failure where there is none."""
    out: dict[str, dict[str, dict[str, int]]] = {}
    for path in _shards(data):
        columns = pq.read_table(path, columns=["source", "split", "subject"]).to_pydict()
        for source, split, subject in zip(columns["source"], columns["split"], columns["subject"], strict=True):
            subjects = out.setdefault(source, {}).setdefault(split, {})
            subjects[subject] = subjects.get(subject, 0) + 1
    if not out:
        raise Failure(f"{data}: no shards with images; run `medglip-etl build` first")
    return out


def training(study: Study, amount: Amount, seed: int, known: dict[str, Any]) -> Chosen | None:
    """What a run trains on: of each source the first subjects of an order that only the seed decides.

    So smaller amounts are parts of larger ones. None for nothing; UsageError for a source without training images.
    """
    subjects: dict[str, dict[str, tuple[str, ...]]] = {}
    for source in study.train:
        there = _splits(source, known).get("train", {})
        if not there:
            raise UsageError(f"source {source}: it has no images in the split train; {_has(source, known)}")
        order = sorted(there, key=lambda s: hashlib.sha256(f"{seed}/{source}/{s}".encode()).digest())
        subjects[source] = {"train": tuple(sorted(order[: amount.of(len(order))]))}
    if not any(part["train"] for part in subjects.values()):
        return None
    return Chosen("train", subjects, without=study.without_labels)


def testing(test: HeldOut, known: dict[str, Any]) -> Chosen:
    """What is tested on; UsageError for a source without an image in the splits."""
    subjects: dict[str, dict[str, tuple[str, ...]]] = {}
    for source in test.sources:
        there = _splits(source, known)
        splits = list(there) if test.whole else [s for s in test.splits if there.get(s)][:1]
        if not splits:
            raise UsageError(f"source {source}: no images in {' or '.join(test.splits)}; {_has(source, known)}")
        subjects[source] = {split: tuple(sorted(there[split])) for split in sorted(splits)}
    return Chosen("test", subjects, only=test.labels)


def shared(one: Chosen, other: Chosen) -> list[str]:
    """`source/subject` of those that are in both."""

    def names(chosen: Chosen) -> set[str]:
        return {f"{source}/{s}" for source, parts in chosen.subjects.items() for p in parts.values() for s in p}

    return sorted(names(one) & names(other))


def _splits(source: str, known: dict[str, Any]) -> dict[str, dict[str, int]]:
    if source not in known:
        raise UsageError(f"source {source}: it is not in this dataset, which has {', '.join(sorted(known))}")
    return dict(known[source])


def _has(source: str, known: dict[str, Any]) -> str:
    return "it has " + ", ".join(f"{sum(n.values())} in {split}" for split, n in sorted(known[source].items()))


def written(data: Path, chosen: Chosen, below: Path) -> Selection:
    """The selection on disk, in a folder named after what is chosen; one that is there already is not written again.

    It is there whole or not at all, also when several processes write it at once.
    """
    name = hashlib.sha256(orjson.dumps([chosen.split, chosen.subjects, chosen.only, chosen.without])).hexdigest()[:16]
    folder = below / f"{chosen.split}-{name}"
    if not folder.is_dir():
        temporary = below / f".{folder.name}.{uuid.uuid4().hex}"
        try:
            _write(data, chosen, temporary)
            with contextlib.suppress(OSError):  # another process was first
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Selection(folder, chosen.split, stored(folder / "selection.json"))


def _write(data: Path, chosen: Chosen, folder: Path) -> None:
    ids, modalities = _write_shards(data, chosen, folder)
    if not ids:
        raise Failure(f"{data}: nothing to {chosen.split} on is left of {', '.join(chosen.subjects)}")
    counts = _write_annotations(data, chosen, folder, ids)
    named = {"subjects": chosen.subjects, "only": chosen.only, "without": chosen.without}
    write_json(folder / "selection.json", counts | {"modalities": modalities, "chosen": named})


def _write_shards(data: Path, chosen: Chosen, folder: Path) -> tuple[set[int], list[str]]:
    """Copies the rows; (image ids, modalities)."""
    names = {label.id: name for name, label in load_ontology(BUNDLED / "label_maps").labels.items()}
    ids: set[int] = set()
    files: dict[str, TableFile] = {}
    waiting: dict[str, list[dict[str, Any]]] = {}
    for path in _shards(data):
        shards = pq.ParquetFile(path)
        for row in _rows(shards, chosen):
            kept = _trimmed(row, chosen, names)
            if not kept["regions"] and not kept["absent_label_ids"]:
                continue  # nothing is known of any label that stays
            ids.add(row["image_id"])
            modality = row["modality"]
            target = folder / "dataset" / "shards" / chosen.split / modality / "part-00000.parquet"
            if modality not in files:
                files[modality] = TableFile(target, shards.schema_arrow, packed=True)
            waiting.setdefault(modality, []).append(kept)
            if len(waiting[modality]) == ROWS:
                files[modality].write(waiting.pop(modality))
    for modality, file in files.items():
        file.write(waiting.get(modality, []))
        file.commit()
    return ids, sorted(files)


def _shards(data: Path) -> list[Path]:
    return sorted((data / "dataset" / "shards").glob("*/*/*.parquet"))


def _rows(shards: pq.ParquetFile, chosen: Chosen) -> Iterator[dict[str, Any]]:
    """The rows of the chosen subjects; pictures of others are not read into Python."""
    wanted = {(source, split, s) for source, parts in chosen.subjects.items() for split, p in parts.items() for s in p}
    for batch in shards.iter_batches(batch_size=ROWS):
        who = zip(*(batch[name].to_pylist() for name in ("source", "split", "subject")), strict=True)
        mine = [n for n, key in enumerate(who) if key in wanted]
        yield from batch.take(pa.array(mine, pa.int64())).to_pylist()


def _trimmed(row: dict[str, Any], chosen: Chosen, names: dict[int, str]) -> dict[str, Any]:
    """The row in the selection's split, with the labels that stay."""
    regions = [region for region in row["regions"] if chosen.keeps(region["label"])]
    ids = {key: [i for i in row[key] if chosen.keeps(names[i])] for key in ("annotated_label_ids", "absent_label_ids")}
    caption = ". ".join(dict.fromkeys(region["phrase"] for region in regions))
    return row | ids | {"split": chosen.split, "regions": regions, "caption": caption}


def _write_annotations(data: Path, chosen: Chosen, folder: Path, ids: set[int]) -> dict[str, Any]:
    """The COCO annotations of these images; counts and the digest of the file."""
    merged: dict[str, Any] = {"images": [], "annotations": []}
    for split in sorted({split for parts in chosen.subjects.values() for split in parts}):
        content, _ = read_json(data / "dataset" / "annotations" / f"{split}.labels.json")
        stays = {c["id"] for c in content["categories"] if chosen.keeps(c["name"])}
        for image in content["images"]:
            if image["id"] in ids:
                known = {key: [i for i in image[key] if i in stays] for key in NEGATIVES}
                merged["images"].append(image | known)
        merged["annotations"] += [
            row for row in content["annotations"] if row["image_id"] in ids and row["category_id"] in stays
        ]
        merged |= {key: content[key] for key in ("categories", "licenses", "info")}
    found = {image["id"] for image in merged["images"]}
    if found != ids:
        raise Failure(f"{data}: shards and annotations are not of one build: {len(found ^ ids)} images differ")
    text = orjson.dumps(merged)
    write_bytes(folder / "dataset" / "annotations" / f"{chosen.split}.labels.json", text)
    subjects = {(image["source"], image["subject"]) for image in merged["images"]}
    return {"digest": hashlib.sha256(text).hexdigest(), "images": len(ids), "subjects": len(subjects),
            "regions": len(merged["annotations"])}  # fmt: skip
