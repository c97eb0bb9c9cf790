"""One case from its files: the image and its label layers on one canonical grid."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from etl import geometry
from etl.errors import ItemError
from etl.formats import Raster, read
from etl.inventory import Case
from etl.kinds import Layer, read_layers
from etl.manifest import Manifest

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image ready to be cut.

    `array` is an RAS+ volume (i, j, k), or frames of a picture (rows, columns[, 3]) when `native`;
    layers have the same grid. `spacing` is per array axis in mm. `tilt` is the angle between the voxel
    axes and the patient's, in degrees.
    """

    case: str
    native: bool
    frames: tuple[Array, ...]
    volume: Array | None
    layers: tuple[Layer, ...]
    affine: Array | None
    spacing: tuple[float, float, float] | None
    tilt: float


def load(case: Case, manifest: Manifest, root: Path) -> list[Loaded]:
    """Every image of a case: one, or one a channel or time of a 4D file.

    Raises:
        ItemError: why the case cannot be used.
    """
    raster = read(root / case.image)
    masks = [(manifest.files[m.rule], root / m.path, m.label) for m in case.masks]
    layers = read_layers(masks, dict(manifest.labels))
    if raster.affine is None or raster.array.ndim == 2:
        return [_picture(case, manifest, raster, layers)]
    if manifest.third_axis == "time":
        return [_frames(case, manifest, raster, layers)]
    if raster.array.ndim == 4 and raster.array.shape[3] > 1:
        return list(_channels(case, manifest, raster, layers))
    array = raster.array[..., 0] if raster.array.ndim == 4 else raster.array
    return [_volume(case.case, manifest, replace(raster, array=array), layers)]


def _picture(case: Case, manifest: Manifest, raster: Raster, layers: list[Layer]) -> Loaded:
    array = raster.array if raster.affine is None else raster.array.T
    flat = []
    for layer in layers:
        labels = layer.array if layer.affine is None else np.squeeze(layer.array).T
        if labels.shape[:2] != array.shape[:2]:
            raise ItemError("shape_mismatch", f"image {array.shape[:2]}, mask {labels.shape[:2]} (rows, columns)")
        flat.append(replace(layer, array=labels[..., None]))
    spacing = None
    if raster.affine is not None:
        i, j, _ = geometry.spacing(raster.affine)
        spacing = (j, i, 1.0)
    elif raster.spacing is not None:
        spacing = (raster.spacing[0], raster.spacing[1], 1.0)
    derived = tuple(_with_derived(flat, manifest))
    return Loaded(case.case, True, (array,), None, derived, raster.affine, spacing, 0.0)


def _frames(case: Case, manifest: Manifest, raster: Raster, layers: list[Layer]) -> Loaded:
    """A 2D+t file: array (i, j, time), shown as A.T for each time."""
    for layer in layers:
        if layer.array.shape != raster.array.shape[:3]:
            raise ItemError("shape_mismatch", f"image {raster.array.shape}, mask {layer.array.shape}")
    turned = [replace(layer, array=np.swapaxes(layer.array, 0, 1)) for layer in layers]
    i, j, _ = geometry.spacing(raster.affine) if raster.affine is not None else (1.0, 1.0, 1.0)
    frames = tuple(raster.array[:, :, t].T for t in range(raster.array.shape[2]))
    derived = tuple(_with_derived(turned, manifest))
    return Loaded(case.case, True, frames, None, derived, raster.affine, (j, i, 1.0), 0.0)


def _channels(case: Case, manifest: Manifest, raster: Raster, layers: list[Layer]) -> Iterator[Loaded]:
    count = raster.array.shape[3]
    if manifest.channels:
        for index, name in sorted(manifest.channels.items()):
            if index >= count:
                raise ItemError("shape_mismatch", f"channel {index} ({name}) is declared, the file has {count}")
            one = replace(raster, array=raster.array[..., index])
            yield _volume(f"{case.case}-{name}", manifest, one, layers)
    elif manifest.fourth_axis == "time":
        for t in range(count):
            now = [replace(x, array=x.array[..., t] if x.array.ndim == 4 else x.array) for x in layers]
            if any(np.any(x.array) for x in now):
                yield _volume(f"{case.case}-t{t:02d}", manifest, replace(raster, array=raster.array[..., t]), now)
    else:
        raise ItemError("unsupported", f"a 4D image of {count} volumes; say channels: or fourth_axis: in the manifest")


def _volume(name: str, manifest: Manifest, raster: Raster, layers: list[Layer]) -> Loaded:
    assert raster.affine is not None
    if raster.array.ndim != 3:
        raise ItemError("unsupported", f"an image of {raster.array.ndim} dimensions")
    to = geometry.orientation(raster.affine)
    array = geometry.canonical(raster.array, to)
    affine = geometry.canonical_affine(raster.affine, raster.array.shape, to)
    placed = [_placed(layer, array.shape, affine) for layer in layers]
    spacing = geometry.spacing(affine)
    derived = tuple(_with_derived(placed, manifest))
    return Loaded(name, False, (), array, derived, affine, spacing, to.angle)


def _placed(layer: Layer, shape: tuple[int, ...], affine: Array) -> Layer:
    if layer.affine is None:
        raise ItemError("unsupported", "a 2D mask over a volume; say kind: image_stack in the manifest")
    labels = layer.array[..., 0] if layer.array.ndim == 4 and layer.array.shape[3] == 1 else layer.array
    if labels.ndim != 3:
        raise ItemError("shape_mismatch", f"the mask has shape {labels.shape}, the image {shape}")
    to = geometry.orientation(layer.affine)
    own = geometry.canonical_affine(layer.affine, labels.shape, to)
    turned = geometry.canonical(labels, to)
    geometry.require_same_grid(shape, affine, turned.shape, own)
    return replace(layer, array=turned)


def _with_derived(layers: list[Layer], manifest: Manifest) -> Iterator[Layer]:
    """The layers, then one more for each union of the manifest's `derive`."""
    yield from layers
    for name, parts in manifest.derive.items():
        union: npt.NDArray[np.bool_] | None = None
        for layer in layers:
            values = [v for v, raw in layer.names.items() if raw in parts]
            if values:
                hit = np.isin(layer.array, values)
                union = hit if union is None else union | hit
        if union is not None and union.any():
            yield Layer(union.astype(np.uint8), {1: name}, None)
