"""Prompts: from text to phrases, from phrases to a caption, from a caption to the tokens of each phrase."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etl.errors import UsageError
from glip.config import MAX_TOKENS

SEPARATOR = ". "


@dataclass(frozen=True, slots=True)
class Prompt:
    """A caption with its phrases and where each lies in it: [start, end) in code points."""

    caption: str
    phrases: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the network reads it, not yet padded."""

    ids: Tensor
    """(T,) int64, [CLS] and [SEP] included."""
    phrases: Tensor
    """(P, T) bool: the sub-word tokens of each phrase."""


def parse(text: str) -> tuple[str, ...]:
    """The phrases of `liver. spleen. left kidney.` or `Detect: liver, spleen`, each once, in order.

    Phrases end at a full stop or a line's end; after `Detect:` also at a comma or semicolon. A point between
    digits does not end a phrase.
    """
    found = re.match(r"\s*detect\s*:", text, re.IGNORECASE)
    body = text[found.end() :] if found else text
    parts = re.split(r"\.(?!\d)|[\n,;]" if found else r"\.(?!\d)|\n", body)
    phrases = tuple(dict.fromkeys(" ".join(p.split()) for p in parts if p.strip()))
    if not phrases:
        raise UsageError(f"no phrase in the prompt '{text}'; write one as 'liver. spleen.'")
    return phrases


def join(phrases: Sequence[str]) -> Prompt:
    """The caption of these phrases: joined by `. `, nothing after the last."""
    spans, start = [], 0
    for phrase in phrases:
        spans.append((start, start + len(phrase)))
        start += len(phrase) + len(SEPARATOR)
    return Prompt(SEPARATOR.join(phrases), tuple(phrases), tuple(spans))


def encode(prompt: Prompt, tokenizer: Any) -> Encoded:
    """Token ids and the tokens of each phrase; UsageError when the caption exceeds 256 tokens."""
    encoding = tokenizer(prompt.caption)
    ids = encoding["input_ids"]
    if len(ids) > MAX_TOKENS:
        raise UsageError(f"the prompt has {len(ids)} tokens, the model reads {MAX_TOKENS}: '{prompt.caption[:60]} …'")
    tokens = torch.zeros(len(prompt.phrases), len(ids), dtype=torch.bool)
    for row, (start, end) in zip(tokens, prompt.spans, strict=True):
        first = _token(encoding, (start, start + 1, start + 2))
        last = _token(encoding, (end - 1, end - 2, end - 3))
        if first is None or last is None:
            raise UsageError(f"the phrase '{prompt.caption[start:end]}' has no token in the model's vocabulary")
        row[first : last + 1] = True
    return Encoded(torch.tensor(ids), tokens)


def _token(encoding: Any, characters: Iterable[int]) -> int | None:
    """The token of the first of these characters that belongs to one."""
    for character in characters:
        token: int | None = encoding.char_to_token(character) if character >= 0 else None
        if token is not None:
            return token
    return None


def length(phrase: str, tokenizer: Any) -> int:
    """Sub-word tokens of a phrase, without special tokens."""
    return len(tokenizer(phrase, add_special_tokens=False)["input_ids"])


def pack(phrases: Sequence[str], tokenizer: Any, *, budget: int = MAX_TOKENS) -> list[tuple[str, ...]]:
    """The phrases in order, cut into as few prompts as fit the budget; UsageError for one that cannot fit alone."""
    out: list[list[str]] = [[]]
    used = 2  # [CLS] and [SEP]
    for phrase in phrases:
        n = length(phrase, tokenizer)
        if n + 2 > budget:
            raise UsageError(f"the phrase '{phrase[:60]}' has {n} tokens, a prompt holds {budget - 2}")
        cost = n + (1 if out[-1] else 0)
        if used + cost > budget:
            out.append([])
            used, cost = 2, n
        out[-1].append(phrase)
        used += cost
    return [tuple(p) for p in out]


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """How training prompts are written."""

    negatives: int = 85
    """Most labels of a prompt that are known to be absent."""
    synonym: float = 0.0
    """Probability that a label is called by one of its synonyms."""
    shuffle: bool = True
    """Whether the order of a prompt's phrases is random."""


def training_prompt(
    present: Sequence[str], absent: Sequence[str], tokenizer: Any, rng: np.random.Generator, *,
    synonyms: dict[str, tuple[str, ...]], config: PromptConfig,
) -> tuple[Prompt, dict[str, int]]:  # fmt: skip
    """(prompt, label → its phrase's place in it), of all labels that are present and some known to be absent.

    As in the reference, with probability one half as many negatives as allowed, else a random number of them;
    negatives stop where the token budget ends. A present label that does not fit is left out, and so are its boxes.
    """
    count = config.negatives if rng.random() < 0.5 else int(rng.integers(1, max(config.negatives, 1) + 1))
    picked = [absent[i] for i in rng.permutation(len(absent))[:count]] if config.negatives else []
    kept: list[tuple[str, str]] = []
    used, taken = 2, set[str]()
    for label in [*(present[i] for i in rng.permutation(len(present))), *picked]:
        name = _spoken(label, synonyms, rng, config.synonym)
        cost = length(name, tokenizer) + 1
        if used + cost - (not kept) <= MAX_TOKENS and name not in taken:
            kept.append((label, name))
            taken.add(name)
            used += cost - (len(kept) == 1)
    order = rng.permutation(len(kept)) if config.shuffle else sorted(range(len(kept)), key=lambda i: kept[i][0])
    kept = [kept[i] for i in order]
    return join([name for _, name in kept]), {label: i for i, (label, _) in enumerate(kept)}


def _spoken(label: str, synonyms: dict[str, tuple[str, ...]], rng: np.random.Generator, probability: float) -> str:
    names = synonyms.get(label, ())
    return names[int(rng.integers(len(names)))] if names and rng.random() < probability else label


def pad(encoded: Sequence[Encoded], *, width: int | None = None) -> tuple[Tensor, Tensor]:
    """(ids, mask), each (B, T) int64; T is the longest caption, or `width`."""
    width = width or max(len(e.ids) for e in encoded)
    ids = torch.zeros(len(encoded), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, on, e in zip(ids, mask, encoded, strict=True):
        row[: len(e.ids)] = e.ids
        on[: len(e.ids)] = 1
    return ids, mask


def mirrored(label: str) -> str:
    """The label of the other side: `left kidney` ↔ `right kidney`; the label itself when it has no side."""
    swap = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda m: swap[m.group()], label)
