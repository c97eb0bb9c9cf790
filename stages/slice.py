"""slice: pixels are read once; every region is measured, and slices worth it are encoded.

A unit of work is a batch of cases: one volume, or many small images. `etl.results` says what it commits.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etl import evidence, geometry, hashes, intensity, png, store
from etl.case import Loaded, load
from etl.errors import ItemError
from etl.formats import companions
from etl.inventory import Case
from etl.kinds import Layer
from etl.manifest import Manifest
from etl.regions import Found, regions
from etl.results import BatchWriter

HEADERS = (".mhd", ".hdr", ".nhdr", ".hdr.gz")
Emit = Callable[[dict[str, Any]], None]
VERSION = 3
Array = npt.NDArray[np.generic]
CT_WINDOW = (40.0, 400.0)
PERCENTILE = (0.5, 99.5)


@dataclass(frozen=True, slots=True)
class SliceParams:
    """What changes the pixels and regions of a case."""

    axes: tuple[str, ...] = geometry.AXES
    stride: int = 1
    min_side: int = 32


@dataclass(frozen=True, slots=True)
class Unit:
    """A case, the key of its result, and the bytes of its files."""

    case: Case
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Cases of a source that are sliced together and committed together in `folder`."""

    units: tuple[Unit, ...]
    manifest: Manifest
    root: Path
    folder: Path
    params: SliceParams
    encode_from: float

    @property
    def name(self) -> str:
        """The name of its files: the same cases with the same settings have the same."""
        return store.digest([[u.key for u in self.units], self.encode_from])


def units(cases: Iterable[Case], manifest: Manifest, root: Path, params: SliceParams) -> list[Unit]:
    """Each case with its key: its files (path, size, time) and the settings that matter for it."""
    used = manifest.model_dump(
        mode="json",
        include={"slug", "modality", "labels", "components", "derive", "view", "channels", "third_axis", "fourth_axis"},
    )
    rules = [r.model_dump(mode="json", exclude={"split", "subject"}) for r in manifest.files]
    base = store.digest([VERSION, used, asdict(params)])
    found = []
    for case in cases:
        files = _files(case, root)
        prints = [(f, *_stamp(root / f)) for f in files]
        masks = [[m.path, m.label, rules[m.rule]] for m in case.masks]
        key = store.digest([base, case.case, case.image, prints, masks])
        found.append(Unit(case, key, sum(size for _, size, _ in prints)))
    return found


def _files(case: Case, root: Path) -> list[str]:
    """Every file that holds pixels of the case, also the raw data beside a header."""
    named = [case.image, *(m.path for m in case.masks)]
    beside = [str(p.relative_to(root)) for f in named if f.endswith(HEADERS) for p in _beside(root / f)]
    return list(dict.fromkeys([*named, *beside]))


def _beside(header: Path) -> list[Path]:
    try:
        return companions(header)
    except ItemError:  # the reader proper says what is wrong with it
        return []


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file; a link that leads nowhere has neither."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def run(batch: Batch) -> list[dict[str, Any]]:
    """Slice the cases of a batch and commit them together; returns a short account of each.

    A fault of a case becomes its quarantine row.
    """
    writer = BatchWriter(batch.folder, batch.name)
    try:
        accounts = [_run_case(unit, batch, writer) for unit in batch.units]
        writer.commit()
    finally:
        writer.discard()
    return accounts


def _run_case(unit: Unit, batch: Batch, writer: BatchWriter) -> dict[str, Any]:
    case = unit.case
    regions: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    encoded = Counter[str]()

    def emit(row: dict[str, Any]) -> None:
        encoded[row["case"]] += 1
        writer.image(row)

    try:
        images = [_cut(loaded, batch, regions, emit, rejected) for loaded in load(case, batch.manifest, batch.root)]
    except ItemError as error:
        named = ItemError(error.reason, f"{case.image}: {error.detail}")
        images, regions, rejected = [], [], [_reject(case.case, named)]
    except Exception as error:  # one bad file never stops a build
        detail = f"{case.image}: {type(error).__name__}: {error}"
        images, regions, rejected = [], [], [_reject(case.case, ItemError("unreadable", detail))]
    if not images and not rejected:
        rejected = [_reject(case.case, ItemError("empty_mask", f"{case.image}: nothing in it is annotated"))]
    writer.case(_row(unit, batch, images, rejected), regions)
    return {"images": sum(encoded.values()), "quarantined": len(rejected)}


