"""The work of `slice` on one batch: decode, measure, cut, encode, commit. It runs in a child process with limits."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from etl import isolate, privacy
from etl.errors import ItemError
from etl.kinds import Layer
from etl.manifests.manifest import Manifest
from etl.pixels import geometry, hashes, intensity, png
from etl.pixels.planes import Greys
from etl.pixels.regions import Columns, VolumeRegions, columns, regions
from etl.quality import evidence
from etl.regiontable import Part, Placed, Regions, joined
from etl.results import BatchWriter
from etl.sources.case import Loaded, load
from stages.slice import Batch, Unit, reject, row

Emit = Callable[[dict[str, Any]], None]
TOGETHER = 32  # slices that go from step to step together: taking turns slice by slice costs a sixth more
CT_WINDOW = (40.0, 400.0)
PERCENTILE = (0.5, 99.5)
pa.set_memory_pool(pa.system_memory_pool())  # what a batch took goes back; the default keeps half a volume's worth


def run(batch: Batch, fatal: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Slice and commit a batch; returns a short account of each case. `fatal` are the errors (reason, detail) of
    cases, by key, that killed the process that read them."""
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
    regions: list[Placed] = []
    rejected: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    encoded = Counter[str]()

    def emit(row: dict[str, Any]) -> None:
        encoded[row["case"]] += 1
        writer.image(row)

    def refuse(name: str, error: ItemError) -> None:
        rejected.append(reject(name, error))

    try:
        if fatal is not None:
            raise ItemError(*fatal)
        for loaded in load(case, batch.manifest, batch.root, refuse):
            images.append(_cut(loaded, batch, regions, emit, rejected))
    except ItemError as error:
        named = ItemError(error.reason, f"{case.image}: {error.detail}")
        images, regions, rejected = [], [], [reject(case.case, named)]
    except MemoryError:
        named = ItemError("too_large", f"{case.image}: it needs more memory than there is")
        images, regions, rejected = [], [], [reject(case.case, named)]
    except Exception as error:  # one bad file never stops a build
        detail = f"{case.image}: {type(error).__name__}: {privacy.message(error)}"
        images, regions, rejected = [], [], [reject(case.case, ItemError("unreadable", detail))]
    if not images and not rejected:
        rejected = [reject(case.case, ItemError("empty_mask", f"{case.image}: nothing in it is annotated"))]
    writer.case(row(unit, batch, images, rejected), regions)
    return {"images": sum(encoded.values()), "quarantined": len(rejected)}


def _cut(loaded: Loaded, batch: Batch, found: list[Placed], emit: Emit, rejected: list[Any]) -> dict[str, Any]:
    """Cut one loaded image along its axes; gives out its regions and encoded slices, returns its facts."""
    names, slices, covered, before = set[str](), 0, 0, len(found)
    image = _Image(loaded, batch)
    for axis in _axes(loaded, batch, rejected):
        isolate.alive()
        stride = batch.params.stride if axis != "native" else 1
        regions = image.regions(axis, stride)
        slices += len(range(0, image.count(axis), stride))
        covered += np.unique(regions.found.plane).size
        names.update(regions.names)
        if regions.names:
            found.append((loaded.case, axis, regions))
        worth = regions.worth(batch.encode_from)
        for start in range(0, len(worth), TOGETHER):
            isolate.alive()
            some = worth[start : start + TOGETHER]
            planes = [image.pixels(axis, index) for index in some]
            for index, pixels, marks in zip(some, planes, hashes.of(planes), strict=True):
                emit({"case": loaded.case, "axis": axis, "slice_index": index, "png": png.encode(pixels), **marks})
    picture = loaded.volume is None and len(loaded.frames) == 1
    place = {"axis": "native", "slice_index": 0} if picture else {"axis": None}
    rejected.extend(
        {"case": loaded.case, **place, "raw_label": lost.name, "stage": "slice", "reason": lost.reason,
         "detail": lost.detail}
        for lost in loaded.lost
    )
    if len(found) == before and not loaded.objects and not any(r["case"] == loaded.case for r in rejected):
        rejected.append(reject(loaded.case, ItemError("empty_mask", "no pixel of the annotation is set")))
    lost = _lost(loaded, batch.manifest)
    return {
        "case": loaded.case, "slices": slices, "background": slices - covered,
        "seen": evidence.seen(loaded, batch.manifest.modality),
        "spacing": loaded.spacing, "tilt": round(loaded.tilt, 4), "native": loaded.native,
        "affine": None if loaded.affine is None else np.asarray(loaded.affine, float).tolist(),
        "shape": list(loaded.frames[0].shape if loaded.volume is None else loaded.volume.shape),
        "unsure": sorted(lost - names), "lost": sorted(lost),
        "resampled": any(layer.resampled for layer in loaded.layers),
    } | _origins(loaded, batch.root)


