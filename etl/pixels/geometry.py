"""Orientation, cuts and grids. Pure NumPy; world coordinates are millimetres, RAS+."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from etl.errors import ItemError

Array = npt.NDArray[np.generic]
AXES = ("axial", "coronal", "sagittal")
GRID_TOLERANCE = 1e-3  # of a voxel


@dataclass(frozen=True, slots=True)
class Orientation:
    """How to bring a stored array to the closest canonical RAS+ array.

    `order[w]` is the stored axis that runs along world axis w (0 right, 1 anterior, 2 superior) and
    `flip[w]` says whether it runs against it. `angle` is the largest remaining angle in degrees.
    """

    order: tuple[int, int, int]
    flip: tuple[bool, bool, bool]
    angle: float


def orientation(affine: Array) -> Orientation:
    """The closest canonical orientation of a 4x4 voxel to world affine.

    Raises:
        ItemError: `geometry_mismatch` if the affine is singular or not finite.
    """
    linear = np.asarray(affine, dtype=np.float64)[:3, :3]
    norms = np.linalg.norm(linear, axis=0)
    if not np.all(np.isfinite(affine)) or np.any(norms == 0) or abs(np.linalg.det(linear / norms)) < 1e-6:
        raise ItemError("geometry_mismatch", "the affine is singular or not finite; the voxel directions are unknown")
    cosines = linear / norms
    order = _closest_axes(np.abs(cosines))
    flip = tuple(bool(cosines[w, order[w]] < 0) for w in range(3))
    angles = [np.degrees(np.arccos(min(1.0, abs(cosines[w, order[w]])))) for w in range(3)]
    return Orientation(order, (flip[0], flip[1], flip[2]), float(max(angles)))


def _closest_axes(cosines: Array) -> tuple[int, int, int]:
    """The assignment of stored axes to world axes with the largest sum of cosines."""
    best = max(
        ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)),
        key=lambda p: round(float(sum(cosines[w, p[w]] for w in range(3))), 9),
    )
    return best


def canonical(array: Array, to: Orientation) -> Array:
    """A view of `array` (i, j, k, ...) with axes swapped and flipped to RAS+; no interpolation."""
    view = np.transpose(array, to.order + tuple(range(3, array.ndim)))
    return view[tuple(slice(None, None, -1) if f else slice(None) for f in to.flip)]


def canonical_affine(affine: Array, shape: tuple[int, ...], to: Orientation) -> npt.NDArray[np.float64]:
    """The affine of `canonical(array, to)`, for an array of `shape` with this `affine`."""
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for w, stored in enumerate(to.order):
        change[stored, w] = -1 if to.flip[w] else 1
        change[stored, 3] = shape[stored] - 1 if to.flip[w] else 0
    result: npt.NDArray[np.float64] = np.asarray(affine, dtype=np.float64) @ change
    return result


def spacing(affine: Array) -> tuple[float, float, float]:
    """Voxel edge lengths (i, j, k) in mm."""
    norms = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return (float(norms[0]), float(norms[1]), float(norms[2]))


def planes(volume: Array, axis: str) -> Array:
    """An RAS+ volume as images [slice, row, column] of an axis; a view.

    Axial: anterior on top, the patient's right on the left. Coronal: superior on top, right on the
    left. Sagittal: superior on top, anterior on the left.
    """
    order, flipped = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}[axis], slice(None, None, -1)
    return volume.transpose(order)[:, flipped, flipped]


def plane(volume: Array, axis: str, index: int) -> Array:
    """Slice `index` of an RAS+ volume as an image (rows, columns); a view. See `planes`."""
    shown: Array = planes(volume, axis)[index]
    return shown


def plane_size(shape: tuple[int, ...], axis: str) -> tuple[int, int, int]:
    """(number of slices, height, width) of an axis of an RAS+ volume of this shape."""
    i, j, k = shape[:3]
    return {"axial": (k, j, i), "coronal": (j, k, i), "sagittal": (i, k, j)}[axis]


def plane_spacing(voxel: tuple[float, float, float], axis: str) -> tuple[float, float]:
    """(row, column) spacing in mm of an axis of an RAS+ volume."""
    i, j, k = voxel
    return {"axial": (j, i), "coronal": (k, i), "sagittal": (k, j)}[axis]


def voxel_of(shape: tuple[int, ...], axis: str, index: int, row: int, column: int) -> tuple[int, int, int]:
    """The RAS+ voxel shown at (row, column) of a slice: the inverse of `plane`."""
    i, j, k = shape[:3]
    if axis == "axial":
        return i - 1 - column, j - 1 - row, index
    if axis == "coronal":
        return i - 1 - column, index, k - 1 - row
    return index, j - 1 - column, k - 1 - row


def flat_axis(shape: tuple[int, ...]) -> str | None:
    """The axis along which an RAS+ volume of extent 1 is a single image, if there is one."""
    i, j, k = shape[:3]
    return "axial" if k == 1 else "coronal" if j == 1 else "sagittal" if i == 1 else None


def nearest(mask: Array, mask_affine: Array, shape: tuple[int, ...], affine: Array) -> Array:
    """A label array (i, j, k) brought to another grid: each voxel takes the mask's nearest one in patient space.

    Voxels outside the mask's grid get 0. Both affines are 4x4, voxel to RAS+ mm.
    """
    relative = np.linalg.inv(np.asarray(mask_affine, float)) @ np.asarray(affine, float)
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    result = np.zeros(shape[:3], mask.dtype)
    for k in range(shape[2]):
        found = [np.floor(r[0] * i + r[1] * j + r[2] * k + r[3] + 0.5).astype(np.int64) for r in relative[:3]]
        inside = np.all([(f >= 0) & (f < n) for f, n in zip(found, mask.shape, strict=True)], axis=0)
        result[..., k][inside] = mask[tuple(f[inside] for f in found)]
    return result


def require_same_grid(shape: tuple[int, ...], affine: Array, mask_shape: tuple[int, ...], mask_affine: Array) -> None:
    """Check that a canonical mask grid is the canonical image grid.

    Raises:
        ItemError: `shape_mismatch` or `geometry_mismatch` (spacing, direction, or the origin
            at the best corner are off by more than 1e-3 of a voxel).
    """
    if shape[:3] != mask_shape[:3]:
        reason = "geometry_mismatch" if _same_extent(shape, affine, mask_shape, mask_affine) else "shape_mismatch"
        raise ItemError(reason, f"image grid {_by(shape)}, mask grid {_by(mask_shape)} (RAS+ order)")
    relative = np.linalg.inv(np.asarray(affine, float)) @ np.asarray(mask_affine, float)
    turned = float(np.max(np.abs(relative - np.eye(4))[:3, :3]))
    ends = [(0, n - 1) for n in shape[:3]]
    corners = np.array([[x, y, z, 1] for x in ends[0] for y in ends[1] for z in ends[2]], float).T
    moved = float(np.abs(relative @ corners - corners)[:3].max(axis=0).min())
    if max(turned, moved) > GRID_TOLERANCE:
        detail = f"the mask's spacing or direction is off by {turned:.2g} and its origin by {moved:.2g} of a voxel"
        raise ItemError("geometry_mismatch", detail)


def _same_extent(shape: tuple[int, ...], affine: Array, mask_shape: tuple[int, ...], mask_affine: Array) -> bool:
    """Whether two grids of different shapes cover about the same space: then it is a grid of its own."""
    ours = np.array(shape[:3]) * np.array(spacing(affine))
    theirs = np.array(mask_shape[:3]) * np.array(spacing(mask_affine))
    finer = np.any(np.abs(np.array(spacing(affine)) / np.array(spacing(mask_affine)) - 1) > 0.01)
    return bool(finer and np.all(np.abs(ours - theirs) < 0.1 * ours))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape[:3])
