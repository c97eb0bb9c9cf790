"""Strict YAML: what is written is what is read.

Every scalar stays text: `no`, `1e3`, `0x10` and `2022-01-01` are those letters. A schema turns text into numbers
where it wants numbers. Anchors, aliases, tags and duplicate keys are refused, and every message begins with
`file:line:`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import BaseModel, ValidationError

from etl.errors import UsageError

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"
Location: TypeAlias = tuple[str | int, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = frozenset({"null", "Null", "NULL", "~"})
_AROUND = (yaml.StreamStartEvent, yaml.DocumentStartEvent)


@dataclass
class Document:
    """A read file: its top mapping, and the line (from 1) of each key and list item."""

    path: Path
    data: dict[str, Value] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)

    def line(self, location: Location) -> int:
        """The line of the innermost known part of `location`."""
        for end in range(len(location), 0, -1):
            if location[:end] in self.lines:
                return self.lines[location[:end]]
        return 1

    def message(self, location: Location, cause: str) -> str:
        """`file:line: key: cause`, for the key at `location`."""
        known = [end for end in range(len(location), 0, -1) if location[:end] in self.lines]
        name = dotted(location[: known[0]] if known else location)
        return f"{self.path}:{self.line(location)}: {name + ': ' if name else ''}{cause}"


def dotted(location: Location) -> str:
    """`("files", 0, "kind")` as `files[0].kind`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for a near miss of a known word, else nothing."""
    close = difflib.get_close_matches(word, sorted(set(known)), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def load(path: Path, text: Iterable[str] = ()) -> Document:
    """Read a file whose top is a mapping.

    An empty value is None, and so is a plain `null` or `~`, except inside a list or mapping below a key in `text`,
    where it is a word like any other.
    """
    document = Document(path)
    events = _events(path)
    top = next((event for event in events if not isinstance(event, _AROUND)), None)
    if not isinstance(top, yaml.MappingStartEvent):
        raise UsageError(f"{path}:1: the file must hold keys and values (key: value)")
    try:
        document.data = _mapping(document, events, (), frozenset(text))
    except RecursionError as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from error
    return document


def _events(path: Path) -> Iterator[Any]:
    """What the parser finds in a file that is right. No tree is composed of it: that takes as long as all else."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    try:
        events = list(yaml.parse(content, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        hint = "check indentation, and put quotes around text that holds special characters"
        raise UsageError(f"{path}:{line}: not valid YAML: {error.problem}; {hint}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from error
    for event in events:
        if isinstance(event, yaml.NodeEvent):
            _refuse(path, event)
    starts: list[Any] = [event for event in events if isinstance(event, yaml.DocumentStartEvent)]
    if len(starts) > 1:
        line = starts[1].start_mark.line + 1
        raise UsageError(f"{path}:{line}: a second document begins (---); write a file for each")
    return iter(events)


def _refuse(path: Path, event: Any) -> None:
    if event.anchor is not None:
        what, mark = ("aliases", "*") if isinstance(event, yaml.AliasEvent) else ("anchors", "&")
        cause = f"{what} ({mark}{event.anchor}) are not allowed; write the value out or put it in quotes"
    elif event.tag is not None:
        cause = f"tags ({event.tag}) are not allowed; remove it or put the value in quotes"
    else:
        return
    raise UsageError(f"{path}:{event.start_mark.line + 1}: {cause}")


def _mapping(document: Document, events: Iterator[Any], at: Location, text: frozenset[str]) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for event in events:
        if isinstance(event, yaml.MappingEndEvent):
            break
        line = event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent):
            raise UsageError(f"{document.path}:{line}: a key must be one word or text; put it in quotes")
        key = str(event.value)
        here = (*at, key)
        if key in result:
            first = document.lines[here]
            cause = f"the key is there twice (first on line {first}); keep one of them"
            raise UsageError(f"{document.path}:{line}: {dotted(here)}: {cause}")
        document.lines[here] = line
        result[key] = _value(document, next(events), events, here, text)
    return result


def _value(
    document: Document, event: Any, events: Iterator[Any], at: Location, text: frozenset[str]
) -> Value:
    """The value that begins with an event and ends somewhere in those that follow."""
    if isinstance(event, yaml.MappingStartEvent):
        return _mapping(document, events, at, text)
    if isinstance(event, yaml.SequenceStartEvent):
        found: list[Value] = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            here = (*at, len(found))
            document.lines[here] = item.start_mark.line + 1
            found.append(_value(document, item, events, here, text))
        return found
    assert isinstance(event, yaml.ScalarEvent)
    value = str(event.value)
    if event.style:  # quoted or block text
        return value
    if value == "" or (value in _NULLS and not text.intersection(at[:-1])):
        return None
    return value


def explain(document: Document, error: ValidationError, models: dict[Location, type[BaseModel]]) -> list[str]:
    """One message per problem of a pydantic check; `models` maps a location without indices to its model."""
    messages: dict[str, None] = {}
    for problem in error.errors():
        location = tuple(problem["loc"])
        messages[document.message(location, _cause(problem, location, models))] = None
    return list(messages)


def _cause(problem: Any, location: Location, models: dict[Location, type[BaseModel]]) -> str:
    kind, given = problem["type"], problem["input"]
    last = str(location[-1]) if location else ""
    if kind == "extra_forbidden":
        parent = tuple(part for part in location[:-1] if isinstance(part, str))
        fields = models[parent].model_fields if parent in models else {}
        known = [name for name, info in fields.items() if not info.exclude]
        return f"unknown key{suggestion(last, known)}; known keys: {', '.join(sorted(known))}"
    if kind == "missing":
        return f"the key '{last}' is missing; add it"
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"'{given}' is not one of: {', '.join(words)}{suggestion(str(given), words)}"
    if given is None:
        return "has no value; write one or remove the key (text that begins with # needs quotes)"
    if kind == "string_type" and isinstance(given, dict):
        return "must be text; put quotes around text with braces, as in \"{case}\""
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    shown = repr(str(given)) if isinstance(given, str) else f"a {'list' if isinstance(given, list) else 'mapping'}"
    return f"{problem['msg']}, not {shown}"
