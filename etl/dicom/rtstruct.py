"""RT Structure Sets: the contours of each ROI, and what they enclose on the slices of an image.

Source: DICOM PS3.3 C.8.8.5 (Structure Set), C.8.8.6 (ROI Contour).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.dicom import planes as dicom_planes
from etl.errors import ItemError
from etl.pixels.raster import unreadable

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
FLAT = 0.5
"""A contour whose points differ more than this along a slice's normal, in slices, is not in its plane."""
SAME_PLANE = 0.02
"""Contours this near along the normal, in slices, are drawn in one plane: a contour inside another is its hole."""

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Roi:
    """One region of interest: its name, its closed contours as points (n, 3) in RAS+ mm, and how many contours of
    other types (points, open lines) it has."""

    name: str
    contours: list[Floats] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Filled:
    """The voxels (bool, stored axes) inside the contours of an ROI, and how many contours lie outside of the image or
    in no plane of it."""

    mask: NDArray[np.bool_]
    outside: int = 0
    oblique: int = 0


def read(path: Path) -> list[Roi]:
    """The ROIs of a structure set, in its order.

    Raises:
        ItemError: `unreadable`, `unsupported` (another kind of DICOM file).
    """
    dataset = dicom_planes.load(path)
    if dataset.get("SOPClassUID") != RT_STRUCTURE_SET:
        raise ItemError("unsupported", f"{path.name}: not an RT Structure Set")
    try:
        items = dataset.StructureSetROISequence
        rois = {int(item.ROINumber): Roi(str(item.get("ROIName") or "").strip()) for item in items}
        for item in dataset.get("ROIContourSequence") or ():
            roi = rois.get(int(item.ReferencedROINumber))
            for contour in item.get("ContourSequence") or () if roi is not None else ():
                _add(roi, contour)
    except Exception as error:  # damaged elements raise anything when they are looked at
        raise unreadable(path, error) from error
    return list(rois.values())


def _add(roi: Any, contour: Any) -> None:
    kind = str(contour.get("ContourGeometricType") or "none")
    points = np.array([float(v) for v in contour.get("ContourData") or ()])
    if points.size % 3 or not np.isfinite(points).all():
        raise ValueError(f"ROI {roi.name}: Contour Data of {points.size} numbers")
    if kind in CLOSED and points.size >= 9:
        roi.contours.append(points.reshape(-1, 3) * (-1.0, -1.0, 1.0))
    else:
        roi.other[kind] += 1


def fill(contours: Sequence[Floats], shape: tuple[int, ...], affine: Floats) -> Filled:
    """What contours (RAS+ mm) enclose in an array of ``shape`` whose voxels ``affine`` (4x4) puts in space.

    Each contour goes to the nearest slice within half a spacing. Contours of one plane count by even-odd: one
    inside another is a hole. A voxel is inside if its centre is.
    """
    result = Filled(np.zeros(shape[:3], bool))
    inverse = np.linalg.inv(affine)
    slices: dict[tuple[int, int], list[tuple[float, Floats]]] = defaultdict(list)
    for contour in contours:
        voxels = contour @ inverse[:3, :3].T + inverse[:3, 3]
        spread = np.ptp(voxels, axis=0)
        axis = 2 if spread[2] <= FLAT else int(spread.argmin())
        if spread[axis] > FLAT:
            result.oblique += 1
            continue
        height = float(voxels[:, axis].mean())
        index = math.floor(height + 0.5)
        across = np.delete(voxels, axis, axis=1)
        inside = 0 <= index < shape[axis] and (across.max(axis=0) >= -0.5).all()
        if not inside or (across.min(axis=0) > np.delete(shape[:3], axis) - 0.5).any():
            result.outside += 1
            continue
        slices[axis, index].append((height, across))
    for (axis, index), drawn in slices.items():
        plane = np.moveaxis(result.mask, axis, 0)[index]
        for rings in _planes(drawn):
            plane |= even_odd(rings, (plane.shape[0], plane.shape[1]))
    return result


def _planes(drawn: list[tuple[float, Floats]]) -> list[list[Floats]]:
    """The contours of one slice, those of one plane together and each once."""
    planes: list[list[Floats]] = []
    last = -math.inf
    for height, ring in sorted(drawn, key=lambda item: item[0]):
        if height - last > SAME_PLANE:
            planes.append([])
        last = height
        if not any(ring.shape == other.shape and np.array_equal(ring, other) for other in planes[-1]):
            planes[-1].append(ring)
    return planes


def even_odd(rings: Sequence[Floats], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Grid points (a, b) of ``shape`` inside an odd number of closed rings of points (n, 2) in grid coordinates.

    Along each line of constant a, a point is inside when an odd number of edges cross at or before its b; an edge
    owns its lower end and not its upper one, so that rings that share an edge neither overlap nor leave a gap.
    """
    turns = np.zeros((shape[0], shape[1] + 1), np.int64)
    for ring in rings:
        start, end = ring, np.roll(ring, -1, axis=0)
        low = np.where((start[:, :1] <= end[:, :1]), start, end)
        high = np.where((start[:, :1] <= end[:, :1]), end, start)
        first = np.clip(np.ceil(low[:, 0]), 0, shape[0]).astype(int)
        stop = np.clip(np.ceil(high[:, 0]), 0, shape[0]).astype(int)
        counts = np.maximum(stop - first, 0)
        edge = np.repeat(np.arange(len(ring)), counts)
        line = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        rise = high[edge, 0] - low[edge, 0]
        cross = low[edge, 1] + (line - low[edge, 0]) * (high[edge, 1] - low[edge, 1]) / rise
        np.add.at(turns, (line, np.clip(np.ceil(cross), 0, shape[1]).astype(int)), 1)
    return np.asarray(np.cumsum(turns[:, :-1], axis=1) % 2 == 1)
