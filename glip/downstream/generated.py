"""Generated studies with known answers: pictures of look-alike findings whose names only the boxes tell.

Usage: python -m glip.downstream.generated FOLDER --studies 700 writes `images/`, `questions.jsonl`, `studies.jsonl` and
`found/results.json`, what a detector of known faults found. With `--uninformative` every box and name is drawn without
a look at the picture, so that no arm may be better than another.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from etl.demo.shapes import ellipse, texture
from etl.pixels.png import encode
from etl.store import write_bytes
from glip.downstream.items import Question, Region, Size, Study, write_items

NAMES = ("nodule", "mass", "cyst", "opacity", "effusion", "fracture")
SIDE = 96
SIZE: Size = (SIDE, SIDE)
QUARTERS = ("upper left", "upper right", "lower left", "lower right")
"""Of the image, as it is seen."""
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Faults:
    """How a detector errs, as probabilities of a region, and as shares of its size."""

    missed: float = 0.12
    renamed: float = 0.06
    invented: float = 0.08
    moved: float = 0.08


def findings(rng: Rng) -> tuple[Region, ...]:
    """One to three findings in different quarters, no name twice."""
    count = int(rng.integers(1, 4))
    quarters = rng.permutation(4)[:count]
    names = rng.permutation(len(NAMES))[:count]
    return tuple(_finding(rng, NAMES[n], int(q)) for n, q in zip(names, quarters, strict=True))


def _finding(rng: Rng, name: str, quarter: int) -> Region:
    half = SIDE / 2
    w, h = rng.uniform(14, 34, 2)
    x = (quarter % 2) * half + rng.uniform(2, half - w - 2)
    y = (quarter // 2) * half + rng.uniform(2, half - h - 2)
    return Region(name, (round(x, 1), round(y, 1), round(w, 1), round(h, 1)))


def picture(rng: Rng, regions: tuple[Region, ...], light: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(96, 96): faint ellipses on noise; the ground is light or dark. Nothing tells the names apart."""
    grey = (150.0 if light else 80.0) + 22 * texture(rng, SIZE)
    for found in regions:
        x, y, w, h = found.bbox
        grey[ellipse(SIZE, (y + h / 2, x + w / 2), (h / 2, w / 2))] += 14
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def quarter(found: Region) -> str:
    """The quarter of the image that the middle of a region is in."""
    x, y, w, h = found.bbox
    return QUARTERS[2 * (y + h / 2 >= SIDE / 2) + (x + w / 2 >= SIDE / 2)]


def detected(rng: Rng, regions: tuple[Region, ...], faults: Faults) -> tuple[Region, ...]:
    """What a detector of these faults finds."""
    out = []
    for found in regions:
        if rng.random() < faults.missed:
            continue
        x, y, w, h = (v + faults.moved * s * rng.normal() for v, s in zip(found.bbox, found.bbox[2:] * 2, strict=True))
        name = str(rng.choice(NAMES)) if rng.random() < faults.renamed else found.phrase
        out.append(Region(name, (x, y, max(2.0, w), max(2.0, h)), float(rng.uniform(0.5, 0.95))))
    if rng.random() < faults.invented:
        out.append(replace(_finding(rng, str(rng.choice(NAMES)), int(rng.integers(4))), score=0.4))
    return tuple(out)


def asked(rng: Rng, regions: tuple[Region, ...], light: bool) -> list[tuple[str, str, str, str]]:
    """(question, answer, kind, group) about one image."""
    names = [r.phrase for r in regions]
    one = regions[int(rng.integers(len(regions)))]
    name = str(rng.choice(names)) if rng.random() < 0.5 else str(rng.choice([n for n in NAMES if n not in names]))
    side = quarter(one).split()[1]
    return [
        (f"Is there a {name}?", "yes" if name in names else "no", "closed", "presence"),
        (f"Is the {one.phrase} on the left or right?", side, "closed", "side"),
        (f"Where is the {one.phrase}?", quarter(one), "open", "place"),
        (f"What is in the {quarter(one)} quarter?", one.phrase, "open", "name"),
        ("Is the background light or dark?", "light" if light else "dark", "closed", "background"),
    ]


def report(regions: tuple[Region, ...], light: bool) -> str:
    """One sentence a finding, in order of names, after one on the ground."""
    ground = f"the background is {'light' if light else 'dark'} ."
    told = [f"there is a {r.phrase} in the {quarter(r)} quarter ." for r in sorted(regions, key=lambda r: r.phrase)]
    return " ".join([ground, *told, "no other finding ."])


def write(
    folder: Path, *, studies: int, seed: int = 0, informative: bool = True, faults: Faults = Faults()
) -> tuple[list[Question], list[Study]]:
    """Writes the folder; the questions and studies. One image a study, a fifth is `test`, a tenth `val`."""
    asks: list[Question] = []
    told: list[Study] = []
    predicted: dict[str, tuple[Region, ...]] = {}
    for number in range(studies):
        rng = np.random.default_rng([seed, number])
        truth, light = findings(rng), bool(rng.random() < 0.5)
        image, split = f"{number:05d}.png", ("test", "train", "train", "train", "val", "train")[number % 6]
        write_bytes(folder / "images" / image, encode(picture(rng, truth, light)))
        known = truth if informative else findings(np.random.default_rng([seed, number, 1]))
        predicted[image] = detected(rng, known, faults)
        for n, (text, answer, kind, group) in enumerate(asked(rng, truth, light)):
            asks.append(Question(f"{number}-{n}", image, text, answer, kind, split, "xray", group, known))  # type: ignore[arg-type]
        told.append(Study(str(number), (image,), report(truth, light), split, "xray", (known,)))
    write_items(folder / "questions.jsonl", asks)
    write_items(folder / "studies.jsonl", told)
    write_bytes(folder / "found" / "results.json", (json.dumps(coco(predicted)) + "\n").encode())
    return asks, told


def coco(found: dict[str, tuple[Region, ...]]) -> dict[str, object]:
    """The document that `ground --out` writes, for these regions."""
    number = {name: n for n, name in enumerate(NAMES, 1)}
    rows: list[dict[str, object]] = []
    for image, regions in enumerate(found.values(), 1):
        for r in regions:
            rows.append({"id": len(rows) + 1, "image_id": image, "category_id": number[r.phrase], "bbox": list(r.bbox),
                         "area": r.bbox[2] * r.bbox[3], "iscrowd": 0, "score": r.score})  # fmt: skip
    images = [{"id": n, "file_name": name, "width": SIDE, "height": SIDE} for n, name in enumerate(found, 1)]
    return {"images": images, "annotations": rows, "categories": [{"id": n, "name": s} for s, n in number.items()]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--uninformative", action="store_true", help="boxes that know nothing of the picture")
    given = parser.parse_args()
    made = write(given.folder, studies=given.studies, seed=given.seed, informative=not given.uninformative)
    print(f"{len(made[0])} questions and {len(made[1])} studies in {given.folder}")
