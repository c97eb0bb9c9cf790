"""An experiment: answers or reports in every arm, scored on the same test items, as one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from glip.downstream import answers, captions, meteor
from glip.downstream.arms import Arm, summary
from glip.downstream.captions import Metric
from glip.downstream.items import Question, Study
from glip.downstream.paired import Bootstrap, compare

Texts = dict[str, str]
"""Item id → answer or report; an item that is not there got none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out: texts by arm, and the document with all numbers."""

    texts: Mapping[str, Texts]
    document: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether every item got an answer in every arm, or a refusal."""
        return not any(self.document["open"].values())


def vqa(
    items: Sequence[Question], arms: Sequence[Arm], texts: Mapping[str, Texts], *, refused: Mapping[str, int],
    settings: Mapping[str, Any], bootstrap: Bootstrap = Bootstrap(),
) -> Outcome:  # fmt: skip
    """Scores of answers. An item without an answer counts as wrong in its arm and is counted as `open`; a refusal is an
    empty answer. Groups are the dataset's own types of question."""
    metrics = {arm: question_metrics(items, found) for arm, found in texts.items()}
    units = [q.image for q in items]
    groups = {}
    for name in sorted({q.group for q in items} - {""}):
        kept = [q for q in items if q.group == name]
        some = {arm: question_metrics(kept, found) for arm, found in texts.items()}
        groups[name] = {"items": len(kept), "arms": compare(some, [q.image for q in kept], bootstrap)}
    found = compare(metrics, units, bootstrap)
    return Outcome(texts, _document("vqa", items, arms, texts, found, bootstrap, {
        "units": len(set(units)), "unit": "image", "groups": groups, "refused": dict(refused),
        "settings": dict(settings),
        "closed": sum(q.kind == "closed" for q in items), "open_questions": sum(q.kind == "open" for q in items),
    }))  # fmt: skip


def question_metrics(items: Sequence[Question], found: Texts) -> dict[str, Metric]:
    """Every metric of `answers`, each over the questions of its kind, and `accuracy`: closed accuracy and exact answers
    together, over all questions."""
    rows = [answers.score(found.get(q.id, ""), q.answer, kind=q.kind, question=q.question) for q in items]
    out = {
        name: captions.mean_of([row.get(name, 0.0) for row in rows], [name in row for row in rows])
        for name in answers.METRICS
    }
    out["accuracy"] = captions.mean_of([row.get("closed_accuracy", row.get("open_exact", 0.0)) for row in rows])
    return out


def reports(
    items: Sequence[Study], arms: Sequence[Arm], texts: Mapping[str, Texts], *, clean: str,
    clinical: Mapping[str, Mapping[str, Metric]], settings: Mapping[str, Any], bootstrap: Bootstrap = Bootstrap(),
) -> Outcome:  # fmt: skip
    """Scores of reports after the cleaning of this name; `clinical` has more metrics for each arm, made elsewhere."""
    cleaning = captions.CLEANING[clean]
    truths = [cleaning(s.report) for s in items]
    written = {arm: [cleaning(found.get(s.id, "")) for s in items] for arm, found in texts.items()}
    metrics = {arm: captions.scores(lines, truths) for arm, lines in written.items()}
    units = [s.id for s in items]
    with meteor.added(metrics, written, truths) as missing:
        found = compare({arm: {**m, **clinical.get(arm, {})} for arm, m in metrics.items()}, units, bootstrap)
    if not clinical:
        missing["clinical efficacy"] = "needs weights: --chexbert FOLDER, --radgraph FOLDER"
    return Outcome(texts, _document("report", items, arms, texts, found, bootstrap, {
        "units": len(units), "unit": "study", "clean": clean, "missing": missing, "settings": dict(settings),
    }))  # fmt: skip


def _document(
    task: str, items: Sequence[Any], arms: Sequence[Arm], texts: Mapping[str, Texts], found: dict[str, Any],
    bootstrap: Bootstrap, more: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    ids = {item.id for item in items}
    return {
        "task": task, "items": len(items), "arms": found, "regions": summary(arms), "bootstrap": asdict(bootstrap),
        "open": {arm: len(ids - set(t)) for arm, t in texts.items()}, **more,
    }  # fmt: skip


def order_holds(document: dict[str, Any], metric: str) -> dict[str, bool]:
    """What grounding promises, on paired intervals: reference and predicted above none, shuffled not above none, and
    reference not below predicted."""
    arms = document["arms"]
    value = {arm: arms[arm][metric]["value"] for arm in arms}
    low = {arm: (arms[arm][metric]["difference_interval"] or [np.nan])[0] for arm in arms}
    out = {"predicted > none": bool(low["predicted"] > 0), "shuffled not > none": not low["shuffled"] > 0}
    if "reference" in arms:
        out["reference > none"] = bool(low["reference"] > 0)
        out["reference ≥ predicted"] = value["reference"] >= value["predicted"]
    return out
