"""Any readable file as 2D images for the model: pictures, and the slices of volumes, through the project's readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from etl import formats
from etl.dicom import read as dicom
from etl.dicom.file import is_dicom_file
from etl.errors import ItemError
from etl.pixels import geometry, intensity
from etl.pixels.raster import Raster

CT_WINDOW = (40.0, 400.0)
PERCENTILE = (0.5, 99.5)
COLORS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#fabebe")


@dataclass(frozen=True, slots=True)
class View:
    """One 2D image (rows, columns[, 3]) uint8, named after its file and, for a slice, its axis and index."""

    name: str
    image: NDArray[np.uint8]


def views(path: Path, modality: str | None, *, axis: str = "axial", stride: int = 1) -> Iterator[View]:
    """The images of a file, cut and windowed as the dataset's: one picture, or every `stride`-th slice or frame.

    Raises:
        ItemError: the file cannot be read; names it and the cause.
    """
    yield from _views(path.name, formats.read(path), modality, axis, stride)


def views_below(
    folder: Path, modality: str | None, *, axis: str, stride: int, tell: Callable[[str], None]
) -> Iterator[View]:
    """The images of all files below a folder, DICOM by series; `tell` hears of what cannot be read."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    images, refused = dicom.find([p for p in files if is_dicom_file(p)])
    for one in refused:
        tell(f"{one.title}: {one.error}")
    readers = [(i.title, i.read) for i in images]
    readers += [(str(p.relative_to(folder)), partial(formats.read, p)) for p in files if not is_dicom_file(p)]
    for name, read in readers:
        try:
            yield from _views(name, read(), modality, axis, stride)
        except ItemError as error:
            tell(f"{name}: {error}")


def _views(name: str, raster: Raster, modality: str | None, axis: str, stride: int) -> Iterator[View]:
    array, scan = raster.array, raster.scan
    view = _view(raster, modality)
    invert = scan is not None and scan.invert
    if scan is not None and scan.cine:
        for index in range(0, len(array), stride):
            yield View(f"{name}:{index:04d}", intensity.to_grey(array[index], view, invert=invert))
        return
    if raster.affine is None or array.ndim == 2:
        yield View(name, intensity.to_grey(array if raster.affine is None else array.T, view, invert=invert))
        return
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise ItemError("unsupported", f"{name}: an array of shape {array.shape}; give one volume a file")
    volume = geometry.canonical(array, geometry.orientation(raster.affine))
    axis = geometry.flat_axis(volume.shape) or axis
    for index in range(0, geometry.plane_size(volume.shape, axis)[0], stride):
        plane = intensity.to_grey(geometry.plane(volume, axis, index), view, invert=invert)
        yield View(f"{name}:{axis}-{index:04d}", np.ascontiguousarray(plane))


def _view(raster: Raster, modality: str | None) -> intensity.View | None:
    """As the dataset's default: 8-bit values as they are, CT by its window, DICOM by its own, else percentiles."""
    if raster.array.dtype == np.uint8:
        return None
    if modality == "ct":
        return intensity.window_bounds(*CT_WINDOW)
    if raster.scan is not None and (raster.scan.window or raster.scan.curve):
        return raster.scan.window or raster.scan.curve
    return intensity.percentile_bounds(raster.array, *PERCENTILE)


def drawn(image: NDArray[np.uint8], boxes: list[tuple[str, float, tuple[float, float, float, float]]]) -> Image.Image:
    """The image with (phrase, score, [x, y, width, height]) drawn on it, one colour a phrase."""
    picture = Image.fromarray(image).convert("RGB")
    scale = max(1, -(-512 // max(picture.size)))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    size = max(11, max(picture.size) // 60)  # readable when the whole picture is on a screen
    font = ImageFont.load_default(size)
    names = list(dict.fromkeys(name for name, _, _ in boxes))
    for name, score, (x, y, w, h) in sorted(boxes, key=lambda b: b[1]):
        color = COLORS[names.index(name) % len(COLORS)]
        corners = (x * scale, y * scale, (x + w) * scale - 1, (y + h) * scale - 1)
        pen.rectangle(corners, outline=color, width=max(2, size // 8))
        text = f"{name} {score:.2f}"
        at = (corners[0] + 2, max(0.0, corners[1] - size - 2))
        pen.rectangle(pen.textbbox(at, text, font=font), fill="black")
        pen.text(at, text, fill=color, font=font)
    return picture
