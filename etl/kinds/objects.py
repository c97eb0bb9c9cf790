"""Kinds with one file of drawn objects an image: Pascal VOC, YOLO, LabelMe."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import orjson
from PIL import Image

from etl.errors import ItemError
from etl.isolate import alive
from etl.kinds.layers import Annotation, Grid, Lost, Mask, Object, Objects
from etl.pixels import shapes
from etl.pixels.raster import unreadable
from etl.pixels.regions import Found
from etl.pixels.shapes import Size
from etl.privacy import message

if TYPE_CHECKING:
    from etl.manifests.manifest import Rule

MAX_FILE = 256 * 2**20
"""Largest text file of annotations in bytes."""

Drawn = tuple[str, Callable[[], Found]]
"""The class as the source writes it, and how to measure the object."""


def placed(drawn: Iterable[Drawn], labels: dict[str, str], size: Size) -> list[Annotation]:
    """The objects of a picture (rows, columns); one that cannot be measured is lost, with the reason."""
    found: list[Object] = []
    lost: list[Annotation] = []
    for text, measure in drawn:
        name = labels.get(text)
        try:
            found.append(Object(text if name is None else name, name is not None, measure()))
        except ItemError as error:
            lost.append(Lost(text if name is None else name, error.reason, error.detail))
    return [Objects(size, tuple(found)), *lost]


def flat_size(grid: Grid) -> Size:
    """(rows, columns) of a picture; ItemError for a volume, where a drawn box has no place."""
    if grid.affine is not None and len(grid.shape) > 2:
        raise ItemError("unsupported", f"{grid.path}: boxes and polygons are for 2D images, this is {grid.shape}")
    return grid.size


def require_size(rows: float | None, columns: float | None, grid: Grid) -> None:
    """ItemError `shape_mismatch` when an annotation was drawn on an image of another size (0 or None: not said)."""
    if rows and columns and (rows, columns) != flat_size(grid):
        detail = f"annotated at {rows:g}x{columns:g}, the image has {grid.size[0]}x{grid.size[1]} (rows x columns)"
        raise ItemError("shape_mismatch", detail)


def read_text(path: Path) -> bytes:
    """The bytes of an annotation file; ItemError when it is gone or too large."""
    alive()
    try:
        if path.stat().st_size > MAX_FILE:
            raise ItemError("too_large", f"{path.name}: more than {MAX_FILE} bytes of annotations")
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error


def yolo(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """Lines of `class x y width height` (centre and size as shares of the image) or `class x y x y x y …`."""
    lines = (line for mask in masks for line in _lines(mask.path))
    size = flat_size(grid)
    return placed(((line[0], _yolo_shape(line, size)) for line in lines), labels, size)


def _lines(path: Path) -> Iterator[list[str]]:
    text = read_text(path).decode("utf-8-sig", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words:
            if not words[0].isdecimal():
                raise unreadable(path, f"line {number}: '{words[0][:40]}' is no class number")
            yield [str(int(words[0])), *words[1:]]


def _yolo_shape(words: list[str], size: Size) -> Callable[[], Found]:
    def measure() -> Found:
        try:
            values = [float(word) for word in words[1:]]
        except ValueError as error:
            raise ItemError("unreadable", str(error)) from error
        rows, columns = size
        if len(values) == 4:
            x, y, width, height = values
            left, top = (x - width / 2) * columns, (y - height / 2) * rows
            return shapes.box(left, top, left + width * columns, top + height * rows, size)
        if len(values) < 6 or len(values) % 2:
            raise ItemError("unreadable", f"a line of {len(words)} values; a box has 5, a polygon 7 or more, odd")
        return shapes.polygons([[v * (rows if n % 2 else columns) for n, v in enumerate(values)]], size)

    return measure


def voc(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """Pascal VOC XML: `xmin` to `xmax` count from 1 and both belong to the box."""
    size = flat_size(grid)
    drawn: list[Drawn] = []
    for mask in masks:
        root = _xml(mask.path)
        require_size(_number(root, "size/height", 0), _number(root, "size/width", 0), grid)
        drawn += [((node.findtext("name") or "").strip(), _voc_shape(node, size)) for node in root.iter("object")]
    return placed(drawn, labels, size)


def _xml(path: Path) -> ElementTree.Element:
    data = read_text(path)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise unreadable(path, "XML with a document type or entities is refused")
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise unreadable(path, f"no XML: {message(error)}") from error


def _number(node: ElementTree.Element, name: str, default: float) -> float:
    try:
        return float(node.findtext(name) or default)
    except ValueError:
        return math.nan if math.isnan(default) else default


def _voc_shape(node: ElementTree.Element, size: Size) -> Callable[[], Found]:
    def measure() -> Found:
        x0, y0, x1, y1 = (_number(node, f"bndbox/{name}", math.nan) for name in ("xmin", "ymin", "xmax", "ymax"))
        return shapes.box(x0 - 1, y0 - 1, x1, y1, size)

    return measure


def labelme(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """LabelMe JSON: polygons, rectangles (given boxes), circles, masks; shapes of one `group_id` are one object."""
    size = flat_size(grid)
    drawn: list[Drawn] = []
    for mask in masks:
        try:
            document = orjson.loads(read_text(mask.path))
            nodes = [dict(node) for node in document["shapes"]]
        except (ValueError, KeyError, TypeError) as error:
            raise unreadable(mask.path, f"no LabelMe JSON: {message(error)}") from error
        require_size(document.get("imageHeight"), document.get("imageWidth"), grid)
        drawn += [(label, _labelme_shape(group, size)) for label, group in _groups(nodes)]
    return placed(drawn, labels, size)


def _groups(nodes: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    groups: dict[Any, tuple[str, list[dict[str, Any]]]] = {}
    for number, node in enumerate(nodes):
        label, group = str(node.get("label", "")), node.get("group_id")
        key = ("alone", number) if group is None else (label, str(group))
        groups.setdefault(key, (label, []))[1].append(node)
    yield from groups.values()


def _labelme_shape(group: list[dict[str, Any]], size: Size) -> Callable[[], Found]:
    def measure() -> Found:
        try:
            parts = [_labelme_part(node, size) for node in group]
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise ItemError("unreadable", f"a LabelMe shape without valid points ({message(error)})") from error
        return parts[0] if len(parts) == 1 else shapes.united(parts, size)

    return measure


def _labelme_part(node: dict[str, Any], size: Size) -> Found:
    kind = node.get("shape_type") or "polygon"
    points = [(float(x), float(y)) for x, y in node["points"]]
    if kind == "polygon":
        return shapes.polygons([[v for point in points for v in point]], size)
    if kind == "rectangle":
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return shapes.box(min(xs), min(ys), max(xs), max(ys), size)
    if kind == "circle":
        return shapes.circle(points[0], points[1], size)
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(node["mask"]))) as image:
            if image.width > size[1] or image.height > size[0]:
                raise ItemError("not_placed", f"a mask {image.height}x{image.width} is larger than the picture")
            return shapes.bitmap(np.asarray(image.convert("L")) > 0, (round(points[0][1]), round(points[0][0])), size)
    raise ItemError("unsupported", f"a LabelMe shape of type {kind} has no area")
