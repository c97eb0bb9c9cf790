"""Kinds whose files are arrays: MATLAB and NumPy."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from etl import formats
from etl.errors import ItemError
from etl.formats import arrays
from etl.kinds.layers import Grid, Layer, Mask, unite
from etl.kinds.stack import stacked
from etl.kinds.values import integral, meant, name_values
from etl.pixels.raster import Array, Raster

if TYPE_CHECKING:
    from etl.manifests.manifest import Rule


def array_values(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Layer]:
    """Values on the image's own grid, as a label map; or one mask a channel, numbered from 0.

    Channels are the first or last axis of an array with one axis more than the image, or the rows of a
    sparse matrix (channels, rows * columns). Planes over a series go where the rule's `order` says.
    """
    layers: list[Layer] = []
    for mask in masks:
        array = _read(mask.path, rule.variable)
        shape, affine = _own_grid(grid)
        if affine is not None and len(shape) == 3 and (grid.slices or rule.order != "position"):
            array, shape = _in_order(_squeezed(array, shape), rule.order, grid), grid.shape
        channels = _channels(array, shape)
        if channels is None:
            layers += name_values(meant(rule, integral(_squeezed(array, shape), mask.path.name)), labels, affine)
        else:
            layers += unite(_channel_groups(channels, labels, affine))
    return layers


def _read(path: Path, variable: str | None) -> Array:
    found = formats.sniff(path)
    if found not in arrays.READERS:
        raise ItemError("unsupported", f"{path.name}: neither a MATLAB nor a NumPy file")
    return arrays.read(path, found, variable)


def _own_grid(grid: Grid) -> tuple[tuple[int, ...], NDArray[np.float64] | None]:
    """The shape that a mask array must have, and its affine: a 2D image is (rows, columns) without one."""
    if grid.affine is None or len(grid.shape) == 2:
        return grid.size, None
    return grid.shape, grid.affine


def _in_order(array: Array, order: str, grid: Grid) -> Array:
    """A stack of planes on the slices that ``order`` says.

    Over a DICOM series its axes are (rows, columns, slices) or (slices, rows, columns); else those of the image.
    """
    by_rows = bool(grid.slices)
    shape = (*grid.size, grid.shape[2]) if by_rows else grid.shape
    if array.shape != shape and array.shape == (shape[2], *shape[:2]):
        array = np.moveaxis(array, 0, 2)
    if array.shape != shape:
        raise ItemError("shape_mismatch", f"an array {array.shape} over slices {shape}")
    return stacked([array[:, :, k].T if by_rows else array[:, :, k] for k in range(shape[2])], order, grid)


def _squeezed(array: Array, shape: tuple[int, ...]) -> Array:
    """Without axes of extent 1 behind the image's own: MATLAB and NumPy keep them."""
    while array.ndim > len(shape) and array.shape[-1] == 1:
        array = array[..., 0]
    return array


def _channels(array: Array, shape: tuple[int, ...]) -> Array | None:
    """The masks of an array (channels, *shape); None for an array of values."""
    array = _squeezed(array, shape)
    if array.shape[-1:] == (int(np.prod(shape)),) and array.ndim == 2 and array.shape != shape:
        return array.reshape(-1, *shape)
    if array.ndim == len(shape) + 1 and array.shape[:-1] == shape:
        return np.moveaxis(array, -1, 0)
    if array.ndim == len(shape) + 1 and array.shape[1:] == shape:
        return array
    return None


def _channel_groups(
    channels: Array, labels: dict[str, str], affine: NDArray[np.float64] | None
) -> Iterator[tuple[str, str | None, list[Raster]]]:
    parts: dict[str, list[int]] = {}
    for number in range(len(channels)):
        parts.setdefault(labels.get(str(number), f"\0{number}"), []).append(number)
    for name, numbers in parts.items():
        defined = not name.startswith("\0")
        rasters = [Raster(np.asarray(channels[n] != 0), affine) for n in numbers]
        if defined or any(raster.array.any() for raster in rasters):
            yield f"channel {numbers[0]}", name if defined else None, rasters
