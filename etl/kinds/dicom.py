"""Kinds of DICOM annotations, placed by patient coordinates and never by index."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from etl import formats
from etl.dicom import planes as dicom_planes
from etl.dicom import rtstruct
from etl.dicom import seg as dicom_seg
from etl.errors import ItemError
from etl.isolate import alive
from etl.kinds.layers import Annotation, Grid, Layer, Lost, Mask, unite
from etl.kinds.values import file_per_label as label_files
from etl.kinds.values import integral, meant, name_values
from etl.pixels.raster import Array, Raster
from etl.privacy import message

if TYPE_CHECKING:
    from etl.manifests.manifest import Rule

Group = tuple[str, str | None, list[Raster]]


def segmentation(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """DICOM SEG: segments by Segment Label, or by Segment Number where no key is their label."""
    shape, affine = _volume(grid)
    lost: list[Annotation] = []
    found: dict[tuple[str, str | None], list[tuple[dicom_seg.SegFile, dicom_seg.Segment]]] = {}
    for file in (dicom_seg.SegFile(mask.path) for mask in masks):
        for segment in file.segments:
            name = labels.get(segment.label, labels.get(str(segment.number)))
            found.setdefault((name or segment.label or str(segment.number), name), []).append((file, segment))

    def groups() -> Iterator[Group]:
        for (text, name), members in found.items():
            alive()
            volume, outside = np.zeros(shape, bool), 0
            for file, segment in members:
                for place, frame in file.masks(segment, rule.threshold):
                    if frame.any():
                        at = dicom_planes.place(place, file.size, affine)
                        outside += dicom_planes.put(volume, frame, at).size
            lost.extend(_losses(text, volume, f"{outside} pixels" if outside else ""))
            if volume.any():
                yield text, name, [Raster(volume, affine)]

    return _placed(unite(groups()), lost)


def structures(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """RTSTRUCT: ROIs by name; closed planar contours only."""
    shape, affine = _volume(grid)
    lost: list[Annotation] = []
    found: dict[tuple[str, str | None], list[rtstruct.Roi]] = {}
    for roi in (roi for mask in masks for roi in rtstruct.read(mask.path)):
        name = labels.get(roi.name)
        found.setdefault((name or roi.name, name), []).append(roi)

    def groups() -> Iterator[Group]:
        for (text, name), rois in found.items():
            alive()
            volume = np.zeros(shape, bool)
            for roi in rois:
                filled = rtstruct.fill(roi.contours, shape, affine)
                lost.extend(_unplaced(text, roi, filled))
                volume |= filled.mask
            if volume.any():
                yield text, name, [Raster(volume, affine)]

    return _placed(unite(groups()), lost)


def _placed(layers: Sequence[Layer], lost: list[Annotation]) -> list[Annotation]:
    """Both; ItemError `not_placed` when nothing at all lies in the image: then it is an annotation of another one."""
    outside = [item for item in lost if isinstance(item, Lost) and item.reason == "not_placed"]
    if outside and not layers:
        raise ItemError("not_placed", f"nothing of the annotation lies in the image; {outside[0].name}: "
                                      f"{outside[0].detail}")
    return [*layers, *lost]


def _unplaced(text: str, roi: rtstruct.Roi, filled: rtstruct.Filled) -> Iterator[Lost]:
    count = len(roi.contours)
    yield from _losses(text, filled.mask, f"{filled.outside} of {count} contours" if filled.outside else "")
    if filled.oblique:
        yield Lost(text, "not_placed", f"{filled.oblique} of {count} contours lie in no plane of the image's slices")
    for kind, other in sorted(roi.other.items()):
        yield Lost(text, "unsupported", f"{other} contours of type {kind}")


def label_series(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """An integer label map in DICOM images, one file a slice or one of many frames."""
    shape, affine = _volume(grid)
    frames = [(place, meant(rule, frame)) for mask in masks for place, frame in _label_frames(mask)]
    array = np.zeros(shape, np.result_type(*(frame for _, frame in frames)))
    outside: Counter[int] = Counter()
    for place, frame in frames:
        if frame.any():
            at = dicom_planes.place(place, (frame.shape[0], frame.shape[1]), affine)
            outside.update(dicom_planes.put(array, frame, at).tolist())
    lost = [
        Lost(labels.get(str(value), str(value)), "not_placed", f"{count} pixels lie outside the image")
        for value, count in sorted(outside.items())
    ]
    return [*name_values(array, labels, affine), *lost]


def file_per_label(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """Masks of one label each; those in DICOM, one file a slice, are placed in the image, others read as they are."""
    if formats.sniff(masks[0].path) != "dicom":
        return list(label_files(rule, masks, labels, grid))
    shape, affine = _volume(grid)
    lost: list[Annotation] = []
    found: dict[tuple[str, str | None], list[Mask]] = {}
    for mask in masks:
        name = labels.get(mask.label or "")
        found.setdefault((name or mask.label or "", name), []).append(mask)

    def groups() -> Iterator[Group]:
        for (text, name), members in found.items():
            volume, outside = np.zeros(shape, bool), 0
            for place, frame in (item for mask in members for item in _label_frames(mask)):
                inside = frame > (rule.threshold or 0)
                if inside.any():
                    at = dicom_planes.place(place, (frame.shape[0], frame.shape[1]), affine)
                    outside += dicom_planes.put(volume, inside, at).size
            lost.extend(_losses(text, volume, f"{outside} pixels" if outside else ""))
            if volume.any():
                yield text, name, [Raster(volume, affine)]

    return _placed(unite(groups()), lost)


def _label_frames(mask: Mask) -> Iterator[tuple[NDArray[np.float64], Array]]:
    dataset = dicom_planes.load(mask.path)
    affines = dicom_planes.frame_affines(dataset, mask.path.name)
    try:
        pixels = np.asarray(dataset.pixel_array)
    except Exception as error:  # codecs raise anything
        raise ItemError("unreadable", f"{mask.path.name}: {message(error)}") from error
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    values = integral(pixels if (slope, intercept) == (1, 0) else pixels * slope + intercept, mask.path.name)
    frames = values[None] if values.ndim == 2 else values
    if frames.ndim != 3 or len(frames) != len(affines):
        raise ItemError("unsupported", f"{mask.path.name}: pixels of shape {pixels.shape} are no label map")
    yield from zip(affines, frames, strict=True)


def _volume(grid: Grid) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    if grid.affine is None or len(grid.shape) < 3 or grid.rows_first:
        raise ItemError("unsupported", f"{grid.path}: an image without a place in space for DICOM annotations")
    return grid.shape[:3], grid.affine


def _losses(name: str, mask: Array, outside: str) -> Iterator[Lost]:
    if outside:
        yield Lost(name, "not_placed", f"{outside} lie outside the image")
    elif not mask.any():
        yield Lost(name, "empty_mask", "nothing is drawn in it")
