"""Scores of an answer to a question, each with one published definition. Pure.

Normalised text: lower case, punctuation and the articles a, an, the left out, single spaces (SQuAD's
`normalize_answer`, Rajpurkar et al. 2016; a hyphen or slash separates words). Tokens are its words.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from glip.downstream.captions import lcs

METRICS = ("closed_accuracy", "closed_substring_legacy", "open_recall", "open_f1", "open_exact", "open_rouge_l")
"""`closed_…` over closed questions, `open_…` over open ones."""
_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """The text by which answers are compared; hyphens and slashes separate words, other marks vanish."""
    text = re.sub(r"[-/_]", " ", text.lower())
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub("", text)).split())


def tokens(text: str) -> list[str]:
    """The words of a normalised text; of one that is nothing but articles and marks, its letters as they are."""
    return normalise(text).split() or text.lower().split()


def closed_accuracy(answer: str, truth: str, others: Sequence[str] = ("yes", "no")) -> float:
    """1 if the truth's tokens stand in the answer as a run of whole tokens, and no other option's do.

    So `no` is not in `nodule`, `Yes, a nodule` is not `no`, and `yes and no` is neither. `others` are the options of
    the question; the truth may be among them, and an option that is a part of the truth does not count against it.
    """
    given, wanted = tokens(answer), tokens(truth)
    if not _within(wanted, given):
        return 0.0
    rest = [tokens(o) for o in others]
    return float(not any(o != wanted and not _within(o, wanted) and _within(o, given) for o in rest))


def _within(part: list[str], whole: list[str]) -> bool:
    return bool(part) and any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def substring_legacy(answer: str, truth: str) -> float:
    """What several public evaluations call closed accuracy: 1 if the lower-case truth is a substring of the answer.

    It scores `no` right for `Yes, a nodule is present`. Only for comparison with numbers made that way.
    """
    return float(normalise(truth) in normalise(answer))


def recall(answer: str, truth: str) -> float:
    """The share of the truth's tokens that are in the answer, counted with repetition (LLaVA-Med's open recall)."""
    wanted = Counter(tokens(truth))
    return sum((wanted & Counter(tokens(answer))).values()) / max(1, sum(wanted.values()))


def f1(answer: str, truth: str) -> float:
    """The harmonic mean of token precision and recall (SQuAD's F1)."""
    given, wanted = Counter(tokens(answer)), Counter(tokens(truth))
    same = sum((given & wanted).values())
    return 2 * same / (sum(given.values()) + sum(wanted.values())) if same else 0.0


def exact(answer: str, truth: str) -> float:
    """1 if both are the same after normalisation."""
    return float(tokens(answer) == tokens(truth))


def rouge_l(answer: str, truth: str) -> float:
    """F1 of the longest common subsequence of tokens (Lin 2004, β = 1; that of reports has pycocoevalcap's β = 1.2)."""
    given, wanted = tokens(answer), tokens(truth)
    common = lcs(given, wanted)
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def options(question: str, truth: str) -> tuple[str, ...]:
    """The options of a closed question: yes and no, or what `… A or B?` offers; else only the truth is known."""
    if normalise(truth) in ("yes", "no"):
        return ("yes", "no")
    match = re.search(r"([\w-]+(?: [\w-]+)?),? or (?:the |a |an )?([\w-]+(?: [\w-]+)?)\s*\??\s*$", question.lower())
    if match is None:
        return (truth,)
    one, two = (" ".join(tokens(m)) for m in match.groups())
    return tuple(dict.fromkeys((_shortest(one, truth), _shortest(two, truth))))


def _shortest(option: str, truth: str) -> str:
    """An option as the truth spells it where it contains it (`in the left`, left → left)."""
    return truth if _within(tokens(truth), tokens(option)) else option.split()[-1]


def score(answer: str, truth: str, *, kind: str, question: str = "") -> dict[str, float]:
    """The metrics that hold for a question of this kind."""
    if kind == "closed":
        return {
            "closed_accuracy": closed_accuracy(answer, truth, options(question, truth)),
            "closed_substring_legacy": substring_legacy(answer, truth),
        }
    values = (recall(answer, truth), f1(answer, truth), exact(answer, truth), rouge_l(answer, truth))
    return dict(zip(METRICS[2:], values, strict=True))
