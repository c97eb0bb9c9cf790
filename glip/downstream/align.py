"""Closed questions answered by alignment: the option whose words agree best with what was found. Pure, no training.

A region speaks for an option with its score times the share of the option's words that its phrase has; what the option
leaves open (`left` of `left lung`) is taken from the question. Yes or no: is what the question asks about there?
"""

from __future__ import annotations

from collections.abc import Sequence

from glip.downstream.answers import options, tokens
from glip.downstream.items import Region

_SMALL_WORDS = """is are was were does do did this that these those there in of on at to for from image picture scan any
or and it its which what where show shown present have has contain exist normal look see seen located be can you with
by"""
SMALL_WORDS = frozenset(_SMALL_WORDS.split())


def content(text: str) -> list[str]:
    """The words of a text that can name a region, in the singular."""
    words = [w for w in tokens(text) if w not in SMALL_WORDS]
    return [w[:-1] if w.endswith("s") and not w.endswith("ss") and len(w) > 3 else w for w in words]


def alignment(option: str, question: str, regions: Sequence[Region]) -> float:
    """How well an option agrees with the best region, from 0 to 1."""
    wanted, asked = set(content(option)), set(content(question))
    best = 0.0
    for found in regions:
        named = set(content(found.phrase))
        if not wanted or not named or not wanted & named:
            continue
        rest = named - wanted
        about = len(rest & asked) / len(rest) if rest else 1.0
        best = max(best, found.score * len(wanted & named) / len(wanted) * (0.5 + 0.5 * about))
    return best


def presence(question: str, regions: Sequence[Region]) -> float:
    """How sure it is that what is asked about was found: the best score of a region all of whose words are asked."""
    asked = set(content(question))
    return max((r.score for r in regions if set(content(r.phrase)) and set(content(r.phrase)) <= asked), default=0.0)


def answer(question: str, truth: str, regions: Sequence[Region], *, threshold: float = 0.25) -> str | None:
    """The answer to a closed question; None where no option agrees with anything that was found.

    The truth tells which options there are (`answers.options`), never which of them is right.
    """
    choices = options(question, truth)
    if set(choices) == {"yes", "no"}:
        return "yes" if presence(question, regions) >= threshold else "no"
    ranked = sorted(choices, key=lambda c: (-alignment(c, question, regions), c))
    return ranked[0] if ranked and alignment(ranked[0], question, regions) > 0 and len(ranked) > 1 else None
