"""How regions reach a model that reads text and pictures: a sentence, boxes drawn in, crops. Deterministic."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from etl.errors import UsageError
from etl.store import write_bytes
from glip.downstream.arms import Arm
from glip.downstream.items import Question, Region, Size
from glip.slices import COLORS

FORMS = ("text", "drawn", "crops")
MOST = 20  # regions of a sentence
BUDGET = 120  # most tokens (words, numbers and punctuation marks) of it, if nothing else is said


def as_text(regions: Sequence[Region], size: Size, budget: int = BUDGET) -> str:
    """`Detected regions: liver [0.12, 0.30, 0.48, 0.71] (0.91); …`: x1, y1, x2, y2 as shares of width and height.

    Regions in their order (best first), 20 at most; those that do not fit in a budget of tokens are left out, last
    first. Empty where there is none, so that the item is the one of the arm `none`.
    """
    kept: list[str] = []
    used = length("Detected regions:.")
    for found in regions[:MOST]:
        one = _entry(found, size)
        cost = length(one) + 1
        if used + cost > budget:
            break
        kept.append(one)
        used += cost
    return f"Detected regions: {'; '.join(kept)}." if kept else ""


def length(text: str) -> int:
    """Tokens of a text: runs of letters, numbers, single marks. Models have their own; these are the same for all."""
    return len(re.findall(r"\d+|[^\W\d]+|[^\w\s]", text))


def _entry(found: Region, size: Size) -> str:
    numbers = ", ".join(f"{min(max(c, 0.0), 1.0):.2f}" for c in found.corners(size))
    return f"{found.phrase} [{numbers}] ({found.score:.2f})"


def with_text(question: str, regions: Sequence[Region], size: Size, budget: int = BUDGET) -> str:
    """The question after the sentence of its image's regions; the bare question where there are none."""
    sentence = as_text(regions, size, budget)
    return f"{sentence} {question}" if sentence else question


def drawn(picture: Image.Image, regions: Sequence[Region]) -> Image.Image:
    """The picture in its own size with boxes and names drawn in, one colour a phrase."""
    out = picture.convert("RGB")
    out = out.copy() if out is picture else out
    pen = ImageDraw.Draw(out)
    names = sorted({r.phrase for r in regions})
    width = max(1, round(max(out.size) / 300))
    for found in reversed(regions):
        x, y, w, h = found.bbox
        color = COLORS[names.index(found.phrase) % len(COLORS)]
        pen.rectangle((x, y, max(x, x + w - 1), max(y, y + h - 1)), outline=color, width=width)
        pen.text((x + width + 1, y + width), found.phrase, fill=color)
    return out


def crops(picture: Image.Image, regions: Sequence[Region], *, most: int = 4, margin: float = 0.1) -> list[Image.Image]:
    """The picture, then the best regions cut out with a margin (a share of their size) and at least 8 pixels wide."""
    out = [picture.convert("RGB")]
    for found in regions[:most]:
        x, y, w, h = found.bbox
        dx, dy = max(w * margin, (8 - w) / 2), max(h * margin, (8 - h) / 2)
        box = (max(0, int(x - dx)), max(0, int(y - dy)),
               min(picture.width, math.ceil(x + w + dx)), min(picture.height, math.ceil(y + h + dy)))  # fmt: skip
        if box[2] > box[0] and box[3] > box[1]:
            out.append(out[0].crop(box))
    return out


def png(picture: Image.Image) -> bytes:
    """A picture as PNG, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def pictures(path: Path, regions: Sequence[Region], form: str) -> list[Image.Image]:
    """What a model is shown of an image file: itself, with boxes (`drawn`), or followed by crops (`crops`)."""
    try:
        with Image.open(path) as picture:
            if form == "drawn":
                return [drawn(picture, regions) if regions else picture.convert("RGB")]
            return crops(picture, regions if form == "crops" else ())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read as a picture ({error.strerror or error})") from None


def write_arm(
    out: Path, arm: Arm, items: Sequence[Question], root: Path, sizes: dict[str, Size], form: str,
    budget: int = BUDGET,
) -> int:  # fmt: skip
    """Writes `<arm>.jsonl` (`question_id, image, text`, as LLaVA-Med's evaluation reads it) and, for `drawn` and
    `crops`, the pictures in `<arm>/`; the number of pictures written. Images keep their path where they are unchanged.
    """
    lines, written = [], set[str]()
    for item in items:
        (regions,) = arm.of(item)
        row: dict[str, object] = {"question_id": item.id, "image": item.image, "text": item.question}
        if form == "text":
            row["text"] = with_text(item.question, regions, sizes[item.image], budget)
        elif regions:
            names = _write_pictures(out / arm.name, item.image, root, regions, form, written)
            row["image"] = f"{arm.name}/{names[0]}"
            if form == "crops":
                row["crops"] = [f"{arm.name}/{n}" for n in names[1:]]
        lines.append(json.dumps(row, ensure_ascii=False))
    write_bytes(out / f"{arm.name}.jsonl", "".join(line + "\n" for line in lines).encode())
    return len(written)


def _write_pictures(
    folder: Path, image: str, root: Path, regions: Sequence[Region], form: str, written: set[str]
) -> list[str]:
    made = pictures(root / image, regions, form)
    names = [f"{image}{f'.{n}' if n else ''}.png" for n in range(len(made))]
    for name, picture in zip(names, made, strict=True):
        if name not in written:
            write_bytes(folder / name, png(picture))
            written.add(name)
    return names
