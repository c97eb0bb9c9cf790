"""Kinds whose one file lists many images: COCO JSON, CSV of boxes, CSV of run lengths, JSON of polygons.

A file is parsed once per process, however many images it serves. An image that it lists without an object was
looked at and shows nothing; an image that it does not list has no annotation.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from etl.errors import ItemError
from etl.kinds.layers import Annotation, Grid, Mask
from etl.kinds.objects import Drawn, flat_size, placed, read_text, require_size
from etl.pixels import shapes
from etl.pixels.raster import unreadable
from etl.pixels.regions import Found
from etl.pixels.shapes import Size
from etl.privacy import message

if TYPE_CHECKING:
    from etl.manifests.manifest import Rule

OPEN_FILES = 8
"""Parsed files that a process keeps."""
COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "filename", "file_name", "image_id", "imageid", "image_name", "image_path", "path", "id"),
    "label": ("label", "class", "class_name", "classname", "category", "category_name", "finding"),
    "xmin": ("xmin", "x_min", "x1", "left"),
    "ymin": ("ymin", "y_min", "y1", "top"),
    "xmax": ("xmax", "x_max", "x2", "right"),
    "ymax": ("ymax", "y_max", "y2", "bottom"),
    "x": ("x", "bbox_x"),
    "y": ("y", "bbox_y"),
    "width": ("width", "w", "bbox_width"),
    "height": ("height", "h", "bbox_height"),
    "rle": ("rle", "encodedpixels", "encoded_pixels", "segmentation", "mask"),
}
"""What each column may be called, in any case, where the rule's `columns` says nothing; the first one found counts."""
POLYGON_KEYS = {"image": "file_name", "label": "labels", "polygons": "polygons"}
"""The keys of a JSON list of polygons, where the rule's `columns` says nothing."""
CORNERS, EXTENT = ("xmin", "ymin", "xmax", "ymax"), ("x", "y", "width", "height")
NOTHING = frozenset({"", "-1", "nan", "none", "null", "na", "[]"})
"""An empty cell of run lengths or boxes: the image was looked at, nothing is there."""
ANY_LABEL = "\0"
"""The class of objects in a file without a column of classes."""

Shape = Callable[[Any, Size], Found]


@dataclass(slots=True)
class Entry:
    """One listed image: (rows, columns) where the file says so, and its objects as (class, what was drawn)."""

    size: tuple[float | None, float | None] = (None, None)
    objects: list[tuple[str, Any]] = field(default_factory=list)


class Listing:
    """The images of one annotation file by the name it gives them; ``measure`` turns what was drawn into a region."""

    def __init__(self, entries: dict[str, Entry], measure: Shape) -> None:
        self.entries, self.measure = entries, measure
        self.by_last: dict[str, list[str]] = {}
        for name in entries:
            self.by_last.setdefault(name.rsplit("/", 1)[-1], []).append(name)

    def name_of(self, path: str, case: str = "") -> str | None:
        """The listed name of an image: the end of its path, with or without the extension, or its case name.

        A listed name with folders that are not in the path counts when no other has its last part.
        ItemError when several do.
        """
        parts = path.split("/")
        for start in range(len(parts)):
            whole = "/".join(parts[start:])
            for name in (whole, _stem(whole)):
                if name in self.entries:
                    return name
        if case in self.entries:
            return case
        near = self.by_last.get(parts[-1]) or self.by_last.get(_stem(parts[-1])) or []
        if len(near) > 1:
            raise ItemError("unreadable", f"{path}: listed {len(near)} times, as {near[0]} and {near[1]}")
        return near[0] if near else None


