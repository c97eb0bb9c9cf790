"""Pictures of rows: thumbnails, crops, and the shapes of regions as SVG paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from etl.labels.diff import cropped
from etl.quality import samples

THUMB = 320  # longest side, pixels
CROP, GAP = 240, 8
LETTERS = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
"""What is left, right, above and below on a slice, as decided in geometry.plane."""


def thumb(row: dict[str, Any], show: str) -> bytes:
    """A small JPEG of a shard row with its masks, boxes, both or none."""
    record = samples.shown_in(row)
    return samples.jpeg(samples.painted(record, masks=show in ("both", "masks"), boxes=show in ("both", "boxes"),
                                        side=THUMB))  # fmt: skip


def crop(row: dict[str, Any], column: str, value: str) -> bytes | None:
    """A small JPEG around the largest region of a `label` or `raw_label`; None if there is none."""
    found = [region for region in row["regions"] if region[column] == value]
    if not found:
        return None
    return samples.jpeg(small(row["image"]["bytes"], max(found, key=lambda region: region["area"])["bbox"]))


def small(png: bytes, box: list[float]) -> Image.Image:
    """A small picture around a box of a picture."""
    picture: Image.Image = cropped(png, box)
    scale = CROP / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def strip(pictures: list[Image.Image], places: int) -> bytes:
    """A JPEG of small pictures side by side in a row of so many places."""
    row = Image.new("RGB", (places * (CROP + GAP) - GAP, CROP), "black")
    for n, picture in enumerate(pictures):
        row.paste(picture, (n * (CROP + GAP) + (CROP - picture.width) // 2, (CROP - picture.height) // 2))
    return samples.jpeg(row)


def shapes(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions of a row, largest first, with `fill` and `edge` of their masks as SVG path data (None without)."""
    found, colors = [], samples.colors(region["label_id"] for region in row["regions"])
    for region in sorted(row["regions"], key=lambda r: -r["area"]):
        counts = (region["segmentation"] or {}).get("counts")
        mask = None if counts is None else decoded(counts, row["height"], row["width"])
        found.append({
            **{k: region[k] for k in ("region_id", "key", "label", "label_id", "category", "body_region", "raw_label",
                                      "area", "area_fraction", "derived")},
            "box": [int(v) for v in region["bbox"]], "color": colors[region["label_id"]],
            "fill": None if mask is None else fill(mask), "edge": None if mask is None else edge(mask),
        })  # fmt: skip
    return found


def decoded(counts: str, height: int, width: int) -> npt.NDArray[np.uint8] | None:
    """The mask (rows, columns) of COCO run lengths, None where they do not fit the image."""
    try:
        mask: npt.NDArray[np.uint8] = coco_mask.decode({"size": [height, width], "counts": counts.encode()})
    except ValueError:
        return None
    return mask


def fill(mask: npt.NDArray[np.uint8]) -> str:
    """The pixels of a mask (rows, columns) as SVG path data: one rectangle for each run along a row."""
    rows, starts, stops = _runs(mask)
    runs = zip(rows.tolist(), starts.tolist(), (stops - starts).tolist(), strict=True)
    return "".join(f"M{x} {y}h{n}v1h-{n}z" for y, x, n in runs)


def edge(mask: npt.NDArray[np.uint8]) -> str:
    """The borders of a mask (rows, columns) as SVG path data, along the sides of its pixels."""
    framed = np.pad(mask, 1)
    level = _runs((framed[1:, 1:-1] != framed[:-1, 1:-1]).astype(np.uint8))
    upright = _runs((framed[1:-1, 1:] != framed[1:-1, :-1]).T.astype(np.uint8))
    parts = [f"M{a} {y}H{b}" for y, a, b in zip(*(part.tolist() for part in level), strict=True)]
    parts += [f"M{x} {a}V{b}" for x, a, b in zip(*(part.tolist() for part in upright), strict=True)]
    return "".join(parts)


def _runs(mask: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """(row, first column, column after the last) of each run of set pixels along the rows."""
    change = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(change == 1)
    _, stops = np.nonzero(change == -1)
    return rows, starts, stops


def proportions(row: dict[str, Any]) -> tuple[float, float]:
    """How many units wide and high a pixel is drawn, the smaller side 1, from the spacing (row, column) in mm."""
    spacing = row["spacing"]
    if not spacing or not all(np.isfinite(v) and v > 0 for v in spacing):
        return 1.0, 1.0
    height, width = spacing
    least = min(height, width)
    return round(width / least, 4), round(height / least, 4)
