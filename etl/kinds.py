"""Annotation files to layers: integer arrays whose values have the source's own names.

Every kind of the manifest is one function in `KINDS`. What a file holds and the manifest does not
name keeps a value of its own without a name, so that it is reported and not lost.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from etl import formats
from etl.errors import ItemError, UsageError
from etl.pictures import is_jpeg
from etl.raster import Array, Raster

if TYPE_CHECKING:
    from etl.manifest import Rule

INTEGRAL = 1e-3
"""A float label value this near to an integer is that integer."""
JPEG_THRESHOLD = 127.0
LINE_SHARE, THIN_SHARE = 0.2, 0.5
"""A part that encloses nothing and covers less of its box than this is an open line, not a filled area;
the second where it is nowhere three pixels wide."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One annotation on the mask file's own grid.

    ``names`` maps values to raw labels. Values of one raw label are instances: each is a region of its
    own. A nonzero value without a name is undefined; ``undefined`` holds its text where it has one.
    """

    array: Array
    names: dict[int, str]
    affine: NDArray[np.float64] | None = None
    undefined: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask file and the text that ``{label}`` captured in its path."""

    path: Path
    label: str | None = None


Reader = Callable[["Rule", Sequence[Mask], dict[str, str]], list[Layer]]


def read_layers(case_masks: Sequence[tuple["Rule", Path, str | None]], labels: dict[str, str]) -> list[Layer]:
    """The layers of a case, rule by rule; a rule's own ``labels`` replace the manifest's."""
    rules: list[tuple[Rule, list[Mask]]] = []
    for rule, path, label in case_masks:
        known = next((masks for other, masks in rules if other == rule), None)
        if known is None:
            rules.append((rule, known := []))
        known.append(Mask(path, label))
    layers: list[Layer] = []
    for rule, masks in rules:
        reader = KINDS.get(rule.kind)
        if reader is None:
            raise ItemError("unsupported", f"{masks[0].path.name}: annotations of kind {rule.kind} are not read yet")
        own = getattr(rule, "labels", None)
        layers += reader(rule, masks, labels if own is None else {str(key): name for key, name in own.items()})
    return layers


def integral(array: Array, name: str = "mask") -> Array:
    """The label values as integers: floats are rounded when all are integral within 1e-3."""
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array
    if not np.isfinite(array).all():
        raise ItemError("unreadable", f"{name}: label values that are not finite")
    rounded = np.rint(array)
    distance = np.abs(array - rounded)
    if distance.size and distance.max() > INTEGRAL:
        worst = float(array.flat[int(distance.argmax())])
        raise ItemError("unreadable", f"{name}: label value {worst:g} is not an integer")
    return rounded.astype(_signed(int(np.abs(rounded).max(initial=0))))


def _signed(largest: int) -> type[np.signedinteger]:
    return next(kind for kind in (np.int16, np.int32, np.int64) if largest <= np.iinfo(kind).max)


def _label_map(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str]) -> list[Layer]:
    layers: list[Layer] = []
    for mask in masks:
        picture = formats.is_picture(mask.path)
        raster = Raster(formats.read_indexed(mask.path)) if picture else formats.read(mask.path)
        layers += name_values(integral(raster.array, mask.path.name), labels, raster.affine)
    return layers


def name_values(array: Array, labels: dict[str, str], affine: NDArray[np.float64] | None = None) -> list[Layer]:
    """Layers of an integer array, with keys ``"3"``, ``"1-10"`` (instances) and ``">0"`` (all together).

    Single values of one raw label become one value. A named 0 gets a value of its own, as 0 is background.
    Keys that are no numbers belong to other rules and are passed over.
    """
    together = [(int(key[1:]), name) for key, name in labels.items() if re.fullmatch(r">\d+", key)]
    layers = [Layer((array > bound).astype(np.uint8), {1: name}, affine) for bound, name in together]
    names, merged = _value_names(labels, array)
    for value, first in merged.items():
        wide = array.astype(np.promote_types(array.dtype, np.min_scalar_type(first)))
        array = np.where(array == value, wide.dtype.type(first), wide)
    if together:
        other = (array > min(bound for bound, _ in together)) & ~np.isin(array, list(names))
        array = np.where(other, array.dtype.type(0), array)
    if 0 in names:
        array, names = _move_zero(array, names)
    keep = names or array.any() or not layers
    return [Layer(array, names, affine), *layers] if keep else layers


