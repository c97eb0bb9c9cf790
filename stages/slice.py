"""slice: pixels are read once; every region is measured, and slices worth it are encoded.

A unit is one case. It commits, for each image of the case, a table of regions (with RLE) and a table of
encoded slices, then its report: the report is the commit mark.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from etl import geometry, intensity, png, store
from etl.case import Loaded, load
from etl.errors import ItemError
from etl.inventory import Case
from etl.kinds import Layer
from etl.manifest import Manifest
from etl.regions import Found, regions

VERSION = 1
Array = npt.NDArray[np.generic]
CT_WINDOW = (40.0, 400.0)
PERCENTILE = (0.5, 99.5)
REGIONS = pa.schema(
    [("case", pa.string()), ("axis", pa.string()), ("slice_index", pa.int32()), ("raw_label", pa.string()),
     ("n", pa.int32()), ("defined", pa.bool_()), ("height", pa.int32()), ("width", pa.int32()), ("x", pa.int32()),
     ("y", pa.int32()), ("w", pa.int32()), ("h", pa.int32()), ("area", pa.int64()), ("rle", pa.binary())]
)
IMAGES = pa.schema([("case", pa.string()), ("axis", pa.string()), ("slice_index", pa.int32()), ("png", pa.binary())])


@dataclass(frozen=True, slots=True)
class SliceParams:
    """What changes the pixels and regions of a unit."""

    axes: tuple[str, ...] = geometry.AXES
    stride: int = 1
    min_side: int = 32


@dataclass(frozen=True, slots=True)
class Unit:
    """One case to slice: `folder` takes the results, `key` names them."""

    case: Case
    manifest: Manifest
    root: Path
    folder: Path
    key: str
    params: SliceParams
    encode_from: float


def unit_key(case: Case, manifest: Manifest, root: Path, params: SliceParams) -> str:
    """The key of a case's result: its files (path, size, time) and the settings that matter for it."""
    files = [case.image, *(m.path for m in case.masks)]
    prints = [(f, s.st_size, s.st_mtime_ns) for f, s in ((f, (root / f).stat()) for f in files)]
    used = manifest.model_dump(
        mode="json",
        include={"slug", "modality", "labels", "components", "derive", "view", "channels", "third_axis", "fourth_axis"},
    )
    rules = [[m.path, m.label, manifest.files[m.rule].model_dump(mode="json", exclude={"split", "subject"})]
             for m in case.masks]
    return store.digest([VERSION, case.case, prints, used, rules, asdict(params)])


def done(folder: Path, key: str, encode_from: float) -> dict[str, Any] | None:
    """The committed report of a unit, if it encoded at least what is asked for."""
    report: dict[str, Any] | None = store.read_json(folder / f"{key}.json")
    return report if report is not None and report["encode_from"] <= encode_from else None


def run(unit: Unit) -> dict[str, Any]:
    """Slice one case and commit; returns its report. A fault of the case becomes a quarantine row."""
    report: dict[str, Any] = {"case": unit.case.case, "encode_from": unit.encode_from, "images": [], "rejected": []}
    found: list[dict[str, Any]] = []
    encoded: list[dict[str, Any]] = []
    try:
        for loaded in load(unit.case, unit.manifest, unit.root):
            report["images"].append(_cut(loaded, unit, found, encoded, report["rejected"]))
    except ItemError as error:
        found, encoded, report["images"] = [], [], []
        report["rejected"] = [_reject(unit.case.case, ItemError(error.reason, f"{unit.case.image}: {error.detail}"))]
    except Exception as error:  # one bad file never stops a build
        found, encoded, report["images"] = [], [], []
        report["rejected"] = [_reject(unit.case.case, ItemError("unreadable", f"{type(error).__name__}: {error}"))]
    report["root"] = str(unit.root.resolve())
    report["files"] = [unit.case.image, *(m.path for m in unit.case.masks)]
    store.write_table(unit.folder / f"{unit.key}.regions.parquet", pa.Table.from_pylist(found, REGIONS))
    store.write_table(unit.folder / f"{unit.key}.images.parquet", pa.Table.from_pylist(encoded, IMAGES))
    store.write_json(unit.folder / f"{unit.key}.json", report)
    return report


def lost(unit: Unit) -> None:
    """Commit the report of a case that killed its workers."""
    row = _reject(unit.case.case, ItemError("worker_lost", "the worker process died on this case each time"))
    report = {"case": unit.case.case, "encode_from": unit.encode_from, "images": [], "rejected": [row]}
    store.write_table(unit.folder / f"{unit.key}.regions.parquet", REGIONS.empty_table())
    store.write_table(unit.folder / f"{unit.key}.images.parquet", IMAGES.empty_table())
    store.write_json(unit.folder / f"{unit.key}.json", report)


def _reject(case: str, error: ItemError, axis: str | None = None) -> dict[str, Any]:
    stage = "decode" if axis is None else "slice"
    return {"case": case, "axis": axis, "stage": stage, "reason": error.reason, "detail": error.detail}


