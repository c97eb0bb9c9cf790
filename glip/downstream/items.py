"""The two kinds of items of an experiment, a question and a study, and their file form: JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from etl.errors import Failure, UsageError
from etl.store import write_bytes

Box = tuple[float, float, float, float]
"""[x, y, width, height] in pixels of the image."""
Size = tuple[int, int]
"""(width, height)."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Region:
    """A named area of an image; score 1 for reference regions."""

    phrase: str
    bbox: Box
    score: float = 1.0

    def corners(self, size: Size) -> Box:
        """x1, y1, x2, y2 as shares of the width and height of the image."""
        x, y, w, h = self.bbox
        return x / size[0], y / size[1], (x + w) / size[0], (y + h) / size[1]


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a VQA dataset."""

    id: str
    image: str
    """Path below the image folder, with /."""
    question: str
    answer: str
    kind: Literal["closed", "open"]
    split: str
    modality: str | None = None
    """As our experts are called; None: unknown, or one we have no name for."""
    group: str = ""
    """The dataset's own type of question."""
    reference: tuple[Region, ...] | None = None
    """The dataset's own regions of the image; None where it has none."""


@dataclass(frozen=True, slots=True)
class Study:
    """One report with its images."""

    id: str
    images: tuple[str, ...]
    report: str
    split: str
    modality: str | None = "xray"
    reference: tuple[tuple[Region, ...], ...] | None = None
    """Regions of each image; None where the dataset has none."""


Item = Question | Study


def images_of(item: Item) -> tuple[str, ...]:
    """The images of an item, in order."""
    return (item.image,) if isinstance(item, Question) else item.images


def references_of(item: Item) -> tuple[tuple[Region, ...], ...] | None:
    """The reference regions of each image of an item."""
    if isinstance(item, Question):
        return None if item.reference is None else (item.reference,)
    return item.reference


def write_items(path: Path, items: Iterable[Item]) -> None:
    """One JSON object a line, keys in the order of the fields."""
    lines = [json.dumps(asdict(item), ensure_ascii=False) for item in items]
    write_bytes(path, "".join(line + "\n" for line in lines).encode())


def read_items(path: Path) -> list[Item]:
    """The items of a file that `write_items` wrote. Failure names the line that is none."""
    found: list[Item] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            row = json.loads(line)
            found.append(_study(row) if "report" in row else _question(row))
        except (ValueError, KeyError, TypeError) as error:
            why = f"no question and no study ({type(error).__name__}: {error})"
            raise Failure(f"{path}, line {number}: {why}") from None
    return found


def questions(items: Sequence[Item]) -> list[Question]:
    """The same items, all of them questions."""
    return _all(items, Question, "questions")


def studies(items: Sequence[Item]) -> list[Study]:
    """The same items, all of them studies."""
    return _all(items, Study, "studies with reports")


def _all(items: Sequence[Item], kind: Any, name: str) -> list[Any]:
    if not items or not all(isinstance(item, kind) for item in items):
        raise UsageError(f"these items are no {name}")
    return list(items)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def read_document(path: Path) -> Any:
    """A JSON document. UsageError: not there; Failure: not JSON."""
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise Failure(f"{path}: not JSON: {error}") from None


def region(row: dict[str, Any]) -> Region:
    """A region from its JSON form. ValueError for a box without area or with numbers that are not finite."""
    x, y, w, h = (float(v) for v in row["bbox"])
    if not (w > 0 and h > 0 and abs(x) < 1e9 and abs(y) < 1e9 and w < 1e9 and h < 1e9):
        raise ValueError(f"a box {row['bbox']}")
    return Region(str(row["phrase"]), (x, y, w, h), float(row.get("score", 1.0)))


def _regions(rows: list[dict[str, Any]]) -> tuple[Region, ...]:
    return tuple(region(row) for row in rows)


def _question(row: dict[str, Any]) -> Question:
    if row["kind"] not in ("closed", "open") or row["split"] not in SPLITS:
        raise ValueError(f"kind {row['kind']}, split {row['split']}")
    found = Question(**{**row, "reference": None})
    return found if row.get("reference") is None else replace(found, reference=_regions(row["reference"]))


def _study(row: dict[str, Any]) -> Study:
    if row["split"] not in SPLITS:
        raise ValueError(f"split {row['split']}")
    found = Study(**{**row, "images": tuple(row["images"]), "reference": None})
    if row.get("reference") is None:
        return found
    return replace(found, reference=tuple(_regions(rows) for rows in row["reference"]))
