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

from etl import geometry, intensity, isolate, png, store
from etl.case import Loaded, load
from etl.errors import Failure, ItemError
from etl.formats import companions
from etl.inventory import Case
from etl.kinds import Layer
from etl.manifest import Manifest
from etl.planes import Greys
from etl.regions import Found, VolumeRegions, regions
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
    named = [*case.files, *(m.path for m in case.masks)]
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

    A fault of a case becomes its quarantine row, also one that kills or hangs the process that reads it.
    """
    fatal: dict[str, tuple[str, str]] = {}
    keys = {unit.key for unit in batch.units}
    while True:
        try:
            accounts: list[dict[str, Any]] = isolate.call(_run, (batch, fatal))
        except isolate.Died as died:
            if died.at not in keys or died.at in fatal:
                raise Failure(f"the process that reads images does not work: {died.error.detail}") from died
            fatal[died.at] = (died.error.reason, died.error.detail)
        else:
            return accounts


def _run(job: tuple[Batch, dict[str, tuple[str, str]]]) -> list[dict[str, Any]]:
    """`run` in the child; cases that killed a child before have their error in the second part of the job."""
    batch, fatal = job
    writer = BatchWriter(batch.folder, batch.name)
    try:
        accounts = [_run_case(unit, batch, writer, fatal.get(unit.key)) for unit in batch.units]
        writer.commit()
    finally:
        writer.discard()
    return accounts


def _run_case(unit: Unit, batch: Batch, writer: BatchWriter, fatal: tuple[str, str] | None) -> dict[str, Any]:
    case = unit.case
    isolate.alive(unit.key)
    regions: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    encoded = Counter[str]()

    def emit(row: dict[str, Any]) -> None:
        encoded[row["case"]] += 1
        writer.image(row)

    def refuse(name: str, error: ItemError) -> None:
        rejected.append(_reject(name, error))

    try:
        if fatal is not None:
            raise ItemError(*fatal)
        for loaded in load(case, batch.manifest, batch.root, refuse):
            images.append(_cut(loaded, batch, regions, emit, rejected))
    except ItemError as error:
        named = ItemError(error.reason, f"{case.image}: {error.detail}")
        images, regions, rejected = [], [], [_reject(case.case, named)]
    except MemoryError:
        named = ItemError("too_large", f"{case.image}: it needs more memory than there is")
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
            "root": str(batch.root.resolve()), "files": [*unit.case.files, *(m.path for m in unit.case.masks)],
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
    before = len(found)
    image = _Image(loaded, batch)
    for axis in _axes(loaded, batch, rejected):
        for index in range(0, image.count(axis), batch.params.stride if axis != "native" else 1):
            isolate.alive()
            rows = list(image.regions(axis, index))
            seen["slices"] += 1
            seen["background"] += not rows
            found.extend(rows)
            if any(r["defined"] and r["area"] >= batch.encode_from * r["width"] * r["height"] for r in rows):
                emit({"case": loaded.case, "axis": axis, "slice_index": index,
                      "png": png.encode(image.pixels(axis, index))})
    rejected.extend(
        {"case": loaded.case, "axis": None, "raw_label": lost.name, "stage": "slice", "reason": lost.reason,
         "detail": lost.detail}
        for lost in loaded.lost
    )
    if len(found) == before and not loaded.objects and not any(r["case"] == loaded.case for r in rejected):
        rejected.append(_reject(loaded.case, ItemError("empty_mask", "no pixel of the annotation is set")))
    return {
        "case": loaded.case, "slices": seen["slices"], "background": seen["background"],
        "spacing": loaded.spacing, "tilt": round(loaded.tilt, 4), "native": loaded.native,
        "affine": None if loaded.affine is None else np.asarray(loaded.affine, float).tolist(),
        "shape": list(loaded.frames[0].shape if loaded.volume is None else loaded.volume.shape),
        "unsure": _unsure(loaded, found[before:]),
    } | _origins(loaded, batch.root)


def _origins(loaded: Loaded, root: Path) -> dict[str, Any]:
    """Which file and frame became which slice, for `locate`: along RAS+ axis `stacked`, or the frames (null)."""
    if not loaded.origins:
        return {}
    files = [[str(origin.file.relative_to(root)), origin.frame] for origin in loaded.origins]
    return {"origins": {"stacked": loaded.stacked, "files": files}}


def _unsure(loaded: Loaded, rows: list[Any]) -> list[str]:
    """Raw labels of which nothing is here but objects that could not be read: nobody knows whether they are there."""
    unread = {lost.name for lost in loaded.lost if lost.reason not in ("not_placed", "empty_mask")}
    return sorted(unread - {row["raw_label"] for row in rows})


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
        if not flat and loaded.scan and loaded.scan.tilt and axis != geometry.AXES[::-1][loaded.stacked or 0]:
            detail = f"its slices are stacked at an angle (gantry tilt of {loaded.scan.tilt:.1f} degrees)"
            rejected.append(_reject(loaded.case, ItemError("unsupported", f"{axis} slices: {detail}"), axis))
            continue
        yield axis


class _Image:
    """The slices of a loaded image: their regions and their 8-bit pixels."""

    def __init__(self, loaded: Loaded, batch: Batch) -> None:
        self._loaded, self._rle_from = loaded, batch.encode_from
        self._splits = [_split(layer, batch.manifest) for layer in loaded.layers]
        self._view, self._invert = _view(loaded, batch.manifest), bool(loaded.scan and loaded.scan.invert)
        if loaded.volume is not None:
            bounds = None if self._view is None else (float(self._view[0]), float(self._view[1]))
            self._greys = Greys(loaded.volume, bounds)
            self._volumes = [VolumeRegions(layer.array, split, rle_from=self._rle_from)
                             for layer, split in zip(loaded.layers, self._splits, strict=True)]

    def count(self, axis: str) -> int:
        """How many slices an axis has."""
        volume = self._loaded.volume
        return len(self._loaded.frames) if volume is None else geometry.plane_size(volume.shape, axis)[0]

    def pixels(self, axis: str, index: int) -> npt.NDArray[np.uint8]:
        """A slice as it is shown."""
        if self._loaded.volume is None:
            return intensity.to_grey(self._loaded.frames[index], self._view, invert=self._invert)
        grey = self._greys.plane(axis, index)
        return 255 - grey if self._invert else grey

    def regions(self, axis: str, index: int) -> Iterator[dict[str, Any]]:
        """The rows of a slice's regions; `n` counts those of one raw label."""
        counts: Counter[str] = Counter()
        for number, layer in enumerate(self._loaded.layers):
            if self._loaded.volume is not None:
                found, shape = self._volumes[number].on(axis, index), geometry.plane(layer.array, axis, index).shape
            else:
                plane = layer.array[..., index]
                found, shape = regions(plane, self._splits[number], rle_from=self._rle_from), plane.shape
            for region in found:
                raw = layer.names.get(region.value)
                name = raw if raw is not None else layer.undefined.get(region.value, str(region.value))
                yield _region(self._loaded.case, axis, index, name, counts[name], raw is not None, shape, region)
                counts[name] += 1
        for objects in self._loaded.objects:
            for thing in objects.found:
                yield _region(self._loaded.case, axis, index, thing.name, counts[thing.name], thing.defined,
                              objects.size, thing.region)
                counts[thing.name] += 1


def _region(case: str, axis: str, index: int, name: str, n: int, defined: bool, shape: tuple[int, ...],
            r: Found) -> dict[str, Any]:
    return {"case": case, "axis": axis, "slice_index": index, "raw_label": name, "n": n, "defined": defined,
            "height": shape[0], "width": shape[1], "x": r.x, "y": r.y, "w": r.width, "h": r.height,
            "area": r.area, "rle": r.rle}


def _split(layer: Layer, manifest: Manifest) -> frozenset[int]:
    if manifest.components == "all":
        return frozenset(layer.names)
    return frozenset(v for v, raw in layer.names.items() if raw in manifest.components)


def _view(loaded: Loaded, manifest: Manifest) -> intensity.View | None:
    """The grey window of an image, or the curve of a DICOM picture; None where 8-bit values stay as they are."""
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
    if loaded.scan and (loaded.scan.window or loaded.scan.curve):
        return loaded.scan.window or loaded.scan.curve
    return intensity.percentile_bounds(array, *PERCENTILE)

