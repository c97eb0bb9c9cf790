"""DICOM files to rasters: series become volumes, files without a place in the patient become pictures.

See docs/dicom.md for what is supported; pydicom is used in the modules of `etl/dicom/` only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_voi_lut

from etl.dicom import pixels as dicom_pixels
from etl.dicom.burned_in import identifying, text_outside
from etl.dicom.header import Frame, Header, frames_of, read_header, series_of, spacing_of
from etl.dicom.series import Refused, Stack, stacks, title
from etl.errors import ItemError
from etl.isolate import alive
from etl.pixels import intensity
from etl.pixels.raster import MAX_BYTES, Array, Origin, Raster, Scan, unreadable
from etl.pixels.raster import spacing_of as voxel_size

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
PICTURE_SPACING = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
CURVE_POINTS = 4096


@dataclass(frozen=True, slots=True)
class Image:
    """A volume or picture in some files, not yet decoded: its title, its files, and how to read it."""

    title: str
    files: tuple[Path, ...]
    source: Stack | Header

    @property
    def headers(self) -> list[Header]:
        """The header of each file."""
        if isinstance(self.source, Header):
            return [self.source]
        return list({frame.header.path: frame.header for plane in self.source.planes for frame in plane}.values())

    def read(self, limit: int = MAX_BYTES) -> Raster:
        """The values; ItemError why they cannot be read, or may not leave."""
        for header in self.headers:
            why = identifying(header.dataset)
            if why:
                raise ItemError("identifying", f"{header.path.name}: {why}")
        try:
            return _volume(self.source, self.title, limit) if isinstance(self.source, Stack) else _picture(self)
        except (ItemError, MemoryError):
            raise
        except Exception as error:  # damaged look-up tables raise anything
            raise unreadable(self.files[0], error) from error


def find(paths: Sequence[Path], limit: int = MAX_BYTES) -> tuple[list[Image], list[Refused]]:
    """The volumes and pictures of these files in order of their first file, and what makes none; headers only."""
    images: list[Image] = []
    refused: list[Refused] = []
    placed: list[Frame] = []
    for path in sorted(paths):
        alive()
        try:
            header = read_header(path, limit)
            own = frames_of(header)
        except ItemError as error:
            refused.append(Refused(path.name, error))
            continue
        if own[0].header.samples == 1 and all(_has_place(frame) for frame in own):
            placed += own
        else:
            images.append(Image(title(own), (path,), header))
    for found in stacks(placed):
        if isinstance(found, Refused):
            refused.append(found)
        else:
            flat = [frame for plane in found.planes for frame in plane]
            images.append(Image(title(flat), tuple(dict.fromkeys(f.header.path for f in flat)), found))
    images.sort(key=lambda image: min(image.files))
    return images, refused


def series(paths: Sequence[Path]) -> list[list[Path]]:
    """The files by study and series, in order of their first file; what cannot be read is alone."""
    groups: dict[object, list[Path]] = {}
    for path in sorted(paths):
        alive()
        groups.setdefault(series_of(path) or path, []).append(path)
    return list(groups.values())


def read(path: Path, limit: int = MAX_BYTES) -> Raster:
    """The one image of a file; ItemError if it holds none or several."""
    images, refused = find([path], limit)
    if refused:
        raise refused[0].error
    if len(images) != 1:
        raise ItemError("unsupported", f"{path.name}: {len(images)} volumes in one file: {titles(images)}")
    return images[0].read(limit)


def titles(images: Iterable[Image]) -> str:
    """The titles of images, for a message."""
    return "; ".join(image.title for image in images)


def _has_place(frame: Frame) -> bool:
    return frame.position is not None and frame.along is not None and frame.spacing is not None


def _volume(stack: Stack, name: str, limit: int) -> Raster:
    array = dicom_pixels.volume(stack, limit)
    flat = [frame for plane in stack.planes for frame in plane]
    invert = flat[0].header.photometric == "MONOCHROME1"
    origins = tuple(_origin(frame.header, frame.index) for frame in flat)
    scan = Scan(origins, name, window=_common_window(flat), invert=invert, tilt=stack.tilt)
    return Raster(array, stack.affine, voxel_size(stack.affine, array.ndim), scan)


def _origin(header: Header, index: int) -> Origin:
    return Origin(header.path, index, header.uid or None, header.number)


def _common_window(frames: Sequence[Frame]) -> tuple[float, float] | None:
    """The grey bounds of a volume: those of its planes, their medians where the planes differ (as in MR)."""
    windows = [frame.window for frame in frames]
    if any(window is None for window in windows):
        return None
    bounds = np.array([intensity.window_bounds(*window) for window in windows if window is not None])
    low, high = np.median(bounds, axis=0)
    return float(low), float(high)


def _picture(image: Image) -> Raster:
    header = image.source
    assert isinstance(header, Header)
    if header.photometric not in (*MONOCHROME, "PALETTE COLOR", "RGB") and not header.photometric.startswith("YBR"):
        raise ItemError("unsupported", f"{header.path.name}: photometric interpretation {header.photometric}")
    first = frames_of(header)[0]
    grey = header.photometric in MONOCHROME
    stored = dicom_pixels.frames(header)
    why = text_outside(header.dataset, stored)
    if why:
        raise ItemError("identifying", f"{header.path.name}: {why}")
    array = dicom_pixels.rescaled_frames(first, stored) if grey else stored
    window, curve = _grey_view(header.dataset, first, array) if grey else (None, None)
    cine = len(array) > 1
    origins = tuple(_origin(header, index) for index in range(len(array)))
    scan = Scan(origins, image.title, window, curve, header.photometric == "MONOCHROME1", cine)
    spacing: Any = first.spacing or spacing_of(header.dataset, PICTURE_SPACING)
    return Raster(array if cine else array[0], None, spacing, scan)


def _grey_view(dataset: Dataset, first: Frame, array: Array) -> tuple[Any, Any]:
    """(bounds, curve) of the file's own VOI (PS3.3 C.11.2): a VOI LUT goes before a window, as pydicom prefers."""
    function = str(dataset.get("VOILUTFunction", "")).upper()
    if first.window is not None and function != "SIGMOID" and not dataset.get("VOILUTSequence"):
        return intensity.window_bounds(*first.window), None
    if not dataset.get("VOILUTSequence") and first.window is None:
        return None, None
    if array.dtype.kind in "iu":
        low, high = int(array.min()), int(array.max())
        steps = np.unique(np.linspace(low, high, min(high - low + 1, 1 << 16)).astype(array.dtype))
    else:
        steps = np.linspace(float(array.min()), float(array.max()), CURVE_POINTS)
    if dataset.get("VOILUTSequence"):
        grey = np.asarray(apply_voi_lut(steps, dataset, prefer_lut=True), np.float64)
        top = float((1 << _lut_bits(dataset)) - 1)
        return None, (steps.astype(np.float64), 255 * grey / top)
    center, width = first.window or (0.0, 1.0)
    grey = 255 / (1 + np.exp(-4 * (steps.astype(np.float64) - center) / width))
    return None, (steps.astype(np.float64), grey)


def _lut_bits(dataset: Dataset) -> int:
    bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
    if not 1 <= bits <= 16:
        raise ItemError("unreadable", f"a VOI LUT of {bits} bits")
    return bits
