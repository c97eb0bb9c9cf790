"""SLAKE as questions, with its own boxes and masks as reference regions.

Layout and units were read in public loaders and in the dataset's own `mask.txt`; what they do not say is decided on
the data.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from etl.errors import Failure, UsageError
from glip.downstream.items import Box, Question, Region, Size, read_document
from glip.downstream.read_vqa import answer_kind, rows_of

MODALITIES = {"CT": "ct", "MRI": "mri", "X-Ray": "xray"}
"""SLAKE's names for them."""
NAMES = "mask.txt"
Masks = dict[str, npt.NDArray[np.bool_]]
"""Name → mask, (row, column)."""
Numbers = tuple[str, list[float]]
"""A name and the four numbers of its box, as `detection.json` has them."""


def slake(root: Path, *, language: str = "en") -> list[Question]:
    """`train.json`, `validation.json` (or `validate.json`), `test.json`; images, boxes and masks below
    `imgs/xmlab<N>/`. Reference regions are those of `slake_regions`; None for an image without boxes and mask."""
    found: list[tuple[str, dict[str, Any]]] = []
    for split, names in (("train", ("train",)), ("val", ("validation", "validate")), ("test", ("test",))):
        paths = [p for name in names if (p := root / f"{name}.json").exists()]
        if not paths:
            raise UsageError(f"{root}: no {names[0]}.json; give the folder that SLAKE unpacks to")
        found += [(split, row) for row in rows_of(paths[0]) if row.get("q_lang", "en") == language]
    regions = slake_regions(root, sorted({str(row["img_name"]) for _, row in found}))
    return [
        Question(
            id=str(row["qid"]), image=str(row["img_name"]), question=str(row["question"]).strip(),
            answer=str(row["answer"]).strip(), kind=answer_kind(row, root), split=split,
            modality=MODALITIES.get(str(row.get("modality"))), group=str(row.get("content_type", "")),
            reference=regions.get(str(row["img_name"])),
        )
        for split, row in found
    ]  # fmt: skip


def slake_regions(root: Path, images: list[str]) -> dict[str, tuple[Region, ...]]:
    """Image → its regions: the boxes of `detection.json`, then the box of each mask whose name has none there.

    An image that has neither file is left out. Whether the numbers of `detection.json` are sizes or corners all files
    decide together, see `box_reading`.
    """
    names, nameless = mask_names(root), Counter[int]()
    boxes: dict[str, list[Numbers]] = {}
    masked: dict[str, dict[str, Box]] = {}
    sizes: dict[str, Size] = {}
    for image in images:
        folder = (root / "imgs" / image).parent
        if (path := folder / "detection.json").exists():
            boxes[image] = _numbers(path)
            sizes[image] = _size(root / "imgs" / image)
        if names and (path := folder / "mask.png").exists():
            masks = slake_masks(path, names, _size(root / "imgs" / image), nameless)
            masked[image] = {name: box_of(mask) for name, mask in masks.items()}
    if nameless:
        told = ", ".join(f"{value} ({count} images)" for value, count in sorted(nameless.items()))
        print(f"{root / NAMES} names no mask value {told}: they make no region", file=sys.stderr)
    reading = box_reading(
        [(v, sizes[image]) for image, rows in boxes.items() for _, v in rows],
        [pair for image, rows in boxes.items() for pair in _paired(rows, masked.get(image, {}))],
    )
    return {
        image: tuple(_regions(boxes.get(image, []), masked.get(image, {}), reading))
        for image in images
        if image in boxes or image in masked
    }


def mask_names(root: Path) -> dict[int, str]:
    """Grey value of the masks → its name, as `mask.txt` has them, one `value:name` a line; empty without the file.

    Failure names a line that is not so.
    """
    path = root / NAMES
    if not path.exists():
        return {}
    found: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        value, _, name = line.partition(":")
        if not line.strip():
            continue
        if not (value.strip().isdecimal() and name.strip() and 0 < int(value) < 256) or int(value) in found:
            raise Failure(f"{path}, line {number}: not `value:name` with a new value from 1 to 255")
        found[int(value)] = name.strip()
    return found


