"""A first look at a source: one picture a case with its masks drawn in, and the names of what is shown."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from etl.errors import ItemError
from etl.manifests.manifest import Manifest, Window
from etl.pixels import geometry, intensity
from etl.pixels.regions import regions
from etl.sources.case import Loaded, load
from etl.sources.inventory import Case

Array = NDArray[Any]
SIDE, TEXT, LINE = 320, 68, 12
"""Longest side of a picture, height of the text below it, height of a line of it; pixels."""
COLUMNS, CASES = 4, 12
COLORS = ((230, 25, 75), (60, 180, 75), (255, 225, 25), (67, 99, 216), (245, 130, 49), (66, 212, 244), (240, 50, 230),
          (191, 239, 69), (250, 190, 212), (70, 153, 144), (220, 190, 255), (154, 99, 36))  # fmt: skip
CT_WINDOW, PERCENTILE = (40.0, 400.0), (0.5, 99.5)


def write_sheet(manifest: Manifest, root: Path, cases: Sequence[Case], path: Path) -> int:
    """Write a PNG of these cases, the slice with most annotated pixels of each; returns how many it shows."""
    tiles = list(_tiles(manifest, root, cases))
    if not tiles:
        return 0
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (min(len(tiles), COLUMNS) * SIDE, rows * (SIDE + TEXT)), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % COLUMNS * SIDE, number // COLUMNS * (SIDE + TEXT)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return len(tiles)


def _tiles(manifest: Manifest, root: Path, cases: Iterable[Case]) -> Iterator[Image.Image]:
    for case in cases:
        try:
            for loaded in load(case, manifest, root, lambda *_: None)[:COLUMNS]:  # the report names what is refused
                yield tile(loaded, manifest)
        except ItemError:  # the report names it
            continue


def tile(loaded: Loaded, manifest: Manifest) -> Image.Image:
    """One image with masks in colour and the names of its labels."""
    axis, index = _best(loaded)
    plane = loaded.frames[index] if loaded.volume is None else geometry.plane(loaded.volume, axis, index)
    grey = _grey(plane, loaded, manifest)
    colored = grey if grey.ndim == 3 else np.stack([grey] * 3, axis=-1)
    picture, shown = _painted(colored, loaded, axis, index)
    scale = SIDE / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    result = Image.new("RGB", (SIDE, SIDE + TEXT), "white")
    result.paste(Image.fromarray(picture).resize(size), (0, 0))
    draw = ImageDraw.Draw(result)
    for _, (x, y, w, h), color in shown:
        box = (x * scale, y * scale, (x + w) * scale - 1, (y + h) * scale - 1)
        draw.rectangle((*box[:2], max(box[0], box[2]), max(box[1], box[3])), outline=color)
    draw.text((2, SIDE + 1), f"{loaded.case} {axis} {index}"[:52], fill="black")
    _legend(draw, dict.fromkeys((name, color) for name, _, color in shown))
    return result


def _legend(draw: ImageDraw.ImageDraw, names: Iterable[tuple[str, tuple[int, int, int]]]) -> None:
    x, y = 2, SIDE + 1 + LINE
    for name, color in names:
        width = int(draw.textlength(name)) + LINE + 8
        if x + width > SIDE:
            x, y = 2, y + LINE
        if y + LINE > SIDE + TEXT:
            return
        draw.rectangle((x, y + 2, x + LINE - 4, y + LINE - 2), fill=color)
        draw.text((x + LINE, y), name, fill="black")
        x += width


def _best(loaded: Loaded) -> tuple[str, int]:
    """The axis, axial where it has the largest slices, and the slice with most annotated pixels."""
    if loaded.volume is None:
        counts = [sum(int(np.count_nonzero(x.array[..., n])) for x in loaded.layers) for n in range(len(loaded.frames))]
        return "native", int(np.argmax(counts))
    sizes = {axis: geometry.plane_size(loaded.volume.shape, axis) for axis in geometry.AXES}
    axis = max(geometry.AXES, key=lambda a: (min(sizes[a][1:]) >= 32, a == "axial", min(sizes[a][1:])))
    others = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[axis]
    counts_along = sum((np.count_nonzero(x.array, axis=others) for x in loaded.layers), np.zeros(sizes[axis][0], int))
    return axis, int(np.argmax(counts_along))


def _grey(plane: Array, loaded: Loaded, manifest: Manifest) -> Array:
    view = manifest.view
    if plane.dtype == np.uint8 and not isinstance(view.window, Window):
        return plane
    if isinstance(view.window, Window):
        return intensity.to_uint8(plane, intensity.window_bounds(view.window.center, view.window.width))
    if manifest.modality == "ct" and loaded.volume is not None and view.percentile is None:
        return intensity.to_uint8(plane, intensity.window_bounds(*CT_WINDOW))
    return intensity.to_uint8(plane, intensity.percentile_bounds(plane, *(view.percentile or PERCENTILE)))


def _painted(
    picture: Array, loaded: Loaded, axis: str, index: int
) -> tuple[Array, list[tuple[str, tuple[int, int, int, int], tuple[int, int, int]]]]:
    """The picture with its masks half transparent, and (raw label, box, colour) of each region."""
    colored = picture.astype(np.float64)
    shown = []
    known: dict[str, int] = {}
    for layer in loaded.layers:
        labels = layer.array[..., index] if axis == "native" else geometry.plane(layer.array, axis, index)
        for region in regions(labels):
            name = layer.names.get(region.value) or f"value {layer.undefined.get(region.value, region.value)}"
            color = COLORS[known.setdefault(name, len(known)) % len(COLORS)]
            inside = labels == region.value
            colored[inside] = 0.6 * colored[inside] + 0.4 * np.array(color)
            shown.append((name, (region.x, region.y, region.width, region.height), color))
    for group in loaded.objects:
        for item in group.found:
            color = COLORS[known.setdefault(item.name, len(known)) % len(COLORS)]
            at = item.region
            shown.append((item.name, (at.x, at.y, at.width, at.height), color))
    return np.rint(colored).astype(np.uint8), shown
