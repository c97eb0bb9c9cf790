"""The images on which detections fail most, drawn with truth and prediction."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from etl.errors import UsageError
from etl.evaluation.detections import Detections, Truth
from etl.evaluation.matching import Matches, match

SHOWN = 24
SIDE, LINE, ROWS = 400, 13, 5
"""Longest side of a picture, height of a line of the text below it, and its lines."""
FOUND, MISSED, RIGHT, WRONG = (0, 158, 115), (240, 228, 66), (86, 180, 233), (213, 94, 0)
"""Truth that was found and that was missed, detections that are right and that are wrong."""
KEY = "truth: green found, yellow missed; detections: blue right, orange wrong"

Pictures = Callable[[list[dict[str, Any]]], dict[Any, Image.Image]]


@dataclass(frozen=True, slots=True)
class Failing:
    """One image: how many boxes were missed and how many detections are wrong at the operating point."""

    image: int
    missed: int
    wrong: int


def operating_score(matches: Matches) -> float:
    """The score from which on detections are best as one set: largest F1 at an overlap of 0.5 over all categories."""
    score = matches.found.score
    if not len(score):
        return 0.0
    order = np.argsort(-score, kind="stable")
    right = np.cumsum(matches.good[0, order] & 1)
    wrong = np.cumsum(matches.bad[0, order] & 1)
    f1 = 2 * right / np.maximum(right + wrong + np.count_nonzero(matches.counted[0]), 1)
    f1[:-1][score[order][1:] == score[order][:-1]] = -1  # equal scores come together
    return float(score[order][int(np.argmax(f1))])


def worst(truth: Truth, best: Matches) -> list[Failing]:
    """The images with most faults, most first, then by id, at most SHOWN; one a case, as its slices fail alike.

    `best` are the matches at the operating point.
    """
    missing = best.counted[0] & (best.taken & 1 == 0)
    missed = np.bincount(truth.image[missing], minlength=len(truth.images))
    wrong = np.bincount(best.found.image[best.bad[0] & 1 == 1], minlength=len(truth.images))
    chosen: dict[Any, Failing] = {}
    for n in np.argsort(-(missed + wrong), kind="stable").tolist():
        if len(chosen) == SHOWN or not missed[n] + wrong[n]:
            break
        image = truth.images[n]
        case = (image.get("source"), image["case"]) if "case" in image else image["id"]
        chosen.setdefault(case, Failing(n, int(missed[n]), int(wrong[n])))
    return list(chosen.values())


def at_score(truth: Truth, matches: Matches, score: float, federated: bool) -> Matches:
    """Matches of the detections from a score on."""
    return match(truth, matches.found.take(matches.found.score >= score), federated)


def named(image: dict[str, Any]) -> str:
    """What an image is called: its key, its file, else its id."""
    return str(image.get("key", image.get("file_name", image["id"])))


def sheet(truth: Truth, best: Matches, failing: Failing, picture: Image.Image | None) -> Image.Image:
    """One image with its boxes, and what was missed and wrong below it; without a picture on grey."""
    facts = truth.images[failing.image]
    size = picture.size if picture else _extent(truth, best.found, failing.image, facts)
    scale = SIDE / max(size)
    shape = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    result = Image.new("RGB", (SIDE, shape[1] + ROWS * LINE + 4), "white")
    result.paste(picture.convert("RGB").resize(shape) if picture else Image.new("RGB", shape, "grey"), (0, 0))
    draw = ImageDraw.Draw(result)
    lines = [named(facts), f"{failing.missed} missed, {failing.wrong} wrong"]
    for title, color, names in _drawn(draw, truth, best, failing.image, scale, shape):
        if names:
            lines.append(f"{title} {color}: {', '.join(names)}")
    for n, line in enumerate(lines[:ROWS]):
        draw.text((3, shape[1] + 2 + n * LINE), line[:66], fill="black")
    return result


def _drawn(
    draw: ImageDraw.ImageDraw, truth: Truth, best: Matches, image: int, scale: float, shape: tuple[int, int]
) -> Iterable[tuple[str, str, list[str]]]:
    """Draws the boxes; (what, colour's name, category names) of what was missed and wrong."""
    names = next(iter(truth.groupings.values()))
    boxes = np.flatnonzero((truth.image == image) & best.counted[0])
    seen = best.taken[boxes] & 1 == 1
    mine = np.flatnonzero(best.found.image == image)
    right, wrong = best.good[0, mine] & 1 == 1, best.bad[0, mine] & 1 == 1
    for chosen, color, box in (
        (boxes[seen], FOUND, truth.box), (boxes[~seen], MISSED, truth.box),
        (mine[right], RIGHT, best.found.box), (mine[wrong], WRONG, best.found.box),
    ):  # fmt: skip
        for n in chosen:
            _rectangle(draw, box[n] * scale, color, shape)
    lost = sorted({names[c] for c in truth.category[boxes[~seen]]})
    false = sorted({names[c] for c in best.found.category[mine[wrong]]})
    return ("missed", "(yellow)", lost), ("wrong", "(orange)", false)


def _rectangle(
    draw: ImageDraw.ImageDraw, box: NDArray[np.float64], color: tuple[int, int, int], shape: tuple[int, int]
) -> None:
    x, y, w, h = box.tolist()
    left, top = min(max(x, 0), shape[0] - 1), min(max(y, 0), shape[1] - 1)
    right, bottom = min(max(x + w - 1, left), shape[0] - 1), min(max(y + h - 1, top), shape[1] - 1)
    draw.rectangle((left, top, right, bottom), outline=color, width=2)


def _extent(truth: Truth, found: Detections, image: int, facts: dict[str, Any]) -> tuple[int, int]:
    """(width, height) as the ground truth says, else what holds all boxes."""
    if facts.get("width") and facts.get("height"):
        return int(facts["width"]), int(facts["height"])
    boxes = np.concatenate([truth.box[truth.image == image], found.box[found.image == image]])
    width, height = np.ceil((boxes[:, :2] + boxes[:, 2:]).max(axis=0))
    return max(1, int(width)), max(1, int(height))


def pictures_in(folder: Path) -> Pictures:
    """Pictures found by `file_name` below a folder; one that is not there is left out, none at all is an error."""

    def read(images: list[dict[str, Any]]) -> dict[Any, Image.Image]:
        paths = {image["id"]: folder / str(image.get("file_name", "")) for image in images}
        found = {number: path for number, path in paths.items() if path.is_file()}
        if images and not found:
            raise UsageError(f"{folder}: none of the pictures is below it, such as {next(iter(paths.values()))}")
        return {number: _opened(path) for number, path in found.items()}

    return read


def pictures_of(out: Path, split: str) -> Pictures:
    """Pictures of a built dataset: its PNG files, else those in its shards."""
    folder = out / "dataset" / "images"
    if folder.is_dir():
        return pictures_in(folder)

    def read(images: list[dict[str, Any]]) -> dict[Any, Image.Image]:
        import io

        import pyarrow.dataset as pads

        shards = pads.dataset(out / "dataset" / "shards" / split, format="parquet")
        mine = pads.field("image_id").isin([image["id"] for image in images])
        rows = shards.to_table(columns=["image_id", "image"], filter=mine).to_pylist()
        return {row["image_id"]: Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows}

    return read


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise UsageError(f"{path}: no picture: {error}") from error
