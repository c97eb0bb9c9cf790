"""Example paths for file patterns: texts that a regular expression matches, and the files they name. Pure."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice, product, zip_longest
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from etl.errors import UsageError
from etl.manifests.patterns import Pattern

MOST = 3000
"""Texts looked at for one capture; enough for any published naming scheme."""
WIDE = 3
"""Characters written for a `+` or `*` over single characters: numbers become 001, 002 …"""
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_. "
ANYTHING = r"[^/]+?"


def examples(regex: str) -> Iterator[str]:
    """Distinct texts that a regular expression matches, the same each time, at most `MOST`."""
    if regex == ANYTHING:
        yield from (f"{number:03d}" for number in range(1, MOST))
        return
    whole = re.compile(regex)
    seen: set[str] = set()
    for text in islice(_sequence(list(parser.parse(regex))), MOST):
        if text not in seen and whole.fullmatch(text):
            seen.add(text)
            yield text


def _sequence(items: list[Any]) -> Iterator[str]:
    parts = [list(islice(_texts(op, argument), MOST)) for op, argument in items]
    return ("".join(pieces) for pieces in product(*parts))


def _texts(op: Any, argument: Any) -> Iterator[str]:
    """Texts of one node of a parsed expression; what looks around matches nothing and is checked at the end."""
    if op is sre.LITERAL:
        return iter([chr(argument)])
    if op in (sre.ANY, sre.NOT_LITERAL, sre.IN, sre.CATEGORY):
        return iter(_characters(op, argument))
    if op is sre.BRANCH:
        return _turns([_sequence(list(branch)) for branch in argument[1]])
    if op is sre.SUBPATTERN:
        return _sequence(list(argument[-1]))
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, getattr(sre, "POSSESSIVE_REPEAT", None)):
        return _repeats(*argument)
    if op is getattr(sre, "ATOMIC_GROUP", None):
        return _sequence(list(argument))
    return iter([""])


def _turns(alternatives: list[Iterator[str]]) -> Iterator[str]:
    return (text for round_ in zip_longest(*alternatives) for text in round_ if text is not None)


def _repeats(least: int, most: Any, body: Any) -> Iterator[str]:
    items = list(body)
    single = len(items) == 1 and items[0][0] in (sre.ANY, sre.NOT_LITERAL, sre.IN, sre.CATEGORY)
    usual = max(least, WIDE if single else 1)
    counts = dict.fromkeys(n for n in (usual if least else 0, 1, usual, least) if least <= n <= most)
    return chain.from_iterable(_sequence(items * count) for count in counts)


def _characters(op: Any, argument: Any) -> str:
    if op is sre.ANY:
        return ALPHABET
    if op is sre.NOT_LITERAL:
        return ALPHABET.replace(chr(argument), "")
    items = [(op, argument)] if op is sre.CATEGORY else list(argument)
    negated = bool(items) and items[0][0] is sre.NEGATE
    own = [chr(value) for kind, value in items if kind is sre.LITERAL]
    known = "".join(dict.fromkeys(ALPHABET + "".join(own)))
    return "".join(c for c in known if any(_holds(kind, value, c) for kind, value in items) != negated)


CATEGORIES: dict[Any, Callable[[str], bool]] = {
    sre.CATEGORY_DIGIT: str.isdecimal,
    sre.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    sre.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    sre.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
    sre.CATEGORY_SPACE: str.isspace,
    sre.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
}


def _holds(kind: Any, value: Any, character: str) -> bool:
    if kind is sre.LITERAL:
        return bool(ord(character) == value)
    if kind is sre.RANGE:
        return bool(value[0] <= ord(character) <= value[1])
    return kind is sre.CATEGORY and CATEGORIES[value](character)


def captures(pattern: Pattern, labels: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Texts for the captures of a pattern: first all of them change together, then each with each.

    A capture {label} is one of `labels` where its expression allows any of them.
    """
    texts = {name: list(examples(pattern.regexes[name])) for name in pattern.names}
    if "label" in texts:
        texts["label"] = [x for x in labels if re.fullmatch(pattern.regexes["label"], x)] or texts["label"]
    for name, found in texts.items():
        if not found:
            raise UsageError(f"'{pattern.text}': no example found for {{{name}}}")
    longest = max((len(found) for found in texts.values()), default=1)
    for number in range(longest):
        yield {name: found[number % len(found)] for name, found in texts.items()}
    for combination in islice(product(*(found[:60] for found in texts.values())), MOST):
        yield dict(zip(texts, combination, strict=True))


def write_out(pattern: Pattern, given: Mapping[str, str], filler: str = "x") -> str:
    """The path of a pattern with these captures; a missing one becomes its first example, `*` becomes `filler`."""
    filled = dict(given)
    pieces: list[str] = []
    stars = [part for part in pattern.parts if part.literal is None and part.name is None]
    for part in pattern.parts:
        if part.literal is not None:
            pieces.append(part.literal)
        elif part.name is not None:
            if part.name not in filled:
                filled[part.name] = next(examples(part.regex))
            pieces.append(filled[part.name])
        elif part.regex.startswith("(?:"):
            pieces.append("sub/")
        else:
            pieces.append(filler if part is stars[-1] else "x")
    return "".join(pieces)
