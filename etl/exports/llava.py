"""Conversations for LLaVA, and the questions of LLaVA-Med's evaluation: what is there, and where."""

from pathlib import Path
from typing import IO

import orjson

from etl.exports.job import Job, Row, corners, spans

WHAT = "Which structures are annotated in this image?"
WHERE = "Please provide the bounding box coordinate of the region this sentence describes: {}."
IMAGE = "<image>"


def write(job: Job, folder: Path) -> None:
    """`<split>.json` (training), `<split>.questions.jsonl` (evaluation) and `images/…`."""
    for split in job.splits:
        with (folder / f"{split}.json").open("wb") as chats, (folder / f"{split}.questions.jsonl").open("wb") as asked:
            chats.write(b"[")
            for n, row in enumerate(job.rows(split)):
                job.save_image(row, folder / "images")
                chats.write((b",\n" if n else b"\n") + orjson.dumps(chat(row)))
                ask(row, asked)
            chats.write(b"\n]\n")


def turns(row: Row) -> list[tuple[str, str]]:
    """Questions with their answers: first all phrases of the image, then the boxes of each."""
    phrases = list(spans(row))
    answers = [(WHAT, ", ".join(phrases) + ".")]
    for phrase in phrases:
        boxes = [text(padded(corners(r), row)) for r in row["regions"] if r["phrase"] == phrase]
        answers.append((WHERE.format(phrase), ", ".join(boxes)))
    return answers


def padded(corner: list[int], row: Row) -> list[float]:
    """Corners relative to the square that LLaVA 1.5 pads an image to, which then lies in its middle."""
    side = max(row["width"], row["height"])
    left, top = (side - row["width"]) // 2, (side - row["height"]) // 2
    return [(value + shift) / side for value, shift in zip(corner, (left, top, left, top), strict=True)]


def text(numbers: list[float]) -> str:
    """A box as LLaVA writes it, with one decimal more."""
    return "[" + ", ".join(f"{n:.3f}" for n in numbers) + "]"


def chat(row: Row) -> Row:
    """An entry of LLaVA's training file; `regions` in pixels are for other conventions, its reader leaves them."""
    said = []
    for n, (question, answer) in enumerate(turns(row)):
        said += [{"from": "human", "value": question if n else f"{IMAGE}\n{question}"},
                 {"from": "gpt", "value": answer}]  # fmt: skip
    regions = [{"phrase": r["phrase"], "bbox": corners(r)} for r in row["regions"]]
    return {
        "id": row["key"], "image": row["file_name"], "width": row["width"], "height": row["height"],
        "conversations": said, "regions": regions,
    }  # fmt: skip


def ask(row: Row, file: IO[bytes]) -> None:
    """Writes the lines of LLaVA-Med's question file, where the image comes last; `answer` is the truth."""
    for n, (question, answer) in enumerate(turns(row)):
        entry = {"question_id": f"{row['key']}/{n}", "image": row["file_name"], "text": f"{question}\n{IMAGE}",
                 "answer": answer}  # fmt: skip
        file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
