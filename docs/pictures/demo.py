"""Makes `docs/pictures/demo.png`: slices of the built demo with their masks and boxes. usage: picture.py OUT FILE"""

import io
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

SHOWN = ("demo_mri_abdomen/s1/axial/0", "demo_ct_spine/s1/axial/0", "demo_fundus_disc/n0001/native/0",
         "demo_mri_heart/p01/axial/4", "demo_us_fetal/001/native/0", "demo_endoscopy/k1/native/0",
         "demo_xray_boxes/c1/native/0")  # fmt: skip
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7")
HEIGHT = 300


def panel(row: dict[str, Any]) -> Image.Image:
    """One image with half-transparent masks, boxes and names."""
    with Image.open(io.BytesIO(row["image"]["bytes"])) as stored:
        scale = HEIGHT / stored.height
        size = (round(stored.width * scale), HEIGHT)
        picture = stored.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    for region, color in zip(row["regions"], COLORS * 9, strict=False):
        if region["segmentation"]:
            mask = Image.fromarray(coco_mask.decode(region["segmentation"]) * 60).resize(size)
            picture.paste(Image.new("RGB", size, color), (0, 0), mask)
    draw = ImageDraw.Draw(picture)
    for region, color in zip(row["regions"], COLORS * 9, strict=False):
        x, y, w, h = (v * scale for v in region["bbox"])
        draw.rectangle((x, y, x + w - 1, y + h - 1), outline=color, width=2)
        draw.text((x + 4, max(0, y + 2)), region["phrase"], fill=color, stroke_width=1, stroke_fill="black")
    return picture


def main() -> None:
    """Pastes the panels in two lines."""
    files = Path(sys.argv[1]).glob("dataset/shards/*/*/*.parquet")
    rows = {row["key"]: row for file in files for row in pq.read_table(file).to_pylist()}
    panels = [panel(rows[key]) for key in SHOWN if key in rows]
    lines = [panels[:3], panels[3:]]
    sheet = Image.new("RGB", (max(sum(p.width + 6 for p in line) for line in lines), 2 * HEIGHT + 6), "white")
    for number, line in enumerate(lines):
        x = 0
        for one in line:
            sheet.paste(one, (x, number * (HEIGHT + 6)))
            x += one.width + 6
    sheet.quantize(200).save(sys.argv[2], optimize=True)


if __name__ == "__main__":
    main()