def _origins(loaded: Loaded, root: Path) -> dict[str, Any]:
    """Which file and frame became which slice, for `locate`: along RAS+ axis `stacked`, or the frames (null)."""
    if not loaded.origins:
        return {}
    files = [[str(origin.file.relative_to(root)), origin.frame] for origin in loaded.origins]
    return {"origins": {"stacked": loaded.stacked, "files": files}}


def _lost(loaded: Loaded, manifest: Manifest) -> set[str]:
    """Raw labels of which something could not be read or is excluded, and the unions that hold one of them: there may
    be more of them than was found; where nothing was (`unsure`), nobody knows whether they are there."""
    unread = {lost.name for lost in loaded.lost if lost.reason not in ("not_placed", "empty_mask")}
    return unread | {name for name, parts in manifest.derive.items() if unread.intersection(parts)}


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
            rejected.append(reject(loaded.case, ItemError("low_quality", detail), axis))
            continue
        if not flat and loaded.scan and loaded.scan.tilt and axis != geometry.AXES[::-1][loaded.stacked or 0]:
            detail = f"its slices are stacked at an angle (gantry tilt of {loaded.scan.tilt:.1f} degrees)"
            rejected.append(reject(loaded.case, ItemError("unsupported", f"{axis} slices: {detail}"), axis))
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
            self._greys = Greys(loaded.volume, bounds, batch.params.stride)
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

    def regions(self, axis: str, stride: int) -> Regions:
        """The regions of every `stride`th slice."""
        parts = [Part(self._along(number, axis, stride), partial(_named, layer), self._plane_size(layer.array, axis))
                 for number, layer in enumerate(self._loaded.layers)]  # fmt: skip
        for objects in self._loaded.objects:
            things = [replace(thing.region, value=n) for n, thing in enumerate(objects.found)]
            names = [(thing.name, thing.defined) for thing in objects.found]
            shown = product(range(0, self.count(axis), stride), things)
            parts.append(Part(columns(shown), names.__getitem__, objects.size))
        return joined(parts)

    def _along(self, number: int, axis: str, stride: int) -> Columns:
        """The regions of a layer."""
        if self._loaded.volume is not None:
            return self._volumes[number].along(axis, stride)
        array, split = self._loaded.layers[number].array, self._splits[number]
        return columns((index, region) for index in range(0, self.count(axis), stride)
                       for region in regions(array[..., index], split, rle_from=self._rle_from))  # fmt: skip

    def _plane_size(self, array: npt.NDArray[Any], axis: str) -> tuple[int, int]:
        if self._loaded.volume is None:
            return array.shape[0], array.shape[1]
        return geometry.plane_size(array.shape, axis)[1:]


def _named(layer: Layer, value: int) -> tuple[str, bool]:
    """What a value of a layer is called, and whether the manifest says so."""
    raw = layer.names.get(value)
    return (raw, True) if raw is not None else (layer.undefined.get(value, str(value)), False)


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

