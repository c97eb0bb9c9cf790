"""From a region of a dataset back to its source file, voxels and the patient."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from etl import store
from etl.errors import Failure, UsageError
from etl.objects import place
from etl.pixels import geometry
from etl.results import by_batch, committed, read


def locate(out: Path, region: str) -> dict[str, Any]:
    """Where a region (integer id, or key) comes from.

    `voxel_box` are the first and last RAS+ voxel of the box, `patient_box_mm` their centres in RAS+ mm;
    both are null for pictures, whose box is in pixels. `sha256` is that of the image file. For DICOM `file` is
    the file of the slice, and `files` lists every file (with SHA-256 and frame) that the box touches.

    Raises:
        Failure: no dataset; UsageError: no such region.
    """
    folder = out / "dataset" / "shards"
    if not folder.is_dir():
        raise Failure(f"{folder} is not there; run `medglip-etl build` first")
    image, found = _find(folder, region)
    result = {k: image[k] for k in ("source", "case", "axis", "slice_index")}
    result |= {"region_id": found["region_id"], "key": found["key"], "bbox": [int(v) for v in found["bbox"]]}
    return result | origin(out, image, result["bbox"])


def _find(folder: Path, region: str) -> tuple[dict[str, Any], dict[str, Any]]:
    columns = ["source", "case", "axis", "slice_index", "regions"]
    for path in sorted(folder.rglob("*.parquet")):
        file = pq.ParquetFile(store.opened(path))
        for group in range(file.num_row_groups):
            if not region.isdecimal() or _may_hold(file.metadata.row_group(group), int(region)):
                for image in file.read_row_group(group, columns).to_pylist():
                    for found in image["regions"]:
                        if region in (str(found["region_id"]), found["key"]):
                            return image, found
    raise UsageError(f"no region '{region}' in this dataset; give an id or a key from its shards")


def _may_hold(group: Any, region_id: int) -> bool:
    """Whether a row group may hold a region id, by its statistics."""
    for n in range(group.num_columns):
        column = group.column(n)
        if column.path_in_schema.startswith("regions.") and column.path_in_schema.endswith(".region_id"):
            return column.statistics is None or column.statistics.min <= region_id <= column.statistics.max
    return True


def origin(out: Path, image: dict[str, Any], bbox: list[int]) -> dict[str, Any]:
    """Where a box of an image (source, case, axis, slice_index) comes from, as `locate` says it."""
    stages, source = out / "stages", image["source"]
    keys = store.read_table(stages / "decode" / source / "cases.parquet", ["key"])["key"].to_pylist()
    results = committed(stages / "slice" / source, 1.0)
    for result in (r for members in by_batch([results[k] for k in keys if k in results]).values()
                   for r in read(members)):
        for facts in result.images:
            if facts["case"] == image["case"]:
                space = _space(facts, image, bbox)
                files = _files(place(result.root), facts, image, space["voxel_box"])
                if files:
                    return {"file": files[0]["file"], "sha256": files[0]["sha256"], "files": files} | space
                file = place(result.root) / result.files[0]
                return {"file": str(file), "sha256": _sha256(file)} | space
    raise Failure(f"the stage results of {image['source']}/{image['case']} are gone; build it again")


def _files(root: Path, facts: dict[str, Any], image: dict[str, Any], box: Any) -> list[dict[str, Any]]:
    """The DICOM files and frames under a box, in slice order; none for other formats."""
    origins = facts.get("origins")
    if origins is None:
        return []
    stacked = origins["stacked"]
    first = last = image["slice_index"]
    if stacked is not None:
        first, last = box[0][stacked], box[1][stacked]
    digests: dict[str, str | None] = {}
    found = []
    for name, frame in origins["files"][first : last + 1]:
        digest = digests.setdefault(name, None) or _sha256(root / name)
        digests[name] = digest
        found.append({"file": str(root / name), "sha256": digest, "frame": frame})
    return found


def _sha256(file: Path) -> str | None:
    return store.sha256(file) if file.exists() else None


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
