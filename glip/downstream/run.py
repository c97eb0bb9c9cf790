"""Who answers: the embedded baseline, alignment, or a model behind an endpoint; who writes: the small R2Gen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glip.downstream import align, inject
from glip.downstream.arms import Arm
from glip.downstream.ask import Ask, Asker, Reply
from glip.downstream.experiment import Texts
from glip.downstream.items import Item, Question, Size, Study, images_of

if TYPE_CHECKING:
    from glip.downstream.training import Training, Views

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shown:
    """How a model behind an endpoint is told of regions."""

    images: Path
    sizes: dict[str, Size]
    form: str = "text"
    budget: int = inject.BUDGET


def by_alignment(items: Sequence[Question], arms: Sequence[Arm]) -> dict[str, Texts]:
    """Answers to the closed questions, by arm. Where no option agrees with what was found, the answer is empty."""
    return {arm.name: {q.id: align.answer(q.question, q.answer, arm.of(q)[0]) or "" for q in items} for arm in arms}


def by_endpoint(
    items: Sequence[Question], arms: Sequence[Arm], asker: Asker, shown: Shown, *, workers: int, tell: Tell
) -> tuple[dict[str, Texts], dict[str, int]]:
    """(answers by arm, refusals by arm). A question that got no answer is left out of its arm, and told.

    Where an arm has no region for an image the request is the one of the arm `none`, so it is sent once for all.
    """
    texts: dict[str, Texts] = {}
    refused: dict[str, int] = {}
    for arm in arms:
        replies = asker.all([_ask(q, arm, shown) for q in items], workers=workers)
        sent = sum(r.sent for r in replies)
        tokens = sum(r.tokens_in + r.tokens_out for r in replies if r.sent)
        lost = [r for r in replies if not _settled(r)]
        texts[arm.name] = {q.id: r.answer for q, r in zip(items, replies, strict=True) if _settled(r)}
        refused[arm.name] = sum(_settled(r) and bool(r.problem) for r in replies)
        tell(f"{arm.name}: {sent} questions sent, {len(items) - sent - len(lost)} known, {tokens} tokens")
        if lost:
            tell(f"{arm.name}: {len(lost)} without an answer ({lost[0].problem}); run again to ask them")
    return texts, refused


def _settled(reply: Reply) -> bool:
    return bool(reply.answer) or reply.problem == "the model refused"


def _ask(item: Question, arm: Arm, shown: Shown) -> Ask:
    (regions,) = arm.of(item)
    text = inject.with_text(item.question, regions, shown.sizes[item.image], shown.budget)
    path = shown.images / item.image

    def pictures() -> list[bytes]:
        return [inject.png(p) for p in inject.pictures(path, regions, shown.form)]

    return Ask(text if shown.form == "text" else item.question, pictures)


def views(items: Sequence[Item], images: Path, sizes: dict[str, Size], bundle: Path | None) -> Views:
    """What the small models see: an expert's maps with a bundle, else grey pixels."""
    from glip.downstream import training

    names = list(dict.fromkeys(image for item in items for image in images_of(item)))
    if bundle is None:
        return training.Views(training.pixels(str(images), names), sizes)
    from glip.downstream.features import expert_maps

    modality = {image: item.modality for item in items for image in images_of(item)}
    return training.Views(expert_maps(bundle, images, names, modality), sizes)


def by_baseline(
    train: Sequence[Question], test: Sequence[Question], arms: Sequence[Arm], views: Views, how: Training, *, tell: Tell
) -> dict[str, Texts]:
    """Answers of the embedded baseline, trained anew in every arm from the same seed."""
    from glip.downstream.training import fit_vqa

    texts = {}
    for arm in arms:
        texts[arm.name] = fit_vqa(train, test, arm, views, how)
        tell(f"{arm.name}: trained, {len(texts[arm.name])} answers")
    return texts


def by_r2gen(
    train: Sequence[Study], test: Sequence[Study], arms: Sequence[Arm], views: Views, clean: Callable[[str], str],
    how: Training, *, tell: Tell,
) -> dict[str, Texts]:  # fmt: skip
    """Reports of the small R2Gen, trained anew in every arm from the same seed."""
    from glip.downstream.training import fit_reports

    texts = {}
    for arm in arms:
        texts[arm.name] = fit_reports(train, test, arm, views, clean, how)
        tell(f"{arm.name}: trained, {len(texts[arm.name])} reports")
    return texts
