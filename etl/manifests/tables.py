"""Facts that a source keeps in tables: CSV, TSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etl.errors import UsageError
from etl.manifests.clinical import harmonised
from etl.manifests.manifest import SplitList, Table
from etl.yamlfile import suggestion

_UNKNOWN = frozenset({"", "na", "n/a", "nan", "none", "null"})
_FIRM = frozenset({"subject", "split", "license"})
CELL = 2**17  # letters of a cell; more is no table


@dataclass(slots=True)
class FactTable:
    """The facts of each key of one table."""

    table: Table
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    def facts(self, key: str) -> dict[str, str]:
        """The known facts of a key, those with a value only."""
        return self.rows.get(key, {})


def read_table(table: Table, root: Path) -> FactTable:
    """Read the columns that the manifest names; a fact that rows of one key disagree on is unknown."""
    result = FactTable(table)
    if table.optional and not (root / table.file).exists():
        return result
    doubtful: set[tuple[str, str]] = set()
    for number, row in enumerate(_rows(table, root / table.file), 1):
        facts = result.rows.setdefault(row[table.key].strip(), {})
        for fact, value in _facts(table, row).items():
            if facts.setdefault(fact, value) != value:
                if fact in _FIRM:
                    raise UsageError(
                        f"{table.file}: rows of one {table.key} disagree on the {fact}, the second is row {number} of "
                        "those with a key; choose a key that tells the rows apart"
                    )
                doubtful.add((row[table.key].strip(), fact))
    for key, fact in doubtful:
        del result.rows[key][fact]
    return result


def read_splits(lists: Sequence[SplitList], root: Path) -> list[tuple[SplitList, frozenset[str]]]:
    """Each list with what its file names.

    Raises:
        UsageError: a file that is not there, or one name in lists of different splits.
    """
    found: list[tuple[SplitList, frozenset[str]]] = []
    owner: dict[str, SplitList] = {}
    for item in lists:
        path = root / item.file
        if item.optional and not path.exists():
            continue
        names = frozenset(line.strip() for line in _text(path).splitlines() if line.strip())
        for name in sorted(names):
            other = owner.setdefault(name, item)
            if other.split != item.split:
                raise UsageError(f"{path}: '{name}' is in the list of {other.split} too, {other.file}; correct one")
        found.append((item, names))
    return found


def _facts(table: Table, row: dict[str, str]) -> dict[str, str]:
    facts = {}
    for fact, column in table.columns.items():
        given = row.get(column, "").strip()
        said = table.values.get(fact, {})
        value = (said.get(given, given) or "").strip()
        if value.lower() in _UNKNOWN:
            continue
        if given not in said:
            value = harmonised(fact, value)
        if fact == "split" and value not in ("train", "val", "test"):
            raise UsageError(
                f"{table.file}: the split '{value}' is none of train, val, test; "
                f"say what it means: values: {{split: {{{value}: train}}}}"
            )
        facts[str(fact)] = value
    return facts


def _rows(table: Table, path: Path) -> list[dict[str, str]]:
    text = _text(path)
    try:
        rows = _json(table, path, text) if path.suffix.lower() == ".json" else _csv(table, path, text)
    except csv.Error as error:
        raise UsageError(f"{path}: the table of the manifest cannot be read: {error}") from error
    columns = {column: None for row in rows for column in row}
    for column in (table.key, *table.columns.values()):
        if rows and column not in columns:
            raise UsageError(
                f"{path}: has no column '{column}'{suggestion(column, columns)}; columns: {', '.join(columns)}"
            )
    return [row for row in rows if row.get(table.key, "").strip()]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the table of the manifest cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _csv(table: Table, path: Path, text: str) -> list[dict[str, str]]:
    csv.field_size_limit(CELL)  # one limit for the process: lists of run lengths set a higher one
    delimiters = "\t" if path.suffix.lower() in (".tsv", ".tab") else ",;\t"
    header = text.split("\n", 1)[0]
    fitting = (mark for mark in delimiters if table.key in next(csv.reader([header.strip("\r")], delimiter=mark), []))
    delimiter = next(fitting, delimiters[0])
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    return [{name: value for name, value in row.items() if isinstance(value, str)} for row in reader]


def _json(table: Table, path: Path, text: str) -> list[dict[str, str]]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if isinstance(data, dict):
        data = [{table.key: key, **row} for key, row in data.items() if isinstance(row, dict)]
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise UsageError(f"{path}: must be a list of objects, or one object of objects")
    return [dict(_flat(row, "")) for row in data]


def _flat(row: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Nested objects as `outer.inner` columns."""
    items: list[tuple[str, str]] = []
    for name, value in row.items():
        if isinstance(value, dict):
            items += _flat(value, f"{prefix}{name}.")
        elif value is not None and not isinstance(value, list):
            items.append((prefix + name, str(value)))
    return items