def coco(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """COCO instances: polygons, run lengths and, where there are neither, boxes; classes by name."""
    return _objects(rule, masks, labels, grid)


def csv_boxes(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """One box a row: corners, or corner and extent, in pixels."""
    return _objects(rule, masks, labels, grid)


def rle_csv(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """One run-length encoding a row: pairs of start (from 1, column by column, or as `runs` says) and length."""
    return _objects(rule, masks, labels, grid)


def json_polygons(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    """A JSON list of images, each with a list of classes and, in the same order, a list of polygons."""
    return _objects(rule, masks, labels, grid)


def listing(rule: "Rule", path: Path) -> Listing:
    """The parsed file; ItemError when it is no file of the rule's kind."""
    stat = path.stat()
    columns = (*sorted((rule.columns or {}).items()), ("runs", rule.runs))
    return _parsed(rule.kind, path, stat.st_size, stat.st_mtime_ns, columns)


@lru_cache(maxsize=OPEN_FILES)
def _parsed(kind: str, path: Path, size: int, changed: int, columns: tuple[tuple[str, str], ...]) -> Listing:
    return LISTINGS[kind](path, dict(columns))


def _objects(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Annotation]:
    size = flat_size(grid)
    drawn: list[Drawn] = []
    seen = False
    for mask in masks:
        known = listing(rule, mask.path)
        name = known.name_of(grid.path, grid.case)
        if name is None:
            continue
        seen = True
        entry = known.entries[name]
        require_size(*entry.size, grid)
        drawn += [(_class(text, labels, mask.path), _measure(known, what, size)) for text, what in entry.objects]
    if not seen:
        raise ItemError("no_mask", f"{masks[0].path.name} does not list {grid.path}")
    return placed(drawn, labels, size)


def _measure(known: Listing, what: Any, size: Size) -> Callable[[], Found]:
    return lambda: known.measure(what, size)


def _class(text: str, labels: dict[str, str], path: Path) -> str:
    if text != ANY_LABEL:
        return text
    if len(labels) != 1:
        raise unreadable(path, "no column of classes; name it in columns: {label: …}, or give the rule one label only")
    return next(iter(labels))


def _read_coco(path: Path, columns: Mapping[str, str]) -> Listing:
    try:
        document = orjson.loads(read_text(path))
        classes = {node["id"]: str(node["name"]) for node in document["categories"]}
        names = {node["id"]: _clean(node["file_name"]) for node in document["images"]}
        entries: dict[str, Entry] = {}
        for node in document["images"]:
            entries.setdefault(names[node["id"]], Entry((node.get("height"), node.get("width"))))
        for node in document.get("annotations") or ():
            image = names.get(node["image_id"])
            if image is not None:
                number = node["category_id"]
                what = (node.get("segmentation"), node.get("bbox"))
                entries[image].objects.append((classes.get(number, f"category {number}"), what))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(path, f"no COCO JSON of instances: {type(error).__name__} {message(error)}") from error
    return Listing(entries, _coco_shape)


def _coco_shape(what: Any, size: Size) -> Found:
    segmentation, box = what
    try:
        if isinstance(segmentation, dict):
            return shapes.rle(segmentation, size)
        if segmentation:
            return shapes.polygons(segmentation, size)
        x, y, width, height = (float(v) for v in box)
    except (TypeError, ValueError) as error:
        raise ItemError("unreadable", f"neither a segmentation nor a box of four numbers ({message(error)})") from error
    return shapes.box(x, y, x + width, y + height, size)


def _read_boxes(path: Path, columns: Mapping[str, str]) -> Listing:
    rows, names = _table(path, columns)
    corners = all(role in names for role in CORNERS)
    wanted = CORNERS if corners else EXTENT
    missing = [role for role in wanted if role not in names]
    if missing:
        raise unreadable(path, f"no column {', '.join(missing)}; name it in columns: {{{missing[0]}: …}}")
    entries = _entries(rows, names, lambda row: _cells(row, [names[role] for role in wanted]))
    return Listing(entries, _corner_box if corners else _extent_box)


def _cells(row: dict[str, str], columns: list[str]) -> list[str] | None:
    cells = [(row.get(column) or "").strip() for column in columns]
    return None if all(cell.lower() in NOTHING for cell in cells) else cells


def _corner_box(what: list[str], size: Size) -> Found:
    x0, y0, x1, y1 = (_float(cell) for cell in what)
    return shapes.box(x0, y0, x1, y1, size)


def _extent_box(what: list[str], size: Size) -> Found:
    x, y, width, height = (_float(cell) for cell in what)
    return shapes.box(x, y, x + width, y + height, size)


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _read_runs(path: Path, columns: Mapping[str, str]) -> Listing:
    rows, names = _table(path, columns)
    if "rle" not in names:
        raise unreadable(path, "no column of run lengths; name it in columns: {rle: …}")

    def cell(row: dict[str, str]) -> str | None:
        text = (row.get(names["rle"]) or "").strip()
        return None if text.lower() in NOTHING else text

    return Listing(_entries(rows, names, cell), partial(_run_shape, rows_first=columns.get("runs") == "rows"))


def _run_shape(what: str, size: Size, *, rows_first: bool) -> Found:
    try:
        numbers = [int(word) for word in re.split(r"[\s,]+", what.strip("[]() "))]
    except ValueError as error:
        raise ItemError("unreadable", f"run lengths with {error}") from error
    if len(numbers) % 2:
        raise ItemError("unreadable", f"run lengths of {len(numbers)} numbers; they come in pairs")
    starts = [start - 1 for start in numbers[0::2]]
    return shapes.row_runs(starts, numbers[1::2], size) if rows_first else shapes.runs(starts, numbers[1::2], size)


def _read_polygons(path: Path, columns: Mapping[str, str]) -> Listing:
    image, label, polygons = (columns.get(role, usual) for role, usual in POLYGON_KEYS.items())
    entries: dict[str, Entry] = {}
    try:
        for node in orjson.loads(read_text(path)):
            objects = zip(map(str, node[label]), node[polygons], strict=True)
            entries.setdefault(_clean(node[image]), Entry()).objects.extend(objects)
    except (ValueError, KeyError, TypeError) as error:
        wanted = f"a JSON list of objects with the keys {image}, {label} and {polygons}, the last two equally long"
        raise unreadable(path, f"not {wanted}: {type(error).__name__} {error}") from error
    return Listing(entries, _polygon_shape)


def _polygon_shape(what: Any, size: Size) -> Found:
    try:
        ring = [float(v) for x, y in what for v in (x, y)]
    except (TypeError, ValueError) as error:
        raise ItemError("unreadable", f"a polygon that is no list of [x, y] points ({error})") from error
    return shapes.polygons([ring], size)


def _entries(
    rows: Iterator[dict[str, str]], names: Mapping[str, str], drawn: Callable[[dict[str, str]], Any]
) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for row in rows:
        image = _clean(row.get(names["image"]) or "")
        if image:
            entry = entries.setdefault(image, Entry())
            what = drawn(row)
            if what is not None:
                text = (row.get(names["label"]) or "").strip() if "label" in names else ANY_LABEL
                entry.objects.append((text, what))
    return entries


def _table(path: Path, columns: Mapping[str, str]) -> tuple[Iterator[dict[str, str]], dict[str, str]]:
    """The rows of a CSV or TSV, and the column of each role."""
    data = read_text(path)
    text = data.decode("utf-8-sig") if _is_utf8(data) else data.decode("latin-1")
    head = text.split("\n", 1)[0]
    csv.field_size_limit(2**30)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), restval="")
    given = {name.strip().lower(): name for name in reversed(reader.fieldnames or [])}
    names: dict[str, str] = {}
    for role, usual in COLUMNS.items():
        found = next((given[name.lower()] for name in _candidates(columns, role, usual) if name.lower() in given), None)
        if found is not None:
            names[role] = found
        elif role in columns:
            raise unreadable(path, f"no column '{columns[role]}'; its columns are {', '.join(given.values())}")
    if "image" not in names:
        raise unreadable(path, "no column of image names; name it in columns: {image: …}")
    return iter(reader), names


def _candidates(columns: Mapping[str, str], role: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    return (columns[role],) if role in columns else usual


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return True


def _clean(name: Any) -> str:
    return str(name).strip().replace("\\", "/").removeprefix("./").lstrip("/")


def _stem(name: str) -> str:
    return re.sub(r"(\.nii)?\.[A-Za-z][A-Za-z0-9]*$", "", name)


LISTINGS: dict[str, Callable[[Path, Mapping[str, str]], Listing]] = {
    "coco": _read_coco,
    "csv_boxes": _read_boxes,
    "rle_csv": _read_runs,
    "json_polygons": _read_polygons,
}
