"""Markdown tables."""

from collections.abc import Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with a line end; a cell is one line, and its `|` is escaped."""
    cells = [[" ".join(str(value).split()).replace("|", "\\|") for value in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in [list(head), ["---"] * len(head), *cells]]
    return "\n".join(lines) + "\n"