def _cut(loaded: Loaded, unit: Unit, found: list[Any], encoded: list[Any], rejected: list[Any]) -> dict[str, Any]:
    """Cut one loaded image along its axes; fills the tables and returns the image's facts."""
    seen: Counter[str] = Counter()
    bounds = _bounds(loaded, unit.manifest)
    before = len(found)
    for axis in _axes(loaded, unit, rejected):
        for index in range(0, _count(loaded, axis), unit.params.stride if axis != "native" else 1):
            rows = list(_measure(loaded, axis, index, unit.manifest))
            seen["slices"] += 1
            seen["background"] += not rows
            found.extend(rows)
            if any(r["defined"] and r["area"] >= unit.encode_from * r["width"] * r["height"] for r in rows):
                image = _image(_plane(loaded, axis, index), bounds)
                key = {"case": loaded.case, "axis": axis, "slice_index": index}
                encoded.append({**key, "png": png.encode(image)})
    if len(found) == before and not any(r["case"] == loaded.case for r in rejected):
        rejected.append(_reject(loaded.case, ItemError("empty_mask", "no pixel of the annotation is set")))
    return {
        "case": loaded.case, "slices": seen["slices"], "background": seen["background"],
        "spacing": loaded.spacing, "tilt": round(loaded.tilt, 4), "native": loaded.native,
        "affine": None if loaded.affine is None else np.asarray(loaded.affine, float).tolist(),
        "shape": list(loaded.frames[0].shape if loaded.volume is None else loaded.volume.shape),
        "annotated": _annotated(unit),
    }


def _annotated(unit: Unit) -> list[str]:
    """Raw labels the source annotated in this case."""
    manifest = unit.manifest
    if manifest.annotates != "all":
        return sorted(manifest.annotates)
    names = set()
    for mask in unit.case.masks:
        if mask.label is not None and mask.label in manifest.labels:
            names.add(manifest.labels[mask.label])
        elif mask.label is None:
            names |= set(manifest.labels.values())
    return sorted(names | {d for d, parts in manifest.derive.items() if set(parts) <= names})


def _axes(loaded: Loaded, unit: Unit, rejected: list[Any]) -> Iterator[str]:
    """The axes to cut; one that would give slivers is put on record."""
    if loaded.volume is None:
        yield "native"
        return
    flat = geometry.flat_axis(loaded.volume.shape)
    view = unit.manifest.view.axes if unit.manifest.view and unit.manifest.view.axes else geometry.AXES
    for axis in (flat,) if flat else geometry.AXES:
        if not flat and (axis not in unit.params.axes or axis not in view):
            continue
        _, height, width = geometry.plane_size(loaded.volume.shape, axis)
        if not flat and min(height, width) < unit.params.min_side:
            detail = f"{axis} slices would be {width}x{height}, under --min-side {unit.params.min_side}"
            rejected.append(_reject(loaded.case, ItemError("low_quality", detail), axis))
            continue
        yield axis


def _count(loaded: Loaded, axis: str) -> int:
    return len(loaded.frames) if loaded.volume is None else geometry.plane_size(loaded.volume.shape, axis)[0]


def _plane(loaded: Loaded, axis: str, index: int) -> Array:
    return loaded.frames[index] if loaded.volume is None else geometry.plane(loaded.volume, axis, index)


def _measure(loaded: Loaded, axis: str, index: int, manifest: Manifest) -> Iterator[dict[str, Any]]:
    counts: Counter[str] = Counter()
    for layer in loaded.layers:
        plane = layer.array[..., index] if axis == "native" else geometry.plane(layer.array, axis, index)
        for region in regions(plane, _split(layer, manifest)):
            raw = layer.names.get(region.value)
            name = raw if raw is not None else str(region.value)
            yield _row(loaded.case, axis, index, name, counts[name], raw is not None, plane.shape, region)
            counts[name] += 1


def _row(case: str, axis: str, index: int, name: str, n: int, defined: bool, shape: tuple[int, ...],
         r: Found) -> dict[str, Any]:
    return {"case": case, "axis": axis, "slice_index": index, "raw_label": name, "n": n, "defined": defined,
            "height": shape[0], "width": shape[1], "x": r.x, "y": r.y, "w": r.width, "h": r.height,
            "area": r.area, "rle": r.rle}


def _split(layer: Layer, manifest: Manifest) -> frozenset[int]:
    if manifest.components == "all":
        return frozenset(layer.names)
    return frozenset(v for v, raw in layer.names.items() if raw in manifest.components)


def _bounds(loaded: Loaded, manifest: Manifest) -> tuple[float, float] | None:
    """The grey window of an image; None where 8-bit values stay as they are."""
    array = loaded.volume if loaded.volume is not None else np.stack(loaded.frames)
    view = manifest.view
    if view and view.window and not isinstance(view.window, str):
        return intensity.window_bounds(view.window.center, view.window.width)
    if view and view.percentile:
        return intensity.percentile_bounds(array, *view.percentile)
    if array.dtype == np.uint8:
        return None
    if view and view.window == "none":
        raise ItemError("unsupported", f"view.window is none, but the image is {array.dtype}, not 8 bit")
    if manifest.modality == "ct" and loaded.volume is not None:
        return intensity.window_bounds(*CT_WINDOW)
    return intensity.percentile_bounds(array, *PERCENTILE)


def _image(plane: Array, bounds: tuple[float, float] | None) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(plane, dtype=np.uint8) if bounds is None else intensity.to_uint8(plane, bounds)
