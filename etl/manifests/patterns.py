"""File patterns with captures: `{name}`, `{name:regex}`, `*`, `**`; and templates such as `"{case}"`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from etl.yamlfile import suggestion

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class _Part:
    """One capture (with a name) or piece of pattern; `regex` matches its text."""

    regex: str
    name: str | None = None
    literal: str | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern; `names` are its captures in order of first use."""

    text: str
    names: tuple[str, ...]
    regexes: dict[str, str]
    parts: tuple[_Part, ...]
    regex: str
    prefix: str
    suffix: str

    def match(self, path: str) -> dict[str, str] | None:
        """The captures of a path, each as short as can be, or None."""
        if not path.endswith(self.suffix) or not path.startswith(self.prefix):
            return None
        found = re.compile(self.regex, re.DOTALL).fullmatch(path)
        return {name: found[name] for name in self.names} if found else None

    def matches(self, path: str) -> Iterator[dict[str, str]]:
        """Every way to split a path into captures, shortest first."""
        seen: set[tuple[str, ...]] = set()
        for found in self._split(path, 0, 0, {}):
            key = tuple(found[name] for name in self.names)
            if key not in seen:
                seen.add(key)
                yield found

    def _split(self, path: str, start: int, index: int, found: dict[str, str]) -> Iterator[dict[str, str]]:
        if index == len(self.parts):
            if start == len(path):
                yield dict(found)
            return
        part = self.parts[index]
        fixed = part.literal if part.literal is not None else found.get(part.name or "")
        if fixed is not None:
            if path.startswith(fixed, start):
                yield from self._split(path, start + len(fixed), index + 1, found)
            return
        piece = re.compile(part.regex)
        for end in self._ends(path, start, index):
            if piece.fullmatch(path, start, end):
                more = {**found, part.name: path[start:end]} if part.name else found
                yield from self._split(path, end, index + 1, more)

    def _ends(self, path: str, start: int, index: int) -> Iterator[int]:
        """Where the part may end: before each occurrence of the literal that follows it, if one does."""
        after = self.parts[index + 1].literal if index + 1 < len(self.parts) else None
        if after is None:
            yield from range(start, len(path) + 1)
            return
        end = path.find(after, start)
        while end >= 0:
            yield end
            end = path.find(after, end + 1)


def compile_pattern(text: str, image: Pattern | None = None) -> Pattern:
    """Compile a pattern; a mask pattern takes over the regex of a capture from its `image` pattern.

    One that ends in `/` matches every file in that folder.
    """
    text = f"{text}*" if text.endswith("/") else text
    if text.startswith("/") or "\\" in _PLACE.sub("", text.split("{")[0]) or ".." in text.split("/"):
        raise ValueError(f"'{text}' must be a path below the source's folder, with / and without ..")
    regexes: dict[str, str] = {}
    parts = tuple(_parts(text.removeprefix("./"), regexes, image.regexes if image else {}))
    pieces, used = [], set[str]()
    for part in parts:
        if part.name and part.name in used:
            pieces.append(f"(?P={part.name})")
        elif part.name:
            used.add(part.name)
            pieces.append(f"(?P<{part.name}>{part.regex})")
        else:
            pieces.append(part.regex)
    regex = "".join(pieces)
    try:
        if any("(" in own for own in regexes.values()):
            re.compile(regex, re.DOTALL)
        else:  # without groups the whole is right if the parts are, and 129 manifests load in half the time
            for own in set(regexes.values()):
                re.compile(own)
    except re.error as error:
        raise ValueError(f"'{text}': not a regular expression: {error}") from error
    first, last = parts[0].literal or "", parts[-1].literal or ""
    return Pattern(text, tuple(regexes), regexes, parts, regex, first, last)


def _parts(text: str, regexes: dict[str, str], given: Mapping[str, str]) -> Iterator[_Part]:
    at = 0
    while at < len(text):
        if text[at] == "{":
            end = _closing(text, at)
            name, colon, own = text[at + 1 : end].partition(":")
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{text}': '{{{name}}}' needs a name of letters, digits and _")
            regex = own if colon else regexes.get(name) or given.get(name) or r"[^/]+?"
            regexes.setdefault(name, regex)
            yield _Part(regex, name=name)
            at = end + 1
        elif text.startswith("**", at):
            whole = text.startswith("**/", at) and (at == 0 or text[at - 1] == "/")
            yield _Part("(?:.*?/)?" if whole else ".*?")
            at += 3 if whole else 2
        elif text[at] == "*":
            yield _Part("[^/]*?")
            at += 1
        else:
            end = min((i for i in (text.find("{", at), text.find("*", at)) if i >= 0), default=len(text))
            yield _Part(re.escape(text[at:end]), literal=text[at:end])
            at = end


def _closing(text: str, start: int) -> int:
    depth, at = 0, start
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    raise ValueError(f"'{text}': a {{ is not closed")


def example(pattern: Pattern) -> str:
    """A path of the pattern for a person to read: captures as `<name>`, other pieces as `*`."""
    return "".join(part.literal if part.literal is not None else _shown(part) for part in pattern.parts)


def _shown(part: _Part) -> str:
    if part.name:
        return f"<{part.name}>"
    return "**/" if part.regex.endswith("/)?") else "*"


def check_template(text: str, names: Collection[str]) -> None:
    """Refuse a template that uses a capture that is not among `names`."""
    for name in _PLACE.findall(text):
        if name not in names:
            known = ", ".join(names) or "none"
            raise ValueError(f"'{text}': no capture '{name}'{suggestion(name, names)}; captures: {known}")


def fill(text: str, captures: Mapping[str, str]) -> str:
    """A template with its captures filled in."""
    return _PLACE.sub(lambda found: captures[found[1]], text)
