"""One case from its files: the image and its label layers on one canonical grid."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from etl import geometry
from etl.dicomfile import is_dicom_file
from etl.errors import ItemError
from etl.formats import Raster, read
from etl.inventory import Case
from etl.kinds import Layer, read_layers
from etl.manifest import Manifest
from etl.raster import Origin, Scan

if TYPE_CHECKING:
    from etl.dicom import Image

Array = npt.NDArray[np.generic]
Refuse = Callable[[str, ItemError], None]
"""Takes the name and the reason of something that comes with a case and is not used."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image ready to be cut.

    `array` is an RAS+ volume (i, j, k), or frames of a picture (rows, columns[, 3]) when `native`;
    layers have the same grid. `spacing` is per array axis in mm. `tilt` is the angle between the voxel
    axes and the patient's, in degrees.

    From DICOM: `scan` is its view and tilt; `origins` are the files and frames of the slices along
    RAS+ axis `stacked`, in that order, or of the frames.
    """

    case: str
    native: bool
    frames: tuple[Array, ...]
    volume: Array | None
    layers: tuple[Layer, ...]
    affine: Array | None
    spacing: tuple[float, float, float] | None
    tilt: float
    scan: Scan | None = None
    origins: tuple[Origin, ...] = ()
    stacked: int | None = None


def load(case: Case, manifest: Manifest, root: Path, refuse: Refuse) -> list[Loaded]:
    """Every image of a case: one, or one a channel or time of a 4D file.

    Where DICOM files hold several images, the one that the annotation fits is used; `refuse` is told of the others.

    Raises:
        ItemError: why the case cannot be used.
    """
    masks = [(manifest.files[m.rule], root / m.path, m.label) for m in case.masks]
    if not case.series and not is_dicom_file(root / case.image):
        raster = read(root / case.image)
        return _images(case, manifest, raster, read_layers(masks, dict(manifest.labels)))
    from etl import dicom  # pydicom takes long to import

    images, refused = dicom.find([root / file for file in case.files])
    if not images:
        raise _several([(item.title, item.error) for item in refused])
    return _fitting(case, manifest, images, [(item.title, item.error) for item in refused],
                    read_layers(masks, dict(manifest.labels)), refuse)  # fmt: skip


def _fitting(
    case: Case, manifest: Manifest, images: "list[Image]", refused: list[tuple[str, ItemError]], layers: list[Layer],
    refuse: Refuse,
) -> list[Loaded]:
    """The one of several DICOM images whose grid the annotation has."""
    fits: list[tuple[str, list[Loaded]]] = []
    for image in images:
        try:
            fits.append((image.title, _images(case, manifest, image.read(), layers)))
        except ItemError as error:
            refused.append((image.title, error))
    if len(fits) > 1:
        names = "; ".join(name for name, _ in fits)
        raise ItemError("unsupported", f"{len(fits)} images fit the annotation, say which in the pattern: {names}")
    if not fits:
        raise _several(refused)
    for number, (name, why) in enumerate(refused, 1):
        refuse(f"{case.case}-unused{number}", ItemError(why.reason, f"{name}: {why.detail}; another image is used"))
    return fits[0][1]


def _several(refused: list[tuple[str, ItemError]]) -> ItemError:
    """One error for a case none of whose images can be used."""
    if len(refused) == 1:
        return refused[0][1]
    reasons = {error.reason for _, error in refused}
    details = "; ".join(f"{name}: {error}" for name, error in refused)
    return ItemError(reasons.pop() if len(reasons) == 1 else "geometry_mismatch", f"none of its images fits: {details}")


def _images(case: Case, manifest: Manifest, raster: Raster, layers: list[Layer]) -> list[Loaded]:
    if raster.scan is not None and raster.scan.cine:
        return [_cine(case, manifest, raster, layers)]
    if raster.affine is None or raster.array.ndim == 2:
        return [_picture(case, manifest, raster, layers)]
    if manifest.third_axis == "time":
        return [_frames(case, manifest, raster, layers)]
    if raster.array.ndim == 4 and raster.array.shape[3] > 1:
        return list(_channels(case, manifest, raster, layers))
    array = raster.array[..., 0] if raster.array.ndim == 4 else raster.array
    return [_volume(case.case, manifest, replace(raster, array=array), layers)]


def _cine(case: Case, manifest: Manifest, raster: Raster, layers: list[Layer]) -> Loaded:
    """A multi-frame DICOM picture: array (frames, rows, columns[, 3]); masks as (i, j, frame) or frame by frame."""
    count, rows, columns = raster.array.shape[:3]
    turned = []
    for layer in layers:
        labels = np.swapaxes(layer.array, 0, 1) if layer.affine is not None else layer.array
        if labels.shape != (rows, columns, count):
            raise ItemError("shape_mismatch", f"{count} frames of {rows, columns} (rows, columns), mask {labels.shape}")
        turned.append(replace(layer, array=labels))
    row, column = raster.spacing or (None, None)
    spacing = None if row is None or column is None else (row, column, 1.0)
    derived = tuple(_with_derived(turned, manifest))
    origins = raster.scan.slices if raster.scan else ()
    return Loaded(case.case, True, tuple(raster.array), None, derived, None, spacing, 0.0, raster.scan, origins)


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
    origins = raster.scan.slices if raster.scan else ()
    return Loaded(case.case, True, (array,), None, derived, raster.affine, spacing, 0.0, raster.scan, origins)


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
            yield _volume(f"{case.case}-{name}", manifest, _at(raster, index), layers)
    elif manifest.fourth_axis == "time":
        for t in range(count):
            now = [replace(x, array=x.array[..., t] if x.array.ndim == 4 else x.array) for x in layers]
            if any(np.any(x.array) for x in now):
                yield _volume(f"{case.case}-t{t:02d}", manifest, _at(raster, t), now)
    else:
        raise ItemError("unsupported", f"a 4D image of {count} volumes; say channels: or fourth_axis: in the manifest")


def _at(raster: Raster, time: int) -> Raster:
    """One volume of a 4D raster."""
    scan, count = raster.scan, raster.array.shape[2]
    if scan is not None:
        scan = replace(scan, slices=scan.slices[time * count : (time + 1) * count])
    return replace(raster, array=raster.array[..., time], scan=scan)


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
    if raster.scan is None:
        return Loaded(name, False, (), array, derived, affine, spacing, to.angle)
    stacked = to.order.index(2)
    origins = raster.scan.slices[::-1] if to.flip[stacked] else raster.scan.slices
    return Loaded(name, False, (), array, derived, affine, spacing, to.angle, raster.scan, origins, stacked)


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