def slake_masks(path: Path, names: dict[int, str], size: Size, nameless: Counter[int]) -> Masks:
    """The mask of each name that a grey `mask.png` shows; 0 is no structure. Values without a name are counted.

    Failure if it is not a grey picture of the size of its image.
    """
    way = f"mend it, or go without masks: move {NAMES} away"
    try:
        with Image.open(path) as picture:
            grey = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    except OSError as error:
        raise Failure(f"{path}: cannot be read as a picture ({error}); {way}") from None
    if grey.ndim == 3 and (grey[..., :1] == grey[..., :3]).all():  # grey, stored as colour
        grey = grey[..., 0]
    if grey.dtype != np.uint8 or picture.mode not in ("L", "P", "RGB", "RGBA") or grey.shape != size[::-1]:
        raise Failure(f"{path}: not grey in 8 bits and of its image's size {size[0]} x {size[1]}; {way}")
    values = [int(value) for value in np.unique(grey) if value]
    nameless.update(value for value in values if value not in names)
    return {names[value]: grey == value for value in values if value in names}


def box_of(mask: npt.NDArray[np.bool_]) -> Box:
    """[x, y, width, height] of all pixels of a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def box_reading(boxes: list[tuple[list[float], Size]], masked: Iterable[tuple[list[float], Box]] = ()) -> str:
    """`size` ([x, y, width, height]) or `corners` ([x1, y1, x2, y2]): the one under which more boxes overlap the mask
    of the same name better; without such pairs, under which more lie in their images (one pixel of slack). `size`
    where both do equally.

    Raises Failure if neither fits nine boxes in ten into their images.
    """
    fits = {"size": 0, "corners": 0}
    for (a, b, c, d), (width, height) in boxes:
        fits["size"] += a >= 0 and b >= 0 and c > 0 and d > 0 and a + c <= width + 1 and b + d <= height + 1
        fits["corners"] += 0 <= a < c <= width + 1 and 0 <= b < d <= height + 1
    votes = {"size": 0, "corners": 0}
    for numbers, box in masked:
        size, corners = (_overlap(_as_size(numbers, reading), box) for reading in ("size", "corners"))
        votes["size"] += size > corners
        votes["corners"] += corners > size
    best = max(("size", "corners"), key=lambda reading: (votes[reading], fits[reading]))
    if boxes and fits[best] < 0.9 * len(boxes):
        raise Failure(f"detection.json: of {len(boxes)} boxes {fits} fit their images; neither reading holds")
    return best


def _regions(boxes: list[Numbers], masked: dict[str, Box], reading: str) -> Iterable[Region]:
    for name, numbers in boxes:
        box = _as_size(numbers, reading)
        if box[2] > 0 and box[3] > 0:
            yield Region(name, box)
    known = {name.casefold() for name, _ in boxes}
    for name, box in masked.items():
        if name.casefold() not in known:
            yield Region(name, box)


def _paired(boxes: list[Numbers], masked: dict[str, Box]) -> Iterable[tuple[list[float], Box]]:
    """Box and mask of the names that have one of each."""
    often = Counter(name.casefold() for name, _ in boxes)
    by_name = {name.casefold(): box for name, box in masked.items()}
    for name, numbers in boxes:
        if often[name.casefold()] == 1 and name.casefold() in by_name:
            yield numbers, by_name[name.casefold()]


def _as_size(numbers: list[float], reading: str) -> Box:
    a, b, c, d = numbers
    return (a, b, c - a, d - b) if reading == "corners" else (a, b, c, d)


def _overlap(one: Box, two: Box) -> float:
    """Intersection over union; 0 for a box without area."""
    width = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    height = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0 or one[2] <= 0 or one[3] <= 0:
        return 0.0
    return width * height / (one[2] * one[3] + two[2] * two[3] - width * height)


def _numbers(path: Path) -> list[Numbers]:
    try:
        found = [(str(k), [float(n) for n in v]) for row in read_document(path) for k, v in row.items()]
    except (ValueError, TypeError, AttributeError) as error:
        raise Failure(f"{path}: not a list of {{name: [four numbers]}} ({error})") from None
    if any(len(v) != 4 for _, v in found):
        raise Failure(f"{path}: a box without four numbers")
    return found


def _size(image: Path) -> Size:
    try:
        with Image.open(image) as picture:
            return picture.size
    except OSError as error:
        raise Failure(f"{image}: cannot be read as a picture ({error})") from None
