"""Proposals for the raw labels of one source that nobody has decided yet."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Map
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from etl.errors import UsageError
from etl.labels import match as label_match
from etl.labels.choose import Answer, Chooser, Messages, Reply
from etl.labels.maps import Mapping, Ontology, Status
from etl.labels.match import Context, Matcher, Proposal

NONE = "none of these"
VERSION = "1"
_SYSTEM = """You map structure names of public medical imaging datasets to a fixed list of labels.
Choose the label that IS THE SAME AS the structure, or of which the structure IS AN INSTANCE (a single vertebra is a
vertebra; a lung cancer is a lung tumor). Never choose a label that the structure is only a PART of, and never lose or
swap a side. A bare word such as "tumor" or "vessel" takes its organ from the source's other structures and body region.
Devices, artefacts, background and parts without a label of their own: choose "none of these".
Answer with one JSON object: {"label": one of the list, "confidence": 0 to 1, "reason": at most ten words}."""

Ranker = Callable[[str, Context], list[tuple[str, float]]]


@dataclass
class Cost:
    """What was sent: requests, tokens in and out, answers from the cache, and problems by raw label."""

    sent: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    problems: dict[str, str] = field(default_factory=dict)

    def count(self, raw: str, reply: Reply) -> None:
        """Add one reply."""
        self.sent += reply.sent
        self.cached += not reply.sent and reply.answer is not None
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        if reply.problem:
            self.problems[raw] = reply.problem


@dataclass(frozen=True, slots=True)
class Panel:
    """The models to ask, and how often each."""

    chooser: Chooser
    models: tuple[str, ...]
    votes: int = 1


def by_program(mapping: Mapping) -> bool:
    """Whether an entry was written by a program, so that a program may replace it."""
    return (mapping.by or "").startswith(("llm:", "offline:")) and mapping.status != "approved"


def undecided(raw_labels: Sequence[str], entries: Map[str, Mapping]) -> list[str]:
    """The raw labels that no person has decided."""
    return [raw for raw in raw_labels if raw not in entries or by_program(entries[raw])]


def offline(known: Matcher, raws: Sequence[str], about: Context, embed: Ranker | None) -> dict[str, Mapping]:
    """Entries from names, and by meaning where no name is alike."""
    return {raw: _entry(*combined(known, raw, about, embed)) for raw in raws}


def combined(known: Matcher, raw: str, about: Context, embed: Ranker | None) -> tuple[Proposal, str]:
    """(proposal, who made it): the rules; where they find nothing, the embedding model."""
    proposal = label_match.propose(known, raw, about)
    if proposal.label is not None or embed is None or proposal.why.startswith("a device"):
        return proposal, "offline:names"
    label, cosine = embed(raw, about)[0]
    if cosine < 0.6:
        return proposal, "offline:names"
    return Proposal(label, round(0.4 * cosine, 2), f"like '{label}' in meaning"), "offline:wordllama"


def ask(
    panel: Panel, known: Matcher, raws: Sequence[str], about: Context, embed: Ranker | None
) -> tuple[dict[str, Mapping], Cost]:
    """Entries by the models' votes; a raw label without any usable answer gets the offline proposal."""
    cost = Cost()

    def one(raw: str) -> tuple[str, list[tuple[str, Reply]]]:
        choices = [*_candidates(known, raw, about, embed), NONE]
        messages = prompt(known.ontology, raw, about, choices)
        return raw, [
            (model, panel.chooser.choose(model, messages, choices, sample))
            for model in panel.models
            for sample in range(panel.votes)
        ]

    found = {}
    with ThreadPoolExecutor(4) as pool:
        for raw, replies in pool.map(one, raws):
            for _, reply in replies:
                cost.count(raw, reply)
            answers = [(model, reply.answer) for model, reply in replies if reply.answer is not None]
            found[raw] = _voted(answers) if answers else _entry(*combined(known, raw, about, embed))
    return found, cost


