"""Kinds of pictures: colours, drawn outlines, pages."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from etl import formats
from etl.errors import ItemError
from etl.kinds.layers import Grid, Layer, Mask, unite
from etl.kinds.values import foreground
from etl.pixels.raster import Array, Raster

if TYPE_CHECKING:
    from etl.manifests.manifest import Rule

LINE_SHARE, THIN_SHARE = 0.2, 0.5
"""A part that encloses nothing and covers less of its box than this is an open line, not a filled area;
the second where it is nowhere three pixels wide."""


def color_map(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Layer]:
    """One layer a colour picture; `labels` is keyed by `#rrggbb`."""
    return [name_colors(formats.read_colors(mask.path), labels, rule.tolerance, rule.background) for mask in masks]


def name_colors(colors: Array, labels: dict[str, str], tolerance: float = 0, background: str = "#000000") -> Layer:
    """A layer of a colour picture (rows, columns, 3): each pixel is the nearest colour within ``tolerance``.

    The distance is Euclidean in RGB, 0 to 255. Each colour that is none of them is an undefined value.
    """
    known = {packed: name for key, name in labels.items() if (packed := _packed(key)) is not None}
    names = dict(enumerate(dict.fromkeys(known.values()), 1))
    numbers = {name: number for number, name in names.items()}
    targets = {packed: numbers[name] for packed, name in known.items()}
    targets.setdefault(_packed(background) or 0, 0)
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    found, inverse = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    values = np.zeros(len(found), np.int32)
    undefined: dict[int, str] = {}
    for index, color in enumerate(found.tolist()):
        near = min(targets, key=lambda target: (_distance(target, color), target))
        if _distance(near, color) <= tolerance:
            values[index] = targets[near]
        else:
            values[index] = number = len(names) + len(undefined) + 1
            undefined[number] = f"#{color:06x}"
    return Layer(values[inverse].reshape(colors.shape[:2]), names, None, undefined)


def _packed(text: str) -> int | None:
    return int(text[1:], 16) if re.fullmatch(r"#[0-9a-fA-F]{6}", text) else None


def _distance(one: int, other: int) -> float:
    squares = (((one >> shift & 255) - (other >> shift & 255)) ** 2 for shift in (16, 8, 0))
    return float(sum(squares) ** 0.5)


def outline(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Layer]:
    """What drawn contours enclose, united under the label of `1`."""
    return unite([("1", labels.get("1"), [_filled(rule, mask.path) for mask in masks])])


def _filled(rule: "Rule", path: Path) -> Raster:
    raster = foreground(rule, path)
    if raster.array.ndim == 2:
        return Raster(fill_outline(raster.array, path.name), raster.affine)
    if raster.array.ndim != 3:
        raise ItemError("unsupported", f"{path.name}: an outline in {raster.array.ndim} dimensions")
    planes = [fill_outline(raster.array[..., k], path.name) for k in range(raster.array.shape[2])]
    return Raster(np.stack(planes, axis=2), raster.affine)


def fill_outline(contour: Array, name: str = "mask") -> NDArray[np.bool_]:
    """The contour (bool, rows, columns) with what it encloses; a border of the picture may close it.

    Areas that are filled already stay as they are. ItemError when the contour is open.
    """
    filled = np.asarray(ndimage.binary_fill_holes(contour), bool)
    parts, count = ndimage.label(filled, np.ones((3, 3)))
    for part, box in enumerate(ndimage.find_objects(parts, count), 1):
        own = parts[box] == part
        if (own & ~contour[box]).any() or not _is_line(own):
            continue
        joined = _closed_at_border(parts == part)
        closed = np.asarray(ndimage.binary_fill_holes(joined), bool)
        if np.array_equal(closed, joined):
            raise ItemError("unreadable", f"{name}: its outline is not closed")
        filled |= closed
    return filled


def _is_line(part: NDArray[np.bool_]) -> bool:
    """Whether a connected part (in its own box) is a drawn line rather than a filled area."""
    share = part.mean()
    thin = not ndimage.binary_erosion(part, np.ones((3, 3))).any()
    return bool(share < LINE_SHARE or (thin and share < THIN_SHARE))


def _closed_at_border(contour: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The contour, joined along each border that it touches more than once."""
    closed = contour.copy()
    for line in (closed[0], closed[-1], closed[:, 0], closed[:, -1]):
        touching = np.flatnonzero(line)
        if touching.size:
            line[touching[0] : touching[-1] + 1] = True
    return closed


def multipage(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Layer]:
    """One layer a page of a TIFF; `labels` is keyed by the number of the page."""
    return [layer for mask in masks for layer in _pages(rule, mask.path, labels)]


def _pages(rule: "Rule", path: Path, labels: dict[str, str]) -> list[Layer]:
    """One layer a page, its value the page number from 0 plus 1; pages of one raw label are united."""
    layers: dict[str, Layer] = {}
    for number, page in enumerate(formats.read_pages(path)):
        grey = page.max(axis=2) if page.ndim == 3 else page
        inside = grey > (rule.threshold or 0)
        name = labels.get(str(number))
        layer = layers.get(name or "")
        if name is None or layer is None or layer.array.shape != grey.shape:
            layer = Layer(np.zeros(grey.shape, np.uint16), {}, None)
            layers[f"\0{number}" if name is None else name] = layer
        value = next(iter(layer.names), number + 1)
        layer.array[inside] = value
        (layer.undefined if name is None else layer.names)[value] = name or str(number)
    return list(layers.values())
