"""SLAKE, VQA-RAD and PathVQA as questions, with the datasets' own splits.

What is known of the layouts was read in public loaders; what they do not say is decided on the data and reported.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

from PIL import Image

from etl.errors import Failure, UsageError
from glip.downstream.items import Question, Region, read_document

RAD = "VQA_RAD Dataset Public.json"
MODALITIES = {"CT": "ct", "MRI": "mri", "X-Ray": "xray"}
"""SLAKE's names for them."""
Rows = list[dict[str, Any]]


def slake(root: Path, *, language: str = "en") -> list[Question]:
    """`train.json`, `validation.json` (or `validate.json`), `test.json`; images and boxes below `imgs/xmlab<N>/`.

    Reference regions are those of `detection.json` beside the image, a list of `{organ: [four numbers]}`. No public
    text says whether the numbers are corners or sizes, so all files decide: see `box_reading`.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    for split, names in (("train", ("train",)), ("val", ("validation", "validate")), ("test", ("test",))):
        paths = [p for name in names if (p := root / f"{name}.json").exists()]
        if not paths:
            raise UsageError(f"{root}: no {names[0]}.json; give the folder that SLAKE unpacks to")
        found += [(split, row) for row in _rows(paths[0]) if row.get("q_lang", "en") == language]
    boxes = slake_regions(root / "imgs", sorted({str(row["img_name"]) for _, row in found}))
    return [
        Question(
            id=str(row["qid"]), image=str(row["img_name"]), question=str(row["question"]).strip(),
            answer=str(row["answer"]).strip(), kind=_kind(row, root), split=split,
            modality=MODALITIES.get(str(row.get("modality"))), group=str(row.get("content_type", "")),
            reference=boxes.get(str(row["img_name"])),
        )
        for split, row in found
    ]  # fmt: skip


def slake_regions(images: Path, names: list[str]) -> dict[str, tuple[Region, ...]]:
    """Image name → its regions, for the images that have a `detection.json`."""
    numbers: dict[str, list[tuple[str, list[float]]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for name in names:
        path = (images / name).parent / "detection.json"
        if not path.exists():
            continue
        try:
            numbers[name] = [(str(k), [float(n) for n in v]) for row in read_document(path) for k, v in row.items()]
            if any(len(v) != 4 for _, v in numbers[name]):
                raise ValueError("a box without four numbers")
            with Image.open(images / name) as picture:
                sizes[name] = picture.size
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise Failure(f"{path}: not a list of {{name: [four numbers]}} beside an image ({error})") from None
    corners = box_reading([(v, sizes[name]) for name, rows in numbers.items() for _, v in rows]) == "corners"
    return {
        name: tuple(
            Region(label, (v[0], v[1], v[2] - v[0], v[3] - v[1]) if corners else (v[0], v[1], v[2], v[3]))
            for label, v in rows
            if not corners or (v[2] > v[0] and v[3] > v[1])
        )
        for name, rows in numbers.items()
    }


def box_reading(boxes: list[tuple[list[float], tuple[int, int]]]) -> str:
    """`size` ([x, y, width, height]) or `corners` ([x1, y1, x2, y2]): the one under which more boxes of the dataset
    lie in their images (one pixel of slack); `size` where both fit all.

    Raises Failure if neither fits nine boxes in ten.
    """
    fits = {"size": 0, "corners": 0}
    for (a, b, c, d), (width, height) in boxes:
        fits["size"] += a >= 0 and b >= 0 and c > 0 and d > 0 and a + c <= width + 1 and b + d <= height + 1
        fits["corners"] += 0 <= a < c <= width + 1 and 0 <= b < d <= height + 1
    best = "size" if fits["size"] >= fits["corners"] else "corners"
    if boxes and fits[best] < 0.9 * len(boxes):
        raise Failure(f"detection.json: of {len(boxes)} boxes {fits} fit their images; neither reading holds")
    return best


def vqa_rad(root: Path) -> list[Question]:
    """`VQA_RAD Dataset Public.json` and `VQA_RAD Image Folder/`: 1797 free-form and paraphrased questions to train,
    451 to test (`phrase_type` begins with `test`), as the authors split them. Images have no modality: it is unknown.
    """
    rows = _rows(root / RAD)
    return [
        Question(
            id=str(row["qid"]), image=str(row["image_name"]), question=str(row["question"]).strip(),
            answer=str(row["answer"]).strip(), kind=_kind(row, root), group=str(row.get("question_type", "")),
            split="test" if str(row["phrase_type"]).startswith("test") else "train",
        )
        for row in rows
    ]  # fmt: skip


class _PlainOnly(pickle.Unpickler):
    """Loads nothing but lists, dictionaries, text and numbers; a pickle that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def path_vqa(root: Path) -> list[Question]:
    """`qas/{train,val,test}_vqa.pkl` (`img_id`, `sent`, `label: {answer: 1}`, `answer_type`) and
    `images/<split>/<img_id>.jpg`. Pathology is a modality without an expert."""
    found: list[Question] = []
    for split in ("train", "val", "test"):
        for n, row in enumerate(_pickled(root / "qas" / f"{split}_vqa.pkl")):
            answer = str(next(iter(row["label"]), ""))
            closed = answer.lower() in ("yes", "no")
            found.append(Question(
                id=f"{row['question_id']}-{n}", image=f"{split}/{row['img_id']}.jpg", question=str(row["sent"]),
                answer=answer, kind="closed" if closed else "open", split=split, modality="pathology",
                group=str(row.get("question_type", "")),
            ))  # fmt: skip
    return found


def _rows(path: Path) -> Rows:
    rows = read_document(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Failure(f"{path}: not a list of objects")
    return rows


def _kind(row: dict[str, Any], root: Path) -> Any:
    kind = str(row.get("answer_type", "")).strip().lower()  # some rows of VQA-RAD say "CLOSED "
    if kind not in ("open", "closed"):
        raise Failure(f"{root}: question {row.get('qid')}: answer_type '{kind}' is neither OPEN nor CLOSED")
    return kind


def _pickled(path: Path) -> Rows:
    try:
        rows = _PlainOnly(io.BytesIO(path.read_bytes())).load()
        json.dumps(rows[:1])
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give the folder that PathVQA unpacks to") from None
    except Exception as error:  # a broken pickle may raise anything
        raise Failure(f"{path}: refused, {error}") from None
    return list(rows)
