"""Any readable file as 2D images for the model: pictures, and the slices of volumes, through the project's readers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from etl import formats, geometry, intensity
from etl.errors import ItemError

CT_WINDOW = (40.0, 400.0)
PERCENTILE = (0.5, 99.5)
COLORS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#fabebe")


@dataclass(frozen=True, slots=True)
class View:
    """One 2D image (rows, columns[, 3]) uint8, named after its file and, for a slice, its axis and index."""

    name: str
    image: NDArray[np.uint8]


def views(path: Path, modality: str | None, *, axis: str = "axial", stride: int = 1) -> Iterator[View]:
    """The images of a file, cut and windowed as the dataset's: one picture, or every `stride`-th slice of a volume.

    Raises:
        ItemError: the file cannot be read; names it and the cause.
    """
    raster = formats.read(path)
    array = raster.array
    if raster.affine is None or array.ndim == 2:
        picture = array if raster.affine is None else array.T
        yield View(path.name, _grey(picture, modality, volume=False))
        return
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise ItemError("unsupported", f"{path.name}: an array of shape {array.shape}; give one volume a file")
    volume = geometry.canonical(array, geometry.orientation(raster.affine))
    axis = geometry.flat_axis(volume.shape) or axis
    grey = _grey(volume, modality, volume=True)
    for index in range(0, geometry.plane_size(volume.shape, axis)[0], stride):
        yield View(f"{path.name}:{axis}-{index:04d}", np.ascontiguousarray(geometry.plane(grey, axis, index)))


def _grey(array: NDArray[np.generic], modality: str | None, *, volume: bool) -> NDArray[np.uint8]:
    """8 bit: as it is, by the CT window, or between the percentiles of the whole image."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array, dtype=np.uint8)
    if modality == "ct" and volume:
        return intensity.to_uint8(array, intensity.window_bounds(*CT_WINDOW))
    return intensity.to_uint8(array, intensity.percentile_bounds(array, *PERCENTILE))


def drawn(image: NDArray[np.uint8], boxes: list[tuple[str, float, tuple[float, float, float, float]]]) -> Image.Image:
    """The image with (phrase, score, [x, y, width, height]) drawn on it, one colour a phrase."""
    picture = Image.fromarray(image).convert("RGB")
    scale = max(1, -(-512 // max(picture.size)))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    names = list(dict.fromkeys(name for name, _, _ in boxes))
    for name, score, (x, y, w, h) in sorted(boxes, key=lambda b: b[1]):
        color = COLORS[names.index(name) % len(COLORS)]
        corners = (x * scale, y * scale, (x + w) * scale - 1, (y + h) * scale - 1)
        pen.rectangle(corners, outline=color, width=2)
        text = f"{name} {score:.2f}"
        at = (corners[0] + 2, max(0.0, corners[1] - 12))
        pen.rectangle(pen.textbbox(at, text), fill="black")
        pen.text(at, text, fill=color)
    return picture
