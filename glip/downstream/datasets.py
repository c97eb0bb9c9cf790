"""Which datasets there are, and where their images lie. `ground` is run on that folder, so its names are the items'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from etl.errors import UsageError
from glip.downstream import read_reports, read_slake, read_vqa
from glip.downstream.items import Item, Question, Study, questions, read_items, studies


def _items(name: str) -> Callable[[Path], Sequence[Item]]:
    return lambda root: read_items(root / name)


VQA: dict[str, tuple[Callable[[Path], Sequence[Item]], str]] = {
    "slake": (read_slake.slake, "imgs"),
    "vqa_rad": (read_vqa.vqa_rad, "VQA_RAD Image Folder"),
    "path_vqa": (read_vqa.path_vqa, "images"),
    "items": (_items("questions.jsonl"), "images"),
}
REPORTS: dict[str, tuple[Callable[[Path], Sequence[Item]], str]] = {
    "iu_xray": (read_reports.r2gen, "images"),
    "mimic_cxr": (read_reports.r2gen, "images"),
    "mlrg": (read_reports.mlrg, "files"),
    "items": (_items("studies.jsonl"), "images"),
}


def read_vqa_dataset(name: str, root: Path, images: Path | None) -> tuple[list[Question], Path]:
    """(questions, image folder). UsageError lists the datasets there are."""
    items, folder = _read(VQA, name, root, images)
    return questions(items), folder


def read_report_dataset(name: str, root: Path, images: Path | None) -> tuple[list[Study], Path]:
    """(studies, image folder). UsageError lists the datasets there are."""
    items, folder = _read(REPORTS, name, root, images)
    return studies(items), folder


def _read(table: dict[str, Any], name: str, root: Path, images: Path | None) -> tuple[Sequence[Item], Path]:
    if name not in table:
        raise UsageError(f"--dataset {name}: it is {', '.join(table)}")
    read, folder = table[name]
    return read(root), images or (root if root.is_dir() else root.parent) / folder
