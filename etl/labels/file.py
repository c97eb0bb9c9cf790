"""A label map as text: one sorted line an entry, so that an edit changes one line and comments stay.

    source: example_ct
    labels:
      # a comment belongs to the entry below it
      spleen: {label: spleen, status: approved, by: curator}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping as Map
from pathlib import Path

import yaml

from etl import store
from etl.errors import UsageError
from etl.labels.maps import Mapping

_PLAIN = re.compile(r"[A-Za-z0-9_>(][A-Za-z0-9 _./()+>-]*(?<! )")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_ENTRY = re.compile(r"  (\S.*)")
_FIELDS = ("label", "status", "by", "confidence", "why")


def scalar(text: str) -> str:
    """A YAML scalar that every reader takes for this text, plain where that is safe, else in double quotes."""
    plain = bool(_PLAIN.fullmatch(text)) and text.lower() not in _WORDS and text[0] not in ">"
    if plain and yaml.safe_load(text) == text:
        return text
    return json.dumps(text, ensure_ascii=False)


def entry(raw: str, mapping: Mapping) -> str:
    """The line of one entry, without line end; fields in the order label, status, by, confidence, why."""
    fields = []
    for name in _FIELDS:
        value = getattr(mapping, name)
        if value is None and name != "label":
            continue
        shown = "null" if value is None else f"{value:.2f}" if isinstance(value, float) else scalar(value)
        fields.append(f"{name}: {shown}")
    return f"  {scalar(raw)}: {{{', '.join(fields)}}}"


def render(slug: str, entries: Map[str, Mapping]) -> str:
    """The text of a new label map."""
    lines = [entry(raw, entries[raw]) for raw in sorted(entries)]
    return "\n".join([f"source: {slug}", "labels:", *lines]) + "\n"


def key(line: str) -> str | None:
    """The raw label of an entry's line; None for a comment, an empty line, or anything else."""
    found = _ENTRY.fullmatch(line)
    if found is None or line.lstrip().startswith("#"):
        return None
    try:
        read = yaml.load(found[1], Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        return None
    return str(next(iter(read))) if isinstance(read, dict) and len(read) == 1 else None


def edited(path: Path, slug: str, changes: Map[str, Mapping]) -> str:
    """The text of `path` (or of a new file) with these entries set; every other line stays as it is.

    A new entry goes before the first entry that sorts after it, above that entry's comments. A comment at the end of
    a changed line stays. Raises `UsageError` where an entry does not stand on one line.
    """
    if not path.exists():
        return render(slug, changes)
    lines = path.read_text(encoding="utf-8").splitlines()
    keys = [key(line) for line in lines]
    _one_line_each(path, lines, keys)
    for raw in sorted(changes):
        line = entry(raw, changes[raw])
        if raw in keys:
            at = keys.index(raw)
            lines[at] = line + _trailing_comment(lines[at])
            continue
        at = next((n for n, known in enumerate(keys) if known is not None and known > raw), len(lines))
        while at and lines[at - 1].lstrip().startswith("#") and at < len(lines):
            at -= 1
        lines.insert(at, line)
        keys.insert(at, raw)
    return "\n".join(lines) + "\n"


def save(folder: Path, slug: str, changes: Map[str, Mapping], before: Map[str, Mapping]) -> Path:
    """Set entries in the map of a source in a folder, other lines stay; `before` is what a new file has besides."""
    path = folder / "sources" / f"{slug}.yaml"
    entries = changes if path.exists() else {**before, **changes}
    if changes:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_bytes(path, edited(path, slug, entries).encode())
    return path


def _one_line_each(path: Path, lines: list[str], keys: list[str | None]) -> None:
    for number, (line, raw) in enumerate(zip(lines, keys, strict=True), start=1):
        top = line.startswith(("source:", "labels:")) or not line.strip() or line.lstrip().startswith("#")
        if raw is None and not top:
            cause = "an entry must stand on one line: `  raw label: {label: …, status: …}`"
            raise UsageError(f"{path}:{number}: {cause}")


def _trailing_comment(line: str) -> str:
    end = line.rfind("}")
    rest = line[end + 1 :].strip() if end >= 0 else ""
    return f"  {rest}" if rest.startswith("#") else ""
