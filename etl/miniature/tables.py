"""The tables of a miniature: CSV, TSV or JSON with the keys and columns that the manifest names, lists of splits."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etl.manifests.manifest import Manifest, Table
from etl.manifests.patterns import fill
from etl.miniature.plan import ImagePlan

FACTS = {"sex": "F", "age": "61", "diagnosis": "none", "license": "CC-BY-4.0", "split": "train"}


def write_tables(manifest: Manifest, images: Sequence[ImagePlan], root: Path) -> None:
    """Write each table of a manifest, with one row a case, and each list, with its share of the cases."""
    _write_lists(manifest, images, root)
    for table in manifest.tables:
        rows: dict[str, dict[str, str]] = {}
        for number, image in enumerate(images):
            key = fill(table.case, {"case": image.case, **image.captures})
            rows.setdefault(key, {table.key: key, **_facts(table, number)})
        path = root / table.file
        path.parent.mkdir(parents=True, exist_ok=True)
        text = _json(rows.values()) if path.suffix.lower() == ".json" else _csv(path, list(rows.values()))
        path.write_text(text, encoding="utf-8")


def _write_lists(manifest: Manifest, images: Sequence[ImagePlan], root: Path) -> None:
    lists = manifest.split_lists
    for number, item in enumerate(lists):
        names = dict.fromkeys(fill(item.case, {"case": image.case, **image.captures}) for image in images)
        path = root / item.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in [*names][number :: len(lists)]), encoding="utf-8")


def _facts(table: Table, number: int) -> dict[str, str]:
    """Columns of a row: a word of the source's own where the manifest translates them."""
    row = {}
    for fact, column in table.columns.items():
        words = [word for word, meaning in table.values.get(fact, {}).items() if meaning is not None]
        row[column] = words[number % len(words)] if words else FACTS.get(fact, f"s{number:03d}")
    return row


def _csv(path: Path, rows: list[dict[str, str]]) -> str:
    sink = io.StringIO(newline="")
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    writer = csv.DictWriter(sink, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def _json(rows: Any) -> str:
    """A list of objects; a column `outer.inner` is nested."""
    result = []
    for row in rows:
        nested: dict[str, Any] = {}
        for name, value in row.items():
            *outer, last = name.split(".")
            place = nested
            for part in outer:
                place = place.setdefault(part, {})
            place[last] = value
        result.append(nested)
    return json.dumps(result, indent=1)