def _row(unit: Unit, batch: Batch, images: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> dict[str, Any]:
    return {"key": unit.key, "case": unit.case.case, "encode_from": batch.encode_from,
            "root": str(batch.root.resolve()), "files": [unit.case.image, *(m.path for m in unit.case.masks)],
            "images": images, "rejected": rejected}


def lost(batch: Batch) -> list[dict[str, Any]]:
    """Commit the cases of a batch that killed its workers."""
    writer = BatchWriter(batch.folder, batch.name)
    for unit in batch.units:
        error = ItemError("worker_lost", f"{unit.case.image}: the worker process died on this case each time")
        writer.case(_row(unit, batch, [], [_reject(unit.case.case, error)]), [])
    writer.commit()
    return [{"images": 0, "quarantined": 1} for _ in batch.units]


def _reject(case: str, error: ItemError, axis: str | None = None) -> dict[str, Any]:
    stage = "decode" if axis is None else "slice"
    return {"case": case, "axis": axis, "stage": stage, "reason": error.reason, "detail": error.detail}


def _cut(loaded: Loaded, batch: Batch, found: list[Any], emit: Emit, rejected: list[Any]) -> dict[str, Any]:
    """Cut one loaded image along its axes; gives out its regions and encoded slices, returns its facts."""
    seen: Counter[str] = Counter()
    bounds = _bounds(loaded, batch.manifest)
    before = len(found)
    for axis in _axes(loaded, batch, rejected):
        for index in range(0, _count(loaded, axis), batch.params.stride if axis != "native" else 1):
            rows = list(_measure(loaded, axis, index, batch.manifest))
            seen["slices"] += 1
            seen["background"] += not rows
            found.extend(rows)
            if any(r["defined"] and r["area"] >= batch.encode_from * r["width"] * r["height"] for r in rows):
                image = _image(_plane(loaded, axis, index), bounds)
                emit({"case": loaded.case, "axis": axis, "slice_index": index, "png": png.encode(image),
                      **hashes.of(image)})
    if len(found) == before and not any(r["case"] == loaded.case for r in rejected):
        rejected.append(_reject(loaded.case, ItemError("empty_mask", "no pixel of the annotation is set")))
    return {
        "case": loaded.case, "slices": seen["slices"], "background": seen["background"],
        "seen": evidence.seen(loaded, batch.manifest.modality),
        "spacing": loaded.spacing, "tilt": round(loaded.tilt, 4), "native": loaded.native,
        "affine": None if loaded.affine is None else np.asarray(loaded.affine, float).tolist(),
        "shape": list(loaded.frames[0].shape if loaded.volume is None else loaded.volume.shape),
    }


def _axes(loaded: Loaded, batch: Batch, rejected: list[Any]) -> Iterator[str]:
    """The axes to cut; one that would give slivers is put on record."""
    if loaded.volume is None:
        yield "native"
        return
    flat = geometry.flat_axis(loaded.volume.shape)
    view = batch.manifest.view.axes if batch.manifest.view and batch.manifest.view.axes else geometry.AXES
    for axis in (flat,) if flat else geometry.AXES:
        if not flat and (axis not in batch.params.axes or axis not in view):
            continue
        _, height, width = geometry.plane_size(loaded.volume.shape, axis)
        if not flat and min(height, width) < batch.params.min_side:
            detail = f"{axis} slices would be {width}x{height}, under --min-side {batch.params.min_side}"
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
            yield _region(loaded.case, axis, index, name, counts[name], raw is not None, plane.shape, region)
            counts[name] += 1


def _region(case: str, axis: str, index: int, name: str, n: int, defined: bool, shape: tuple[int, ...],
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
    if manifest.modality == "ct":
        return intensity.window_bounds(*CT_WINDOW)
    return intensity.percentile_bounds(array, *PERCENTILE)


def _image(plane: Array, bounds: tuple[float, float] | None) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(plane, dtype=np.uint8) if bounds is None else intensity.to_uint8(plane, bounds)