def _value_names(labels: dict[str, str], array: Array) -> tuple[dict[int, str], dict[int, int]]:
    """Value → raw label, and value → the first value of the same raw label, for plain keys."""
    names: dict[int, str] = {}
    first: dict[str, int] = {}
    merged: dict[int, int] = {}
    largest = int(array.max(initial=0))
    for key, name in labels.items():
        single, span = re.fullmatch(r"-?\d+", key), re.fullmatch(r"(\d+)-(\d+)", key)
        if single:
            value = int(key)
            _claim(names, value, name, key)
            if first.setdefault(name, value) != value:
                merged[value] = first[name]
        elif span:
            start = int(span[1])
            for value in range(start, max(start, min(int(span[2]), largest)) + 1):
                _claim(names, value, name, key)
    for value in merged:
        del names[value]
    fits = np.iinfo(array.dtype)
    return names, {value: to for value, to in merged.items() if fits.min <= value <= fits.max}


def _claim(names: dict[int, str], value: int, name: str, key: str) -> None:
    if value in names:
        raise UsageError(f"label key {key!r} ({name}): value {value} is {names[value]} already")
    names[value] = name


def _move_zero(array: Array, names: dict[int, str]) -> tuple[Array, dict[int, str]]:
    value = max(int(array.max(initial=0)), *names) + 1
    wide = array.astype(np.promote_types(array.dtype, _signed(max(value, -int(array.min(initial=0))))))
    wide[array == 0] = value
    return wide, {value: names[0], **{key: name for key, name in names.items() if key}}


def _foreground(rule: "Rule", path: Path) -> Raster:
    """The pixels (bool) above the rule's threshold; the default is 0, and 127 for JPEG."""
    picture = formats.is_picture(path)
    raster = Raster(formats.read_grey(path)) if picture else formats.read(path)
    threshold = rule.threshold
    if threshold is None:
        threshold = JPEG_THRESHOLD if picture and is_jpeg(path) else 0.0
    return Raster(raster.array > threshold, raster.affine)


def _binary(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str]) -> list[Layer]:
    return unite([("1", labels.get("1"), [_foreground(rule, mask.path) for mask in masks])])


def _file_per_label(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str]) -> list[Layer]:
    groups: dict[tuple[str | None, str], list[Path]] = {}
    for mask in masks:
        text = mask.label or ""
        name = labels.get(text)
        groups.setdefault((name, text if name is None else ""), []).append(mask.path)
    return unite((text, name, (_foreground(rule, path) for path in paths)) for (name, text), paths in groups.items())


def unite(groups: Iterable[tuple[str, str | None, Iterable[Raster]]]) -> list[Layer]:
    """Layers of (key, raw label or None, bool rasters): the rasters of one group and grid are united.

    Groups that do not overlap share an array, so a hundred organs of a scan need few of them.
    """
    layers: list[Layer] = []
    for value, (key, name, parts) in enumerate(groups, 1):
        if value > np.iinfo(np.uint16).max:
            raise ItemError("too_large", "more than 65535 labels in one case")
        for part in _union(parts):
            layer = _room(layers, part)
            layer.array[part.array] = value
            if name is None:
                layer.undefined[value] = key
            else:
                layer.names[value] = name
    return layers


def _union(parts: Iterable[Raster]) -> list[Raster]:
    united: list[Raster] = []
    for part in parts:
        same = next((other for other in united if _same_grid(other, part)), None)
        if same is None:
            united.append(part)
        else:
            same.array[part.array] = True
    return united


def _room(layers: list[Layer], part: Raster) -> Layer:
    """A layer on the part's grid with nothing where the part lies; a new one if there is none."""
    for layer in layers:
        if _same_grid(layer, part) and not layer.array[part.array].any():
            return layer
    layers.append(Layer(np.zeros_like(part.array, np.uint16), {}, part.affine))
    return layers[-1]


def _same_grid(layer: Layer | Raster, part: Raster) -> bool:
    if layer.array.shape != part.array.shape or (layer.affine is None) != (part.affine is None):
        return False
    return layer.affine is None or part.affine is None or np.array_equal(layer.affine, part.affine)


def _color_map(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str]) -> list[Layer]:
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


def _outline(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str]) -> list[Layer]:
    return unite([("1", labels.get("1"), [_filled(rule, mask.path) for mask in masks])])


def _filled(rule: "Rule", path: Path) -> Raster:
    raster = _foreground(rule, path)
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


def _multipage(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str]) -> list[Layer]:
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


KINDS: dict[str, Reader] = {
    "label_map": _label_map,
    "binary": _binary,
    "file_per_label": _file_per_label,
    "color_map": _color_map,
    "outline": _outline,
    "multipage": _multipage,
}
