"""From a region of a dataset back to its source file, voxels and the patient."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from etl import geometry, store
from etl.errors import Failure, UsageError


def locate(out: Path, region: str) -> dict[str, Any]:
    """Where a region (integer id, or key) comes from.

    `voxel_box` are the first and last RAS+ voxel of the box, `patient_box_mm` their centres in RAS+ mm;
    both are null for pictures, whose box is in pixels. `sha256` is that of the image file.

    Raises:
        Failure: no dataset; UsageError: no such region.
    """
    folder = out / "dataset" / "shards"
    if not folder.is_dir():
        raise Failure(f"{folder} is not there; run `medglip-etl build` first")
    image, found = _find(folder, region)
    result = {k: image[k] for k in ("source", "case", "axis", "slice_index")}
    result |= {"region_id": found["region_id"], "key": found["key"], "bbox": [int(v) for v in found["bbox"]]}
    return result | _origin(out, image, result["bbox"])


def _find(folder: Path, region: str) -> tuple[dict[str, Any], dict[str, Any]]:
    columns = ["source", "case", "axis", "slice_index", "regions"]
    for batch in ds.dataset(folder).to_batches(columns=columns, batch_size=1000):
        for image in batch.to_pylist():
            for found in image["regions"]:
                if region in (str(found["region_id"]), found["key"]):
                    return image, found
    raise UsageError(f"no region '{region}' in this dataset; give an id or a key from its shards")


def _origin(out: Path, image: dict[str, Any], bbox: list[int]) -> dict[str, Any]:
    for path in sorted((out / "stages" / "slice" / image["source"]).glob("*.json")):
        report = store.read_json(path)
        for facts in report["images"]:
            if facts["case"] == image["case"]:
                file = Path(report["root"]) / report["files"][0]
                return {"file": str(file), "sha256": _sha256(file)} | _space(facts, image, bbox)
    raise Failure(f"the stage results of {image['source']}/{image['case']} are gone; build it again")


def _sha256(file: Path) -> str | None:
    if not file.exists():
        return None
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _space(facts: dict[str, Any], image: dict[str, Any], bbox: list[int]) -> dict[str, Any]:
    if facts["native"] or facts["affine"] is None:
        return {"voxel_box": None, "patient_box_mm": None}
    x, y, w, h = bbox
    shape, axis, index = tuple(facts["shape"]), image["axis"], image["slice_index"]
    corners = [geometry.voxel_of(shape, axis, index, r, c) for r, c in ((y, x), (y + h - 1, x + w - 1))]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    affine = np.array(facts["affine"])
    points = [(affine @ [*p, 1])[:3].round(4).tolist() for p in (low, high)]
    return {"voxel_box": [low.tolist(), high.tolist()], "patient_box_mm": points}
