"""Makes `docs/pictures/concept-*.png` from the built demo. usage: concepts.py OUT FOLDER

`OUT` is built from the demo with `--profile small`; what the pictures show is what stands in its shards.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#00c8c8")
LEAST = 0.015
VOLUME, AT = "demo_ct_abdomen/s01-1", {"axial": 20, "coronal": 26, "sagittal": 38}
ENDS = {"axial": "ARLP", "coronal": "SRLI", "sagittal": "SAPI"}  # top, left, right, bottom


def pixels(row: dict[str, Any]) -> Image.Image:
    """The stored image."""
    with Image.open(io.BytesIO(row["image"]["bytes"])) as stored:
        return stored.convert("RGB")


def enlarged(row: dict[str, Any], size: tuple[int, int], kept_only: bool = False) -> Image.Image:
    """An image at a size, its masks half transparent; of regions too small for `LEAST` the outline of the box alone."""
    picture = pixels(row).resize(size, Image.Resampling.NEAREST)
    across, down = size[0] / row["width"], size[1] / row["height"]
    for region in row["regions"]:
        small, color = kept_only and region["area_fraction"] < LEAST, COLORS[region["label_id"] % len(COLORS)]
        if region["segmentation"] and not small:
            mask = Image.fromarray(coco_mask.decode(region["segmentation"]) * 90).resize(size, Image.Resampling.NEAREST)
            picture.paste(Image.new("RGB", size, color), (0, 0), mask)
    draw = ImageDraw.Draw(picture)
    for region in row["regions"]:
        small, color = kept_only and region["area_fraction"] < LEAST, COLORS[region["label_id"] % len(COLORS)]
        x, y, w, h = region["bbox"]
        box = (x * across, y * down, (x + w) * across - 1, (y + h) * down - 1)
        draw.rectangle(box, outline="white" if small else color, width=1 if small else 2)
        if kept_only:
            text = f"{region['phrase']} {region['area_fraction']:.1%}"
            draw.text((box[0] + 3, max(0, box[1] - 12)), text, fill="white" if small else color, stroke_width=1,
                      stroke_fill="black")  # fmt: skip
    return picture


def framed(picture: Image.Image, ends: str, title: str) -> Image.Image:
    """A picture with the directions of the patient at its sides and a title below."""
    border = 18
    sheet = Image.new("RGB", (picture.width + 2 * border, picture.height + 2 * border + 16), "white")
    sheet.paste(picture, (border, border))
    draw = ImageDraw.Draw(sheet)
    middle = (border + picture.width / 2, border + picture.height / 2)
    places = ((middle[0], 9), (9, middle[1]), (sheet.width - 9, middle[1]), (middle[0], border + picture.height + 9))
    for place, letter in zip(places, ends, strict=True):
        draw.text(place, letter, fill="#b00000", anchor="mm", font_size=14)
    draw.text((border, sheet.height - 15), title, fill="black", font_size=11)
    return sheet


def axes(rows: dict[str, dict[str, Any]]) -> Image.Image:
    """One volume cut along the three axes: a pixel a voxel above, in the proportions of the patient below."""
    lines: list[list[Image.Image]] = [[], []]
    for axis, index in AT.items():
        row = rows[f"{VOLUME}/{axis}/{index}"]
        down, across = row["spacing"]
        voxels = f"{axis} {index}: {row['width']} x {row['height']} pixels"
        lines[0].append(framed(enlarged(row, (row["width"] * 4, row["height"] * 4)), ENDS[axis], voxels))
        size = (round(row["width"] * across * 4 / 6), round(row["height"] * down * 4 / 6))
        lines[1].append(framed(enlarged(row, size), ENDS[axis], f"in proportion: {across:g} x {down:g} mm a pixel"))
    return stacked(lines)


def box(rows: dict[str, dict[str, Any]]) -> Image.Image:
    """A small mask as a grid of pixels with its box."""
    row = rows[f"{VOLUME}/axial/10"]
    region = next(r for r in row["regions"] if r["label"] == "left kidney")
    x, y, w, h = (int(v) for v in region["bbox"])
    side, edge, room = 30, 2, 40
    part = pixels(row).crop((x - edge, y - edge, x + w + edge, y + h + edge))
    mask = np.pad(coco_mask.decode(region["segmentation"]), edge)[y : y + h + 2 * edge, x : x + w + 2 * edge]
    size = (part.width * side, part.height * side)
    picture = part.resize(size, Image.Resampling.NEAREST)
    shade = Image.fromarray((mask * 130).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    picture.paste(Image.new("RGB", size, COLORS[0]), (0, 0), shade)
    sheet = Image.new("RGB", (size[0] + 2 * room + 40, size[1] + 2 * room), "white")
    sheet.paste(picture, (room, room))
    draw = ImageDraw.Draw(sheet)
    for n in range(part.width + 1):
        draw.line((room + n * side, room, room + n * side, room + size[1]), fill="#777777")
    for n in range(part.height + 1):
        draw.line((room, room + n * side, room + size[0], room + n * side), fill="#777777")
    left, top = room + edge * side, room + edge * side
    right, bottom = left + w * side, top + h * side
    draw.rectangle((left, top, right, bottom), outline="#d55e00", width=3)
    for n in range(part.width):
        draw.text((room + (n + 0.5) * side, room - 10), str(x - edge + n), fill="black", anchor="mm", font_size=12)
    for n in range(part.height):
        draw.text((room - 14, room + (n + 0.5) * side), str(y - edge + n), fill="black", anchor="mm", font_size=12)
    said = f"bbox [{x}, {y}, {w}, {h}]   area {region['area']}   columns {x} to {x + w - 1}, rows {y} to {y + h - 1}"
    draw.text((room, sheet.height - 24), said, fill="#b00000", font_size=13)
    return sheet


def threshold(rows: dict[str, dict[str, Any]]) -> Image.Image:
    """Slices with regions above and below the least area of the paper."""
    shown = [rows[key] for key in (f"{VOLUME}/axial/20", "demo_ct_chest/c01/axial/32")]
    return stacked([[framed(enlarged(row, (row["width"] * 6, row["height"] * 6), True), "    ", row["key"])
                     for row in shown]])  # fmt: skip


def parts(rows: dict[str, dict[str, Any]]) -> Image.Image:
    """A source with `components` (a region a polyp) and one without (a region for all ventricles)."""
    many = max((r for r in rows.values() if r["source"] == "demo_endoscopy"), key=lambda r: len(r["regions"]))
    one = rows["demo_mri_brain/sub-01/axial/1"]
    return stacked([[framed(enlarged(row, (round(260 * row["width"] / row["height"]), 260)), "    ", title)
                     for row, title in ((many, f"components: [polyp], {len(many['regions'])} regions"),
                                        (one, f"without: {len(one['regions'])} regions"))]])  # fmt: skip


def stacked(lines: list[list[Image.Image]]) -> Image.Image:
    """Pictures in lines."""
    heights = [max(p.height for p in line) for line in lines]
    width = max(sum(p.width + 8 for p in line) for line in lines)
    sheet = Image.new("RGB", (width, sum(heights) + 8 * (len(lines) - 1)), "white")
    top = 0
    for line, height in zip(lines, heights, strict=True):
        left = 0
        for one in line:
            sheet.paste(one, (left, top))
            left += one.width + 8
        top += height + 8
    return sheet


def main() -> None:
    """Writes all pictures."""
    out, folder = map(Path, sys.argv[1:3])
    files = out.glob("dataset/shards/*/*/*.parquet")
    rows = {row["key"]: row for file in files for row in pq.read_table(file).to_pylist()}
    for name, make in (("axes", axes), ("box", box), ("threshold", threshold), ("parts", parts)):
        make(rows).quantize(256).save(folder / f"concept-{name}.png", optimize=True)


if __name__ == "__main__":
    main()
