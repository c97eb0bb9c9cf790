"""Names of structures as words: spelling, case, separators and the place of the side made equal."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[a-z0-9]+")
_SIDES = {"left": "left", "right": "right", "l": "left", "r": "right", "lt": "left", "rt": "right"}
_CHAMBERS = {"lv": "left", "la": "left", "rv": "right", "ra": "right"}
_PLURALS = {"vertebrae": "vertebra", "foetus": "fetus", "foetal": "fetal", "teeth": "tooth", "feet": "foot"}
_SPELLINGS = (
    ("tumour", "tumor"), ("haem", "hem"), ("oesoph", "esoph"), ("oedem", "edem"), ("gray", "grey"), ("disk", "disc"),
    ("ischaem", "ischem"), ("colour", "color"),
)  # fmt: skip


def words(text: str) -> list[str]:
    """The words of a name, lower case, singular, American spelling; `kidney_left`, `KidneyLeft` → kidney, left."""
    return [_word(w) for w in _WORD.findall(_CAMEL.sub(" ", text).lower())]


def _word(word: str) -> str:
    for british, american in _SPELLINGS:
        word = word.replace(british, american)
    if word in _PLURALS:
        return _PLURALS[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "as")):
        return word[:-1]
    return word


def side(parts: Sequence[str]) -> str | None:
    """`left` or `right` if the words say exactly one side; a bare `l` or `r` counts at either end only."""
    told = {_SIDES[w] for w in parts if w in ("left", "right")}
    if not told and len(parts) > 1:
        told = {_SIDES[w] for w in (parts[0], parts[-1]) if w in _SIDES}
    return told.pop() if len(told) == 1 else None


def chamber_side(parts: Sequence[str]) -> str | None:
    """The side in the name of a heart chamber, also abbreviated: LV, LA are left, RV, RA are right."""
    told = {_CHAMBERS[w] for w in parts if w in _CHAMBERS}
    return side(parts) or (told.pop() if len(told) == 1 else None)


def normal(text: str) -> str:
    """One spelling of a name: the side first, then the other words in their order."""
    parts = words(text)
    where = side(parts)
    if where is None:
        return " ".join(parts)
    rest = [w for w in parts if w not in ("left", "right")]
    if len(rest) == len(parts):
        rest = parts[:-1] if parts[-1] in _SIDES else parts[1:]
    return " ".join([where, *rest])