def _candidates(known: Matcher, raw: str, about: Context, embed: Ranker | None) -> list[str]:
    """The closed list: the labels most like the raw label; all of them where none is alike (another language)."""
    more = [label for label, _ in embed(raw, about)[:12]] if embed else []
    ranked = label_match.rank(known, raw, about)
    if not ranked or ranked[0][1] < label_match.LEAST:
        return sorted(known.ontology.labels)
    proposal = label_match.propose(known, raw, about)
    first = [(proposal.label, 1.0)] if proposal.label else []
    return sorted(label_match.candidates([*first, *ranked], more))


def prompt(ontology: Ontology, raw: str, about: Context, choices: Sequence[str]) -> Messages:
    """The question for one raw label: names of labels and structures, modality and body region, nothing else."""
    lines = []
    for name in choices:
        label = ontology.labels.get(name)
        also = f" (also: {', '.join(label.synonyms)})" if label and label.synonyms else ""
        lines.append(f"- {name}{also}")
    others = [s for s in about.siblings if s != raw][:60]
    text = "\n".join(
        [
            f"Structure: {json.dumps(raw, ensure_ascii=False)}",
            f"Modality: {about.modality}",
            f"Body region: {', '.join(about.body_regions) or 'not stated'}",
            f"Other structures of the same source: {json.dumps(others, ensure_ascii=False)}",
            "Labels:",
            *lines,
        ]
    )
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}]


def prompt_version() -> str:
    """Version and digest of the instructions, as entries name them."""
    return f"{VERSION}-{hashlib.sha256(_SYSTEM.encode()).hexdigest()[:6]}"


def _voted(answers: Sequence[tuple[str, Answer]]) -> Mapping:
    """The label most answers name; its confidence is their mean times the share that agrees."""
    count = Counter(answer.label for _, answer in answers)
    label = min(count, key=lambda name: (-count[name], -_sum(answers, name), name))
    agreeing = [answer for _, answer in answers if answer.label == label]
    confidence = sum(a.confidence for a in agreeing) / len(agreeing) * len(agreeing) / len(answers)
    reason = " ".join(agreeing[0].reason.split()) or "no reason given"
    split = f"; {len(agreeing)} of {len(answers)} votes" if len(answers) > 1 else ""
    by = "llm:" + "+".join(dict.fromkeys(model for model, _ in answers))
    return Mapping(
        label=None if label == NONE else label, status="rejected" if label == NONE else "proposed", by=by,
        confidence=round(confidence, 2), why=f"{reason[:120]}{split} [prompt {prompt_version()}]",
    )  # fmt: skip


def _sum(answers: Sequence[tuple[str, Answer]], label: str) -> float:
    return sum(answer.confidence for _, answer in answers if answer.label == label)


def _entry(proposal: Proposal, by: str) -> Mapping:
    status: Status = "proposed" if proposal.label is not None else "rejected"
    return Mapping(label=proposal.label, status=status, by=by, confidence=proposal.confidence, why=proposal.why)


def approved(entries: Map[str, Mapping], by: str, ontology: Ontology, min_confidence: float) -> dict[str, Mapping]:
    """The proposals among the entries as decided by a person; `why` keeps who proposed.

    Raises `UsageError` for a reviewer that is a program, and for a label that the ontology lacks.
    """
    if not by.strip() or by.startswith(("llm:", "offline:")):
        raise UsageError(f"--by '{by}': a person approves; give a name")
    found = {}
    for raw, mapping in entries.items():
        if mapping.status != "proposed" and not by_program(mapping):
            continue
        if (mapping.confidence or 0) < min_confidence:
            continue
        if mapping.label is not None and mapping.label not in ontology.labels:
            raise UsageError(f"'{raw}': '{mapping.label}' is no label of the ontology")
        proposer = f"proposed by {mapping.by}" if mapping.by else ""
        status: Status = "approved" if mapping.label is not None else "rejected"
        why = "; ".join(part for part in (mapping.why, proposer) if part)
        found[raw] = mapping.model_copy(update={"status": status, "by": by, "why": why or None})
    return found
