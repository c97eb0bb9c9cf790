"""What every file reader returns, and the limits that every reader keeps."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl import privacy
from etl.errors import ItemError

Array = NDArray[Any]

MAX_DEFLATE_RATIO = 1032
"""Deflate cannot do better: a file that declares more per packed byte is cut off or a lie."""
MAX_BYTES = 16 * 2**30
"""Largest array, in bytes, that a file may declare; checked before anything is decoded."""

STACK_AFFINE = np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""Where the voxels of an array (rows, columns, slices) without geometry lie, so that axial slices show it as stored."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one slice comes from: a file, the frame in it from 0, and how DICOM calls it."""

    file: Path
    frame: int = 0
    uid: str | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """What a DICOM image says beyond its values.

    ``slices`` has the origin of each slice along array axis 2 (times of a 4D array one after another), or
    of each frame. ``window`` are its own grey bounds, ``curve`` its own grey curve (values, grey 0 to 255);
    ``invert``: low values are bright (MONOCHROME1). ``cine``: the first axis are frames of a sequence.
    ``tilt`` is the angle in degrees between the way slices are stacked and their normal (gantry tilt); such a
    volume is cut along axis 2 only. ``title`` describes the image in quarantine.
    """

    slices: tuple[Origin, ...]
    title: str
    window: tuple[float, float] | None = None
    curve: tuple[Array, Array] | None = None
    invert: bool = False
    cine: bool = False
    tilt: float = 0.0


@dataclass(frozen=True, slots=True)
class Raster:
    """The values of one file or series and where they lie.

    A picture has ``affine`` None and an array (rows, columns) or (rows, columns, 3).
    A file of a volume format has an array [i, j(, k(, t))] in file order, its 4x4 ``affine``
    from voxel indices to RAS+ millimetres, and its ``spacing`` in millimetres along i, j, k.
    ``scan`` is there for DICOM only; a sequence of frames has an array (frames, rows, columns[, 3]).
    """

    array: Array
    affine: NDArray[np.float64] | None = None
    spacing: tuple[float, ...] | None = None
    scan: Scan | None = None


def check_size(path: Path, shape: tuple[int, ...], itemsize: int, limit: int) -> int:
    """The bytes of an array of this shape; ItemError when it is empty or above ``limit``."""
    if not shape or min(shape) < 1:
        raise ItemError("unreadable", f"{path.name}: impossible dimensions {shape}")
    size = math.prod(shape) * itemsize
    if size > limit:
        raise ItemError("too_large", f"{path.name}: dimensions {shape} need {size} bytes, the limit is {limit}")
    return size


def check_packed(path: Path, size: int, packed: int) -> None:
    """Nothing, if ``packed`` bytes of deflate can hold ``size``; else an ItemError before anything is allocated."""
    if size > packed * MAX_DEFLATE_RATIO:
        raise unreadable(path, f"cut off: {packed} compressed bytes cannot hold {size}")


def check_affine(path: Path, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine (4x4) itself; ItemError when no voxel can be placed by it."""
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise ItemError("unreadable", f"{path.name}: its affine has no inverse")
    return affine


def spacing_of(affine: NDArray[np.float64], ndim: int) -> tuple[float, ...]:
    """Voxel size in mm along the first ``min(ndim, 3)`` array axes."""
    return tuple(float(np.linalg.norm(affine[:3, axis])) for axis in range(min(ndim, 3)))


def unreadable(path: Path, error: BaseException | str) -> ItemError:
    """An ItemError with our own words, or what may be told of a library's."""
    text = privacy.message(error) if isinstance(error, BaseException) else error
    return ItemError("unreadable", f"{path.name}: {text}")
