"""MLRG (Liu et al., CVPR 2025): its input with regions added, and the scores of its result files.

MLRG reads text and images, no boxes: regions reach the unchanged model as a sentence before `indication_pure`, which
it encodes. `regions` (a key that its loader ignores) and `regions.npz` are for models that take boxes and features.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import Failure, UsageError
from etl.store import write_bytes, write_json
from glip.downstream.arms import Arm
from glip.downstream.inject import as_text
from glip.downstream.items import Size, read_document

COLUMNS = ("dicom_id", "labels", "report")
"""Of a result file: the anchor image, the reference, what was generated."""


def export(
    annotation: Path, arm: Arm, out: Path, *, sizes: Mapping[str, Size],
    features: Mapping[str, NDArray[np.float32]] | None = None,
) -> int:  # fmt: skip
    """Writes `annotation.json` and `regions.npz` below `out`; the number of studies with regions.

    The archive holds, by image path, `<image>/boxes` (n, 4: x1, y1, x2, y2 as shares of the sides), `<image>/scores`
    and, with `features`, `<image>/features` (n, C), all in the order of the regions in the JSON.
    """
    document = read_document(annotation)
    told, arrays = 0, dict[str, NDArray[Any]]()
    for rows in document.values():
        for row in rows:
            told += _with_regions(row, arm, sizes)
    for image, regions in sorted(arm.regions.items()):
        corners = [r.corners(sizes[image]) for r in regions]
        arrays[f"{image}/boxes"] = np.asarray(corners, np.float32).reshape(-1, 4)
        arrays[f"{image}/scores"] = np.asarray([r.score for r in regions], np.float32)
        if features is not None:
            arrays[f"{image}/features"] = features[image]
    write_json(out / "annotation.json", document)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(out / "regions.npz", buffer.getvalue())
    return told


def _with_regions(row: dict[str, Any], arm: Arm, sizes: Mapping[str, Size]) -> bool:
    """Adds the regions of the anchor and the other views to a study; whether it has any."""
    views = [*row["anchor_scan"]["image_path"], *row["auxiliary_references"]["image_path"]]
    row["regions"] = {
        image: [{"phrase": r.phrase, "bbox": list(r.bbox), "score": r.score} for r in arm.regions.get(image, ())]
        for image in views
    }
    anchor = row["anchor_scan"]["image_path"][0]
    sentence = as_text(arm.regions.get(anchor, ()), sizes.get(anchor, (1, 1)))
    if sentence:
        row["indication_pure"] = f"{sentence} {row['indication_pure']}".strip()
    return any(row["regions"].values())


def read_results(path: Path) -> tuple[list[str], list[str], list[str]]:
    """(ids, references, generated) of a result file; the first of rows with the same id, as MLRG's logger keeps it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give the result CSV that MLRG writes") from None
    if not rows or any(c not in rows[0] for c in COLUMNS):
        raise Failure(f"{path}: no result file: its columns are not {', '.join(COLUMNS)}")
    if any(row[c] is None for row in rows for c in COLUMNS):
        raise Failure(f"{path}: a row is cut off")
    first = {row["dicom_id"]: row for row in reversed(rows)}
    kept = [first[name] for name in dict.fromkeys(row["dicom_id"] for row in rows)]
    return ([r["dicom_id"] for r in kept], [r["labels"] for r in kept], [r["report"] for r in kept])
