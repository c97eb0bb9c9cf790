"""DICOM frames that lie in a plane of another image, placed by patient coordinates. RAS+ mm throughout.

Source: DICOM PS3.3 C.7.6.2.1.1 (image plane), C.7.6.16.2 (functional groups).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import ItemError
from etl.pixels.geometry import GRID_TOLERANCE
from etl.pixels.raster import Array, unreadable
from etl.privacy import message

IN_PLANE = 0.01
"""Rounding of a frame's origin within its plane, in pixels."""
ALONG = 0.1
"""Rounding of a frame's position along the normal, in slices: series are not perfectly even."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame (rows, columns) lies in a stored array: the array axis and its sign for columns and rows,
    the axis and index of the slice, and the array indices of the frame's first pixel along columns and rows."""

    columns: tuple[int, int]
    rows: tuple[int, int]
    slice_axis: int
    index: int
    corner: tuple[int, int]


def load(path: Path) -> Any:
    """The dataset of a DICOM file; ItemError when it is none."""
    import pydicom

    try:
        return pydicom.dcmread(path)
    except Exception as error:  # damaged files raise anything
        raise unreadable(path, f"no DICOM file: {message(error)}") from error


def frame_affines(dataset: Any, name: str) -> list[NDArray[np.float64]]:
    """For each frame the 4x4 from (column, row, 0, 1) to RAS+ mm.

    Raises:
        ItemError: `unsupported` when a frame has no position, orientation or pixel spacing.
    """
    count = int(dataset.get("NumberOfFrames") or 1)
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    frames = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if not frames:
        if count > 1:
            raise ItemError("unsupported", f"{name}: {count} frames without positions of their own")
        return [_affine(dataset, dataset, dataset, name)]
    return [
        _affine(
            _first(frame, "PlanePositionSequence") or _first(shared, "PlanePositionSequence"),
            _first(frame, "PlaneOrientationSequence") or _first(shared, "PlaneOrientationSequence"),
            _first(frame, "PixelMeasuresSequence") or _first(shared, "PixelMeasuresSequence"),
            name,
        )
        for frame in frames
    ]


def _first(dataset: Any, name: str) -> Any:
    sequence = dataset.get(name) if dataset is not None else None
    return sequence[0] if sequence else None


def _affine(position: Any, orientation: Any, measures: Any, name: str) -> NDArray[np.float64]:
    def numbers(dataset: Any, keyword: str, count: int) -> NDArray[np.float64]:
        value = dataset.get(keyword) if dataset is not None else None
        if value is None or len(value) != count:
            raise ItemError("unsupported", f"{name}: a frame without {keyword} cannot be placed")
        return np.array([float(v) for v in value])

    cosines = numbers(orientation, "ImageOrientationPatient", 6)
    row_spacing, column_spacing = numbers(measures, "PixelSpacing", 2)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = cosines[:3] * column_spacing, cosines[3:] * row_spacing
    affine[:3, 2] = np.cross(cosines[:3], cosines[3:])
    affine[:3, 3] = numbers(position, "ImagePositionPatient", 3)
    return np.asarray(LPS_TO_RAS @ affine)


def place(affine: NDArray[np.float64], size: tuple[int, int], grid: NDArray[np.float64]) -> Place:
    """Where a frame of ``size`` (rows, columns) lies in an array whose voxels ``grid`` (4x4) puts in space.

    Raises:
        ItemError: `geometry_mismatch` when its pixels are not those of a slice of the array.
    """
    relative = np.linalg.inv(grid) @ affine
    steps = np.rint(relative[:3, :2])
    turned = float(np.abs(relative[:3, :2] - steps).max())
    if turned > GRID_TOLERANCE or (np.abs(steps).sum(axis=0) != 1).any() or (np.abs(steps).sum(axis=1) > 1).any():
        raise ItemError("geometry_mismatch", f"a mask frame's pixels are off the image's by {turned:.2g} of a voxel")
    column_axis, row_axis = (int(np.abs(steps[:, n]).argmax()) for n in range(2))
    slice_axis = 3 - column_axis - row_axis
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    origin = relative[:3, 3] + (relative[:3, :2] - steps) @ middle
    whole = np.rint(origin)
    off = np.abs(origin - whole)
    allowed = np.full(3, IN_PLANE)
    allowed[slice_axis] = ALONG
    if (off > allowed).any():
        raise ItemError("geometry_mismatch", f"a mask frame lies {off.max():.2g} of a voxel beside the image's slices")
    return Place(
        (column_axis, int(steps[column_axis, 0])), (row_axis, int(steps[row_axis, 1])), slice_axis,
        int(whole[slice_axis]), (int(whole[column_axis]), int(whole[row_axis])),
    )  # fmt: skip


def put(volume: Array, frame: Array, at: Place) -> Array:
    """Write the nonzero pixels of a frame (rows, columns) into a stored array; returns those that lie outside it."""
    columns = at.corner[0] + at.columns[1] * np.arange(frame.shape[1])
    rows = at.corner[1] + at.rows[1] * np.arange(frame.shape[0])
    inside_columns = (columns >= 0) & (columns < volume.shape[at.columns[0]])
    inside_rows = (rows >= 0) & (rows < volume.shape[at.rows[0]])
    if not 0 <= at.index < volume.shape[at.slice_axis]:
        return np.asarray(frame[frame != 0])
    plane = np.moveaxis(volume, (at.slice_axis, at.rows[0], at.columns[0]), (0, 1, 2))[at.index]
    inner = frame[np.ix_(inside_rows, inside_columns)]
    target = np.ix_(rows[inside_rows], columns[inside_columns])
    plane[target] = np.where(inner != 0, inner, plane[target])
    outside = (frame != 0) & ~np.outer(inside_rows, inside_columns)
    return np.asarray(frame[outside])
