"""COCO ground truth and COCO results as arrays, checked: what `evaluate` compares."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from etl.errors import UsageError
from etl.store import sha256

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SHOWN = 5  # ids named in an error


@dataclass(frozen=True, slots=True)
class Truth:
    """Ground truth; images and categories are numbered by ascending id, boxes ordered by image, category, file.

    `image`, `category`: (n,) numbers; `box`: (n, 4) x, y, width, height in pixels; `area`: (n,) pixels;
    `crowd`: (n,) bool. `negative` and `not_exhaustive` are sorted cells `image * len(categories) + category`,
    None where the file does not say (LVIS, arXiv:1908.03195, section 3). `groupings`: what categories are counted
    together by, with the name for each category.
    """

    name: str
    digest: str
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    groupings: dict[str, list[str]]
    image: Ints
    category: Ints
    box: Floats
    area: Floats
    crowd: NDArray[np.bool_]
    negative: Ints | None
    not_exhaustive: Ints | None

    def cells(self) -> Ints:
        """(n,) the cell of each box."""
        return self.image * len(self.categories) + self.category


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections ordered by image, category, falling score, file; `rank` counts within image and category from 0."""

    name: str
    digest: str
    image: Ints
    category: Ints
    box: Floats
    score: Floats
    rank: Ints
    duplicates: int

    def take(self, chosen: NDArray[np.bool_]) -> "Detections":
        """The chosen ones; ranks stay as they are."""
        return replace(
            self, image=self.image[chosen], category=self.category[chosen], box=self.box[chosen],
            score=self.score[chosen], rank=self.rank[chosen],
        )  # fmt: skip


