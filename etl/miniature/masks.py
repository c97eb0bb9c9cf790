"""Drawn marks to mask files, for the kinds whose files are arrays or pictures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.demo.shapes import Mask, contour
from etl.errors import UsageError
from etl.manifests.manifest import Rule
from etl.miniature import files
from etl.miniature.shapes import Grid, Mark, union

Array = NDArray[Any]
Drawn = Sequence[tuple[Mark, list[Mask]]]
"""Each mark with the masks of its blocks, on the grid."""


def write(path: Path, rule: Rule, grid: Grid, drawn: Drawn, *, times: int = 0, series: bool = False) -> None:
    """Write one mask file; with `times`, one volume a time, of which the last is annotated.

    An array without a place in space lies as its image is stored: as rows, columns, slices of a DICOM `series`.

    Raises:
        UsageError: a kind for which a miniature cannot be drawn.
    """
    if rule.kind == "multipage":
        planes = [np.zeros(grid.shape[:2], np.uint8) for _ in range(max(mark.value for mark, _ in drawn) + 1)]
        for mark, blocks in drawn:
            planes[mark.value][union(blocks)[:, :, 0]] = 255
        files.pages(path, list(planes))
        return
    array = values(rule, grid, drawn, picture=files.format_of(path.name) == "picture")
    if files.format_of(path.name) == "array" and not grid.native:
        array = np.swapaxes(array[::-1, ::-1], 0, 1) if series else files.placed(array, grid)[0]
    if times:
        array = np.stack([*[np.zeros_like(array)] * (times - 1), array], axis=-1)
    files.save(path, *_own_grid(rule, array, grid), rule.variable)


def _own_grid(rule: Rule, array: Array, grid: Grid) -> tuple[Array, Grid]:
    """A volume on the grid that `mask_grid` speaks of: with a rim around the image, or with a header that lies."""
    if grid.native or rule.mask_grid is None:
        return array, grid
    if rule.mask_grid == "voxels":
        return array, replace(grid, turned=grid.turned + 20)
    i, j, k = grid.shape
    return np.pad(array, [(1, 1)] * 3 + [(0, 0)] * (array.ndim - 3)), replace(grid, shape=(i + 2, j + 2, k + 2))


def write_stack(paths: Sequence[Path], rule: Rule, grid: Grid, drawn: Drawn, *, series: bool) -> None:
    """Write a picture for each slice; `series`: of a DICOM series, whose slices are shown from above."""
    array = values(rule, grid, drawn, picture=True)
    if not series:
        array, _ = files.placed(array, grid)
    planes = [array[::-1, ::-1, k].T if series else array[:, :, k].T for k in range(array.shape[2])]
    if rule.order == "reversed" or (rule.order == "instance_number" and series):
        planes.reverse()  # Instance Numbers of such a series count from its other end
    for path, plane in zip(paths, planes, strict=False):
        files.picture(path, np.ascontiguousarray(plane))


def values(rule: Rule, grid: Grid, drawn: Drawn, *, picture: bool) -> Array:
    """The array of a mask file: (i, j, k) or (rows, columns, frame[, 3])."""
    if rule.kind == "color_map":
        return _colors(rule, grid, drawn)
    if rule.kind in ("binary", "file_per_label", "outline"):
        high = 255 if picture else max(1, int(rule.threshold or 0) + 1)
        inside = union([block for _, blocks in drawn for block in blocks] or [np.zeros(grid.shape, bool)])
        if rule.kind == "outline":
            inside = np.stack([contour(inside[:, :, k]) for k in range(grid.shape[2])], axis=2)
        return np.asarray(np.where(inside, high, 0), _type(high))
    if rule.kind == "bitfield":
        bits = np.zeros(grid.shape, np.uint32)
        for mark, blocks in drawn:
            bits[union(blocks)] |= np.uint32(1 << mark.value)
        return bits
    if rule.kind in ("label_map", "image_stack", "dicom_label", "mat", "npy"):
        return _labels(rule, grid, drawn)
    raise UsageError(f"annotations of kind {rule.kind} cannot be drawn yet")


def _labels(rule: Rule, grid: Grid, drawn: Drawn) -> Array:
    used = [mark.value for mark, _ in drawn]
    ground = next(v for v in (0, 255) if v not in used)
    array = np.full(grid.shape, ground, _type(max([*used, ground], default=0), min(used, default=0)))
    for mark, blocks in drawn:
        array[union(blocks)] = mark.value
    return array


def _type(largest: int, least: int = 0) -> type[np.integer[Any]]:
    kinds: tuple[type[np.integer[Any]], ...] = (np.uint8, np.int16, np.uint16, np.int32, np.uint32)
    return next(k for k in kinds if np.iinfo(k).min <= least and largest <= np.iinfo(k).max)


def _colors(rule: Rule, grid: Grid, drawn: Drawn) -> Array:
    array = np.zeros((*grid.shape, 3), np.uint8)
    array[:] = _channels(int(rule.background[1:], 16))
    for mark, blocks in drawn:
        array[union(blocks)] = _channels(mark.value)
    return array


def _channels(color: int) -> tuple[int, int, int]:
    return color >> 16, color >> 8 & 255, color & 255
