"""BLEU-1 … 4, ROUGE-L, CIDEr and METEOR of reports, equal to pycocoevalcap for one reference each.

Every metric is a table of statistics, one row a report, and a function of their (weighted) sums, so that a bootstrap
needs no text. Words are what white space separates: cleaning comes before, by name (`CLEANING`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ngram = tuple[str, ...]
SIGMA = 6.0
"""Of CIDEr's penalty for a length that differs."""
BETA = 1.2
"""Of ROUGE-L in the COCO evaluation."""
SMALL, TINY = 1e-9, 1e-15
"""BLEU's guards against division by zero in the COCO evaluation; part of its definition."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Statistics (reports, k) and the value of their sums (…, k) → (…)."""

    statistics: Floats
    value: Callable[[Floats], Floats]

    @property
    def overall(self) -> float:
        """The value over all reports."""
        return float(self.value(self.statistics.sum(axis=0)))


def mean_of(values: Sequence[float], where: Sequence[bool] | None = None) -> Metric:
    """The mean of one value a row, over the rows that have one (`where`)."""
    counted = np.ones(len(values)) if where is None else np.asarray(where, float)
    return Metric(np.stack([np.asarray(values, float) * counted, counted], axis=1), _quotient)


def _quotient(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Floats = sums[..., 0] / sums[..., 1]
    return out


def ngrams(words: Sequence[str]) -> Counter[Ngram]:
    """How often each run of 1 … 4 words occurs."""
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


def bleu(answers: Sequence[str], truths: Sequence[str]) -> list[Metric]:
    """BLEU-1 … 4 of a corpus (Papineni et al. 2002), as pycocoevalcap's `Bleu(4)`."""
    rows = []
    for answer, truth in zip(answers, truths, strict=True):
        given, wanted = answer.split(), truth.split()
        right = [0] * 4
        for gram, n in (ngrams(given) & ngrams(wanted)).items():
            right[len(gram) - 1] += n
        rows.append([len(given), len(wanted), *(max(0, len(given) - n) for n in range(4)), *right])
    table = np.asarray(rows, float).reshape(-1, 10)
    return [Metric(table, lambda sums, n=n: _bleu(sums, n)) for n in range(1, 5)]  # type: ignore[misc]


def _bleu(sums: Floats, order: int) -> Floats:
    precision = np.ones(sums.shape[:-1])
    for n in range(order):
        precision = precision * (sums[..., 6 + n] + TINY) / (sums[..., 2 + n] + SMALL)
    ratio = (sums[..., 0] + TINY) / (sums[..., 1] + SMALL)
    out: Floats = precision ** (1 / order) * np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    return out


def lcs(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(answers: Sequence[str], truths: Sequence[str]) -> Metric:
    """The mean ROUGE-L of a corpus, as pycocoevalcap's `Rouge` (which splits at single spaces)."""
    values = []
    for answer, truth in zip(answers, truths, strict=True):
        given, wanted = answer.split(" "), truth.split(" ")
        common = lcs(given, wanted)
        precision, recall = common / len(given), common / len(wanted)
        values.append((1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if common else 0.0)
    return mean_of(values)


def cider(answers: Sequence[str], truths: Sequence[str]) -> Metric:
    """The mean CIDEr-D of a corpus, as pycocoevalcap's `Cider`; document frequencies are those of the references."""
    grams = [ngrams(t.split()) for t in truths]
    frequency: Counter[Ngram] = Counter(gram for found in grams for gram in found)
    log_size = math.log(len(truths)) if truths else 0.0
    return mean_of([
        _cider(ngrams(answer.split()), wanted, frequency, log_size)
        for answer, wanted in zip(answers, grams, strict=True)
    ])  # fmt: skip


def _cider(given: Counter[Ngram], wanted: Counter[Ngram], frequency: Counter[Ngram], log_size: float) -> float:
    a, b = _weighted(given, frequency, log_size), _weighted(wanted, frequency, log_size)
    delta = sum(n for g, n in given.items() if len(g) == 2) - sum(n for g, n in wanted.items() if len(g) == 2)
    total = 0.0
    for order in range(4):
        one, two = a[order], b[order]
        value = sum(min(w, two.get(gram, 0.0)) * two.get(gram, 0.0) for gram, w in one.items())
        lengths = math.sqrt(sum(w * w for w in one.values())) * math.sqrt(sum(w * w for w in two.values()))
        total += (value / lengths if lengths else value) * math.exp(-(delta**2) / (2 * SIGMA**2))
    return 10 * total / 4


def _weighted(counts: Counter[Ngram], frequency: Counter[Ngram], log_size: float) -> list[dict[Ngram, float]]:
    """tf · idf by length of the n-gram."""
    out: list[dict[Ngram, float]] = [{} for _ in range(4)]
    for gram, n in counts.items():
        out[len(gram) - 1][gram] = n * (log_size - math.log(max(1.0, frequency[gram])))
    return out


def scores(answers: Sequence[str], truths: Sequence[str]) -> dict[str, Metric]:
    """All metrics that need no program of its own: BLEU-1 … 4, ROUGE-L, CIDEr."""
    found = {f"BLEU-{n}": metric for n, metric in enumerate(bleu(answers, truths), 1)}
    return {**found, "ROUGE-L": rouge_l(answers, truths), "CIDEr": cider(answers, truths)}


def clean_r2gen(report: str) -> str:
    """The text that R2Gen trains on and scores: lower case, ` . ` between sentences, no other marks or list numbers."""
    text = re.sub(r"_{2,}", "_", report.replace("\n", " "))
    text = re.sub(r"\.{2,}", ".", re.sub(r" {2,}", " ", text)).replace("1. ", "")
    for number in "2345":
        text = text.replace(f". {number}. ", ". ")
    for number in "2345":
        text = text.replace(f" {number}. ", ". ")
    bare = re.sub(r"[\"/\\']", "", text.strip().lower())
    return " . ".join(_R2GEN_MARKS.sub("", s.strip()) for s in bare.split(". ")) + " ."


_R2GEN_MARKS = re.compile(r"[.,?;*!%^&_+():-\[\]{}]")
"""As R2Gen writes it: the range `:-[` also takes `<`, `=`, `>`, `@` and capitals; a hyphen stays."""


def clean_mlrg(report: str) -> str:
    """The text that MLRG scores: full stops are words."""
    return re.sub(" +", " ", report.replace(".", " ."))


def clean_none(report: str) -> str:
    """The text as it is."""
    return report


CLEANING: dict[str, Callable[[str], str]] = {"r2gen": clean_r2gen, "mlrg": clean_mlrg, "none": clean_none}
