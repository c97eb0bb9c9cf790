"""IU-Xray and MIMIC-CXR as R2Gen splits them, and MLRG's studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etl.errors import Failure, UsageError
from glip.downstream.items import Study, read_document


def r2gen(path: Path) -> list[Study]:
    """`annotation.json`: `{train, val, test: [{id, report, image_path: […]}]}`, paths below `images/`.

    IU-Xray has two images a study, of MIMIC-CXR's R2Gen uses the first.
    """
    path = path / "annotation.json" if path.is_dir() else path
    found = []
    for split, row in _entries(path):
        pictures = row["image_path"]
        pictures = [pictures] if isinstance(pictures, str) else pictures
        found.append(Study(str(row["id"]), tuple(map(str, pictures)), str(row["report"]), split))
    return found


def mlrg(path: Path) -> list[Study]:
    """MLRG's study-level JSON: anchor scan first, then the other views of the visit.

    Studies with an empty `findings_factual_serialization` are left out, as MLRG's own loader does. Prior visits stay in
    the file (`prior_study`) and are no images of the study.
    """
    path = path / "annotation.json" if path.is_dir() else path
    found = []
    for split, row in _entries(path):
        if not row.get("findings_factual_serialization"):
            continue
        views = [*row["anchor_scan"]["image_path"], *row["auxiliary_references"]["image_path"]]
        names = tuple(dict.fromkeys(map(str, views)))
        found.append(Study(str(row["id"]), names, str(row["findings"]).strip(), split))
    return found


def _entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give the folder that holds annotation.json, or such a file")
    document = read_document(path)
    if not isinstance(document, dict) or not {"train", "test"} <= set(document):
        raise Failure(f"{path}: no object with train, val and test")
    return [(split, row) for split in ("train", "val", "test") for row in document.get(split, [])]
