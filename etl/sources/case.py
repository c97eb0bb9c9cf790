"""One case from its files: the image and its label layers on one canonical grid."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from etl.dicom.file import is_dicom_file
from etl.errors import ItemError
from etl.formats import Raster, read
from etl.kinds import Annotation, Grid, Layer, Lost, Object, Objects, read_layers
from etl.manifests.casenames import faulty_labels
from etl.manifests.manifest import Manifest
from etl.pixels import geometry, shapes, slabs
from etl.pixels.raster import Origin, Scan
from etl.sources.inventory import Case

Array = npt.NDArray[np.generic]
Refuse = Callable[[str, ItemError], None]
"""Takes the name and the reason of something that comes with a case and is not used."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image ready to be cut.

    It is a `volume` (i, j, k) in RAS+, or `frames` of a picture (rows, columns[, 3]) without one; layers have the
    same grid (frames along their last axis), objects are on the picture. `lost` are annotated objects without a
    region. `spacing` is per array axis in mm. `tilt` is the angle between the voxel axes and the patient's, in
    degrees.

    From DICOM: `scan` is its view and tilt; `origins` are the files and frames of the slices along
    RAS+ axis `stacked`, in that order, or of the frames.
    """

    case: str
    layers: tuple[Layer, ...]
    frames: tuple[Array, ...] = ()
    volume: Array | None = None
    affine: Array | None = None
    spacing: tuple[float, float, float] | None = None
    tilt: float = 0.0
    scan: Scan | None = None
    origins: tuple[Origin, ...] = ()
    stacked: int | None = None
    objects: tuple[Objects, ...] = ()
    lost: tuple[Lost, ...] = ()

    @property
    def native(self) -> bool:
        """Whether it is a picture or frames, shown as they are stored."""
        return self.volume is None


def load(case: Case, manifest: Manifest, root: Path, refuse: Refuse) -> list[Loaded]:
    """Every image of a case: one, or one a channel or time of a 4D file.

    Where DICOM files hold several images, the one that the annotation fits is used; `refuse` is told of the others.

    Raises:
        ItemError: why the case cannot be used.
    """
    faults = faulty_labels(manifest, case.case)
    unions = {name: parts for name, parts in manifest.derive.items() if name not in faults}
    manifest = manifest.model_copy(update={"derive": unions})
    if not case.series and not is_dicom_file(root / case.image):
        rules = [manifest.files[mask.rule] for mask in case.masks]
        variable = next((rule.image_variable for rule in rules if rule.image_variable), None)
        raster = read(root / case.image, variable=variable)
        raster = _colored(raster) if manifest.third_axis == "color" else raster
        return _images(case, manifest, raster, _annotations(case, manifest, root, raster, faults))
    from etl.dicom import read as dicom  # pydicom takes long to import

    images, unread = dicom.find([root / file for file in case.files])
    refused = [(item.title, item.error) for item in unread]
    if not images:
        raise _several(refused)
    fits: list[tuple[str, list[Loaded]]] = []
    for image in images:
        try:
            raster = image.read()
            found = _annotations(case, manifest, root, raster, faults)
            fits.append((image.title, _images(case, manifest, raster, found)))
        except ItemError as error:
            refused.append((image.title, error))
    return _fitting(case, fits, refused, refuse)


def _colored(raster: Raster) -> Raster:
    """A volume (i, j, 3) whose third axis is colour as the picture (rows, columns, 3) that it is."""
    if raster.affine is None:
        return raster
    array = raster.array[..., 0] if raster.array.ndim == 4 and raster.array.shape[3] == 1 else raster.array
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        found = f"{array.dtype} values {array.shape}"
        raise ItemError("unsupported", f"third_axis: color is for 8-bit values (i, j, 3), this has {found}")
    i, j, _ = geometry.spacing(raster.affine)
    return Raster(np.ascontiguousarray(np.swapaxes(array, 0, 1)), spacing=(j, i))


def _annotations(
    case: Case, manifest: Manifest, root: Path, raster: Raster, faults: dict[str, str]
) -> list[Annotation]:
    """The annotations of a case, those of labels with a known fault as lost."""
    masks = [(manifest.files[mask.rule], root / mask.path, mask.label) for mask in case.masks]
    found = read_layers(masks, dict(manifest.labels), _grid(case, raster))
    if not faults:
        return found
    lost = [Lost(name, "excluded", why) for name, why in faults.items()]
    return [*(_without(item, faults) for item in found), *lost]


def _without(item: Annotation, names: Collection[str]) -> Annotation:
    """An annotation without these raw labels."""
    if isinstance(item, Objects):
        return replace(item, found=tuple(thing for thing in item.found if thing.name not in names))
    if isinstance(item, Layer):
        gone = [value for value, name in item.names.items() if name in names]
        return replace(item, array=np.where(slabs.among(item.array, gone), item.array.dtype.type(0), item.array))
    return item


def _grid(case: Case, raster: Raster) -> Grid:
    path, shape = case.image, raster.array.shape
    if raster.affine is None:
        flat = shape[1:3] if raster.scan is not None and raster.scan.cine else shape[:2]
        return Grid(path, flat, case=case.case)
    return Grid(path, shape, raster.affine, raster.scan.slices if raster.scan else (), case.case)


def _fitting(
    case: Case, fits: list[tuple[str, list[Loaded]]], refused: list[tuple[str, ItemError]], refuse: Refuse
) -> list[Loaded]:
    """The one of several DICOM images whose grid the annotation has."""
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


def _images(case: Case, manifest: Manifest, raster: Raster, found: list[Annotation]) -> list[Loaded]:
    """The images of a raster with their annotations; objects are for one picture only."""
    layers = [item for item in found if isinstance(item, Layer)]
    objects = [item for item in found if isinstance(item, Objects)]
    lost = tuple(item for item in found if isinstance(item, Lost))
    images = [
        replace(image, layers=(*image.layers, *_derived(image.layers, manifest)), lost=lost)
        for image in _layered(case, manifest, raster, layers)
    ]
    if objects and (len(images) > 1 or len(images[0].frames) != 1):
        raise ItemError("unsupported", "boxes and polygons are for one 2D image, not for volumes and sequences")
    return [replace(images[0], objects=(*objects, *_derived_objects(objects, manifest)))] if objects else images


def _layered(case: Case, manifest: Manifest, raster: Raster, layers: list[Layer]) -> list[Loaded]:
    if raster.scan is not None and raster.scan.cine:
        return [_cine(case.case, raster, layers)]
    if raster.affine is None or raster.array.ndim == 2:
        return [_picture(case.case, raster, layers)]
    if manifest.third_axis == "time":
        return [_frames(case.case, raster, layers)]
    if raster.array.ndim == 4 and raster.array.shape[3] > 1:
        return list(_channels(case.case, manifest, raster, layers))
    array = raster.array[..., 0] if raster.array.ndim == 4 else raster.array
    return [_volume(case.case, replace(raster, array=array), layers)]


def _cine(name: str, raster: Raster, layers: list[Layer]) -> Loaded:
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
    origins = raster.scan.slices if raster.scan else ()
    return Loaded(
        name, tuple(turned), frames=tuple(raster.array), spacing=spacing, scan=raster.scan, origins=origins
    )  # fmt: skip


def _picture(name: str, raster: Raster, layers: list[Layer]) -> Loaded:
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
    origins = raster.scan.slices if raster.scan else ()
    return Loaded(
        name, tuple(flat), frames=(array,), affine=raster.affine, spacing=spacing, scan=raster.scan, origins=origins
    )  # fmt: skip


def _frames(name: str, raster: Raster, layers: list[Layer]) -> Loaded:
    """A 2D+t file: array (i, j, time), shown as A.T for each time."""
    for layer in layers:
        if layer.array.shape != raster.array.shape[:3]:
            raise ItemError("shape_mismatch", f"image {raster.array.shape}, mask {layer.array.shape}")
    turned = tuple(replace(layer, array=np.swapaxes(layer.array, 0, 1)) for layer in layers)
    i, j, _ = geometry.spacing(raster.affine) if raster.affine is not None else (1.0, 1.0, 1.0)
    frames = tuple(raster.array[:, :, t].T for t in range(raster.array.shape[2]))
    return Loaded(name, turned, frames=frames, affine=raster.affine, spacing=(j, i, 1.0))


def _channels(case: str, manifest: Manifest, raster: Raster, layers: list[Layer]) -> Iterator[Loaded]:
    count = raster.array.shape[3]
    if manifest.channels:
        for index, name in sorted(manifest.channels.items()):
            if index >= count:
                raise ItemError("shape_mismatch", f"channel {index} ({name}) is declared, the file has {count}")
            yield _volume(f"{case}-{name}", _at(raster, index), layers)
    elif manifest.fourth_axis == "time":
        for t in range(count):
            now = [replace(x, array=x.array[..., t] if x.array.ndim == 4 else x.array) for x in layers]
            if any(np.any(x.array) for x in now):
                yield _volume(f"{case}-t{t:02d}", _at(raster, t), now)
    else:
        raise ItemError("unsupported", f"a 4D image of {count} volumes; say channels: or fourth_axis: in the manifest")


def _at(raster: Raster, time: int) -> Raster:
    """One volume of a 4D raster."""
    scan, count = raster.scan, raster.array.shape[2]
    if scan is not None:
        scan = replace(scan, slices=scan.slices[time * count : (time + 1) * count])
    return replace(raster, array=raster.array[..., time], scan=scan)


def _volume(name: str, raster: Raster, layers: list[Layer]) -> Loaded:
    assert raster.affine is not None
    if raster.array.ndim != 3:
        raise ItemError("unsupported", f"an image of {raster.array.ndim} dimensions")
    to = geometry.orientation(raster.affine)
    array = geometry.canonical(raster.array, to)
    affine = geometry.canonical_affine(raster.affine, raster.array.shape, to)
    placed = tuple(_placed(layer, array.shape, affine) for layer in layers)
    if any(layer.resampled for layer in placed) and _shows(layers) and not _shows(placed):
        raise ItemError("not_placed", "no annotated voxel of the mask is nearest to one of the image")
    spacing = None if raster.spacing is None else geometry.spacing(affine)
    image = Loaded(name, placed, volume=array, affine=affine, spacing=spacing, tilt=to.angle)
    if raster.scan is None:
        return image
    stacked = to.order.index(2)
    origins = raster.scan.slices[::-1] if to.flip[stacked] else raster.scan.slices
    return replace(image, scan=raster.scan, origins=origins, stacked=stacked)


def _placed(layer: Layer, shape: tuple[int, ...], affine: Array) -> Layer:
    if layer.affine is None:
        raise ItemError("unsupported", "a 2D mask over a volume; say kind: image_stack in the manifest")
    labels = layer.array[..., 0] if layer.array.ndim == 4 and layer.array.shape[3] == 1 else layer.array
    if labels.ndim != 3:
        raise ItemError("shape_mismatch", f"the mask has shape {labels.shape}, the image {shape}")
    to = geometry.orientation(layer.affine)
    own = geometry.canonical_affine(layer.affine, labels.shape, to)
    turned = geometry.canonical(labels, to)
    try:
        geometry.require_same_grid(shape, affine, turned.shape, own)
    except ItemError:
        if not layer.loose:
            raise
        return replace(layer, array=geometry.nearest(turned, own, shape, affine), resampled=True)
    return replace(layer, array=turned)


def _shows(layers: Iterable[Layer]) -> bool:
    return any(layer.array.any() for layer in layers)


def _derived(layers: Sequence[Layer], manifest: Manifest) -> Iterator[Layer]:
    """A layer for each union of the manifest's `derive` that shows something."""
    for name, parts in manifest.derive.items():
        union: npt.NDArray[np.bool_] | None = None
        for layer in layers:
            values = [v for v, raw in layer.names.items() if raw in parts]
            if values:
                hit = slabs.among(layer.array, values)
                union = hit if union is None else np.logical_or(union, hit, out=union)
        if union is not None and union.any():
            yield Layer(union.view(np.uint8), {1: name}, None)


def _derived_objects(objects: list[Objects], manifest: Manifest) -> Iterator[Objects]:
    """For each union of the manifest's `derive`, one object of all objects of its parts."""
    for name, parts in manifest.derive.items():
        for size in dict.fromkeys(item.size for item in objects):
            members = [o.region for item in objects if item.size == size for o in item.found if o.name in parts]
            if members:
                yield Objects(size, (Object(name, True, shapes.united(members, size)),))
