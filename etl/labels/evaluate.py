"""How good the proposals are: each method on the reviewed maps, every group of sources held out in its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from etl.labels import match as label_match
from etl.labels.maps import Mapping, Ontology
from etl.labels.match import Context, Matcher, Proposal
from etl.labels.suggest import Panel, Ranker, ask, combined
from etl.manifests.manifest import Manifest

BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 1.01)


@dataclass(frozen=True, slots=True)
class Case:
    """One raw label with the reviewed label (None: rejected) and what a method proposed."""

    source: str
    raw: str
    truth: str | None
    proposal: Proposal


Method = Callable[[Matcher, list[str], Context], Map[str, Proposal]]


def by_names(known: Matcher, raws: list[str], about: Context) -> dict[str, Proposal]:
    """Rules on words alone."""
    return {raw: label_match.propose(known, raw, about) for raw in raws}


def by_meaning(embed: Ranker) -> Method:
    """The nearest name in the embedding model, always."""

    def method(known: Matcher, raws: list[str], about: Context) -> dict[str, Proposal]:
        return {raw: Proposal(*embed(raw, about)[0], "nearest in meaning") for raw in raws}

    return method


def by_both(embed: Ranker | None) -> Method:
    """What `labels suggest` does without an endpoint."""

    def method(known: Matcher, raws: list[str], about: Context) -> dict[str, Proposal]:
        return {raw: combined(known, raw, about, embed)[0] for raw in raws}

    return method


def by_models(panel: Panel, embed: Ranker | None) -> Method:
    """What `labels suggest --model` does."""

    def method(known: Matcher, raws: list[str], about: Context) -> dict[str, Proposal]:
        found, _ = ask(panel, known, raws, about, embed)
        return {raw: Proposal(m.label, m.confidence or 0.0, m.why or "") for raw, m in found.items()}

    return method


def held_out(
    ontology: Ontology, manifests: Map[str, Manifest], maps: Map[str, Map[str, Mapping]], method: Method
) -> Iterator[Case]:
    """Every reviewed raw label, proposed for by a matcher that has seen no map of the same group."""
    groups = sorted({manifests[slug].group for slug in maps if slug in manifests})
    for group in groups:
        inside = [slug for slug in sorted(maps) if slug in manifests and manifests[slug].group == group]
        known = label_match.matcher(ontology, [maps[slug] for slug in sorted(maps) if slug not in inside])
        for slug in inside:
            reviewed = {raw: m for raw, m in maps[slug].items() if m.status in ("approved", "rejected")}
            found = method(known, list(reviewed), label_match.context(manifests[slug]))
            for raw, mapping in reviewed.items():
                yield Case(slug, raw, mapping.used(), found[raw])


def score(ontology: Ontology, cases: list[Case]) -> dict[str, Any]:
    """Accuracy on approved raw labels, share of rejected ones left without a label, and the calibration."""

    def category(label: str | None) -> str | None:
        return ontology.labels[label].category if label else None

    approved = [c for c in cases if c.truth is not None]
    rejected = [c for c in cases if c.truth is None]
    same = sum(c.proposal.label == c.truth for c in approved)
    alike = sum(category(c.proposal.label) == category(c.truth) for c in approved)
    given = [c for c in approved if c.proposal.label is not None]
    bins = list(_bins([c for c in cases if c.proposal.label is not None]))
    total = sum(b["n"] for b in bins)
    return {
        "sources": len({c.source for c in cases}),
        "raw_labels": len(approved),
        "label_accuracy": round(same / max(len(approved), 1), 4),
        "category_accuracy": round(alike / max(len(approved), 1), 4),
        "without_proposal": len(approved) - len(given),
        "rejected": len(rejected),
        "rejected_recognised": round(sum(c.proposal.label is None for c in rejected) / max(len(rejected), 1), 4),
        "calibration_error": round(sum(b["n"] * abs(b["confidence"] - b["right"]) for b in bins) / max(total, 1), 4),
        "calibration": bins,
    }


def _bins(cases: list[Case]) -> Iterator[dict[str, Any]]:
    """For each span of confidence: how many labels were proposed, the mean confidence, the share that was right."""
    for low, high in pairwise(BINS):
        inside = [c for c in cases if low <= c.proposal.confidence < high]
        if inside:
            mean = sum(c.proposal.confidence for c in inside) / len(inside)
            right = sum(c.proposal.label == c.truth for c in inside) / len(inside)
            span = {"from": low, "to": min(high, 1.0), "n": len(inside)}
            yield span | {"confidence": round(mean, 3), "right": round(right, 3)}
