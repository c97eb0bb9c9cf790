"""VQA-RAD and PathVQA as questions, with the datasets' own splits; the layouts were read in public loaders."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

from etl.errors import Failure, UsageError
from glip.downstream.items import Question, read_document

RAD = "VQA_RAD Dataset Public.json"
Rows = list[dict[str, Any]]


def vqa_rad(root: Path) -> list[Question]:
    """`VQA_RAD Dataset Public.json` and `VQA_RAD Image Folder/`: 1797 free-form and paraphrased questions to train,
    451 to test (`phrase_type` begins with `test`), as the authors split them. Images have no modality: it is unknown.
    """
    rows = rows_of(root / RAD)
    return [
        Question(
            id=str(row["qid"]), image=str(row["image_name"]), question=str(row["question"]).strip(),
            answer=str(row["answer"]).strip(), kind=answer_kind(row, root), group=str(row.get("question_type", "")),
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


def rows_of(path: Path) -> Rows:
    """A JSON list of objects. Failure if the file is none."""
    rows = read_document(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Failure(f"{path}: not a list of objects")
    return rows


def answer_kind(row: dict[str, Any], root: Path) -> Any:
    """`open` or `closed`, as the row says. Failure if it says neither."""
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