def read_json(path: Path) -> tuple[Any, str]:
    """What a JSON file holds, and its SHA-256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; give a JSON file of COCO") from error
    try:
        return orjson.loads(content), hashlib.sha256(content).hexdigest()
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error


def read_dataset(out: Path, split: str, level: str) -> Truth:
    """The ground truth of a built dataset; `level` is category or label.

    `digest` is the dataset's: over all of its `annotations/*.json`.
    """
    folder = out / "dataset" / "annotations"
    names = sorted(path.name for path in folder.glob("*.json"))
    if not names:
        raise UsageError(f"{folder}: no annotations; `medglip-etl build` writes them")
    if f"{split}.json" not in names:
        raise UsageError(f"{folder}: no split {split}; there are {', '.join(n for n in names if n.count('.') == 1)}")
    regions = {c["name"]: c["supercategory"] for c in read_json(folder / f"{split}.json")[0]["categories"]}
    truth = read_truth(folder / (f"{split}.json" if level == "category" else f"{split}.labels.json"))
    leaf, above = truth.groupings["category"], truth.groupings["supercategory"]
    groupings = {"category": leaf, "body_region": above}
    if level == "label":
        groupings = {"label": leaf, "category": above, "body_region": [regions[name] for name in above]}
    return replace(truth, groupings=groupings, digest=fingerprint(folder / name for name in names))


def fingerprint(paths: Iterable[Path]) -> str:
    """One SHA-256 of several files: their names and contents."""
    parts = [f"{path.name} {sha256(path)}\n" for path in paths]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def read_truth(path: Path) -> Truth:
    """The ground truth of a COCO file.

    Raises UsageError where the file is no COCO ground truth or contradicts itself.
    """
    data, digest = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(k), list) for k in ("images", "categories")):
        raise UsageError(f"{path}: no COCO ground truth: an object with the lists images, annotations, categories")
    images, categories = _by_id(path, data, "images"), _by_id(path, data, "categories")
    image_at, category_at = _numbers(images), _numbers(categories)
    rows = data.get("annotations") or []
    for key, known, of in (("image_id", image_at, "images"), ("category_id", category_at, "categories")):
        _refuse_unknown(path, rows, key, known, f"its own {of}")
    image, category = _column(rows, "image_id", image_at), _column(rows, "category_id", category_at)
    box = _boxes(path, rows)
    area = np.array([r.get("area", w * h) for r, (_, _, w, h) in zip(rows, box, strict=True)], np.float64)
    crowd = np.array([bool(r.get("iscrowd")) for r in rows], bool)
    order = np.argsort(image * len(categories) + category, kind="stable")
    return Truth(
        path.name, digest, images, categories, _groupings(categories),
        image[order], category[order], box[order], area[order], crowd[order],
        negative=_cells(path, images, "neg_category_ids", category_at),
        not_exhaustive=_cells(path, images, "not_exhaustive_category_ids", category_at),
    )  # fmt: skip


def _groupings(categories: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    names = [str(category.get("name", category["id"])) for category in categories]
    unique = [n if names.count(n) == 1 else f"{n} ({c['id']})" for n, c in zip(names, categories, strict=True)]
    above = [str(category.get("supercategory") or "none") for category in categories]
    return {"category": unique, "supercategory": above}


def read_results(path: Path, truth: Truth) -> Detections:
    """The detections of a COCO results file, whose ids are all known to this ground truth.

    Raises UsageError that names the first unknown ids, and boxes or scores that are no finite numbers.
    """
    rows, digest = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path}: no COCO results: a list of {{image_id, category_id, bbox, score}}")
    images, categories = _numbers(truth.images), _numbers(truth.categories)
    for key, known in (("image_id", images), ("category_id", categories)):
        _refuse_unknown(path, rows, key, known, truth.name)
    image, category = _column(rows, "image_id", images), _column(rows, "category_id", categories)
    box, score = _boxes(path, rows), _scores(path, rows)
    cell = image * len(categories) + category
    order = np.lexsort((-score, cell))
    cell, box, score = cell[order], box[order], score[order]
    first = np.flatnonzero(np.diff(cell, prepend=-1))
    rank = np.arange(len(cell)) - np.repeat(first, np.diff(first, append=len(cell)))
    repeated = _duplicates(cell, box, score)
    return Detections(path.name, digest, image[order], category[order], box, score, rank, repeated)


def _by_id(path: Path, data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = data[key]
    if not all(isinstance(row, dict) and "id" in row for row in rows):
        raise UsageError(f"{path}: an entry of {key} has no id")
    if len({row["id"] for row in rows}) < len(rows):
        raise UsageError(f"{path}: two {key} have one id")
    if not rows:
        raise UsageError(f"{path}: no {key}, nothing to evaluate")
    return sorted(rows, key=lambda row: row["id"])


def _numbers(rows: Sequence[dict[str, Any]]) -> dict[Any, int]:
    return {row["id"]: number for number, row in enumerate(rows)}


def _column(rows: Sequence[dict[str, Any]], key: str, known: dict[Any, int]) -> Ints:
    return np.fromiter((known[row[key]] for row in rows), np.int64, len(rows))


def _refuse_unknown(path: Path, rows: Iterable[Any], key: str, known: dict[Any, int], of: str) -> None:
    try:
        unknown = {row.get(key) for row in rows} - known.keys()
    except (AttributeError, TypeError) as error:
        raise UsageError(f"{path}: an entry is no object, or its {key} no number") from error
    if not unknown:
        return
    named = ", ".join(map(repr, sorted(unknown, key=lambda v: (str(type(v)), v if v is not None else 0))[:SHOWN]))
    text = all(isinstance(value, str) for value in unknown) and not any(isinstance(value, str) for value in known)
    way = (
        f"write {key} as a number, not as text" if text
        else f"every entry needs {key}" if None in unknown
        else "evaluate against the ground truth that the detector was given (same dataset, split and level); "
        "ids hold within one build only"
    )  # fmt: skip
    raise UsageError(f"{path}: {len(unknown)} {key} are not in {of}: {named}{' …' * (len(unknown) > SHOWN)}; {way}")


def _boxes(path: Path, rows: Sequence[dict[str, Any]]) -> Floats:
    """(n, 4) x, y, width, height; the first wrong one is named."""
    try:
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(len(rows), 4)
        wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1))
    except (KeyError, TypeError, ValueError):
        wrong = np.flatnonzero([not _is_box(row.get("bbox")) for row in rows])
    if len(wrong):
        at = int(wrong[0])
        raise UsageError(f"{path}: entry {at}: bbox {rows[at].get('bbox')!r}: four finite numbers "
                         "x, y, width, height, no negative width or height")  # fmt: skip
    return boxes


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(v, int | float) for v in value)


def _scores(path: Path, rows: Sequence[dict[str, Any]]) -> Floats:
    wrong = [n for n, row in enumerate(rows) if not isinstance(row.get("score"), int | float)]
    if wrong:
        raise UsageError(f"{path}: entry {wrong[0]}: score {rows[wrong[0]].get('score')!r}: a finite number")
    return np.array([row["score"] for row in rows], np.float64)


def _cells(path: Path, images: Sequence[dict[str, Any]], key: str, known: dict[Any, int]) -> Ints | None:
    """Sorted cells of a list that images keep; None where no image has it."""
    if not any(key in image for image in images):
        return None
    _refuse_unknown(path, ({key: n} for image in images for n in image.get(key, ())), key, known, "its own categories")
    pairs = [number * len(known) + known[n] for number, image in enumerate(images) for n in image.get(key, ())]
    return np.unique(np.array(pairs, np.int64))


def _duplicates(cell: Ints, box: Floats, score: Floats) -> int:
    """How many detections repeat an earlier one, box and score; only equal neighbours by score can."""
    equal = (cell[1:] == cell[:-1]) & (score[1:] == score[:-1])
    candidates = np.flatnonzero(np.append(equal, False) | np.insert(equal, 0, False)) if len(cell) else np.arange(0)
    rows = [(int(cell[n]), float(score[n]), *box[n].tolist()) for n in candidates]
    return len(rows) - len(set(rows))
