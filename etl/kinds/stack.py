"""2D masks, one a slice, over a volume or a series."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etl import formats
from etl.errors import ItemError
from etl.kinds.layers import Grid, Layer, Mask
from etl.kinds.values import integral, meant, name_values
from etl.pixels.raster import Array, Raster

if TYPE_CHECKING:
    from etl.manifests.manifest import Rule


def image_stack(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Layer]:
    """One 2D mask for each slice; the k-th by file name belongs to the slice that the rule's `order` says.

    `position`: slice k of the stored third axis; `reversed`: counted from its other end; `filename`,
    `instance_number`: the slice whose own file is the k-th by name or by DICOM's Instance Number.
    """
    if grid.affine is None or len(grid.shape) != 3:
        raise ItemError("unsupported", f"{grid.path}: image_stack is for volumes, the image has shape {grid.shape}")
    paths = sorted((mask.path for mask in masks), key=natural)
    if len(paths) != grid.shape[2]:
        raise ItemError("shape_mismatch", f"{len(paths)} masks for {grid.shape[2]} slices")
    planes = [_plane(path, grid) for path in paths]
    return name_values(meant(rule, stacked(planes, rule.order, grid)), labels, grid.affine)


def stacked(planes: Sequence[Array], order: str, grid: Grid) -> Array:
    """Stored slices (i, j), one for each slice of the volume, at the places that ``order`` gives them."""
    array = np.zeros(grid.shape, np.result_type(*planes))
    for plane, k in zip(planes, _slices(order, grid), strict=True):
        array[:, :, k] = plane
    return array


def natural(path: Path) -> tuple[tuple[int, str], ...]:
    """A sorting key of a path: numbers in it count as numbers."""
    return tuple((int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", str(path)))


def _plane(path: Path, grid: Grid) -> Array:
    """Label values as a slice of the stored volume."""
    picture = formats.is_picture(path)
    raster = Raster(formats.read_indexed(path)) if picture else formats.read(path)
    array = integral(raster.array if raster.affine is None else np.squeeze(raster.array).T, path.name)
    if array.shape != grid.size:
        raise ItemError("shape_mismatch", f"{path.name}: mask {array.shape}, slices {grid.size} (rows, columns)")
    return array if grid.rows_first else array.T


def _slices(order: str, grid: Grid) -> list[int]:
    """The slice of the k-th mask."""
    count = grid.shape[2]
    if order == "position":
        return list(range(count))
    if order == "reversed":
        return list(range(count))[::-1]
    files = [origin.file for origin in grid.slices]
    if len(set(files)) != count:
        raise ItemError("unsupported", f"{grid.path}: order: {order} needs a series of one file a slice")
    if order == "filename":
        return sorted(range(count), key=lambda k: natural(files[k]))
    numbers = [-1 if origin.number is None else origin.number for origin in grid.slices]
    if len(set(numbers)) != count:
        raise ItemError("unsupported", f"{grid.path}: its slices have no Instance Numbers of their own")
    return sorted(range(count), key=lambda k: numbers[k])
