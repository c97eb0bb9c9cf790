"""Average precision of a model on a split, per modality, through pycocotools.

Each image is asked for the labels that its source annotated, present or absent; what was not annotated is not asked
for, so that nothing unknown counts as wrong.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etl.labelmap import load_ontology
from glip.data import Sample, Source, open_dataset
from glip.ground import Grounder
from glip.train import BUNDLED, label_names


def evaluate(grounder: Grounder, data: Path, split: str, *, numbers: Sequence[int] | None = None) -> dict[str, Any]:
    """{modality: {images, regions, subjects, AP, AP50}} of a split's images, or of those row numbers.

    AP is COCO's mean over IoU 0.50 … 0.95 and over labels.
    """
    names = label_names(load_ontology(BUNDLED / "label_maps"))
    source = open_dataset(data, split, labels=names)
    ids = {name: n for n, name in enumerate(names, 1)}
    by_modality: dict[str, list[int]] = {}
    for n in range(len(source.rows)) if numbers is None else numbers:
        if source.rows[n].modality in grounder.modalities:
            by_modality.setdefault(source.rows[n].modality, []).append(n)
    out: dict[str, Any] = {}
    for modality, rows in sorted(by_modality.items()):
        truth, found = _collected(grounder, source, rows, ids)
        subjects = {source.rows[n].subject for n in rows}
        scores = average_precision(truth, found)
        out[modality] = {"images": len(rows), "subjects": len(subjects), "regions": len(truth["annotations"]), **scores}
    return out


def _collected(
    grounder: Grounder, source: Source, rows: Sequence[int], ids: dict[str, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The annotations as a COCO dictionary and the detections as COCO results."""
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [], "info": {}}
    found: list[dict[str, Any]] = []
    used: set[int] = set()
    for number in rows:
        sample = source.read(number)
        truth["images"].append({"id": number, "width": sample.image.shape[1], "height": sample.image.shape[0]})
        asked = _asked(sample)
        for r in sample.regions:
            truth["annotations"].append({
                "id": len(truth["annotations"]) + 1, "image_id": number, "category_id": ids[r.label],
                "bbox": list(r.box), "area": r.box[2] * r.box[3], "iscrowd": 0,
            })  # fmt: skip
        used.update(ids[name] for name in asked)
        for b in grounder.ground(sample.image, asked, modality=sample.modality):
            found.append({"image_id": number, "category_id": ids[b.phrase], "bbox": list(b.bbox), "score": b.score})
    truth["categories"] = [{"id": i, "name": str(i)} for i in sorted(used)]
    return truth, found


def _asked(sample: Sample) -> tuple[str, ...]:
    return tuple(sorted({r.label for r in sample.regions} | set(sample.absent)))


def average_precision(truth: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, float]:
    """{AP, AP50} of COCO results against a COCO dictionary; 0 without a detection, NaN without an annotation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not truth["annotations"]:
        return {"AP": float("nan"), "AP50": float("nan")}
    if not found:
        return {"AP": 0.0, "AP50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        scored = COCOeval(coco, coco.loadRes(found), "bbox")
        scored.evaluate()
        scored.accumulate()
    precision = scored.eval["precision"][:, :, :, 0, 2]
    precision = np.where(precision < 0, np.nan, precision)  # labels without an annotation
    return {"AP": float(np.nanmean(precision)), "AP50": float(np.nanmean(precision[0]))}
