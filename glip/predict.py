"""Detections of a whole split as COCO results, with the dataset's own ids: what `evaluate` scores.

Each image is asked for the labels that its source annotated, present or absent, so that what is not known is not asked
for; or for all labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from etl.errors import Failure, UsageError
from etl.labels.maps import Ontology
from glip.config import ModelConfig
from glip.data import Sample, Source
from glip.ground import Grounder
from glip.images import canvas, scaled_size

WINDOW = 64
"""Images that are held at a time, to find those of one canvas and one prompt."""
BATCH = 8
"""Images of one forward pass; what is found does not depend on it."""
LEVELS = ("label", "category")

Rows = list[dict[str, Any]]


def predict(
    grounder: Grounder, source: Source, ids: dict[str, int], *, asked: Callable[[Sample], Sequence[str]],
    numbers: Sequence[int] | None = None, tell: Callable[[int, int], None] | None = None,
) -> Rows:  # fmt: skip
    """COCO results [{image_id, category_id, bbox, score}] of a source's images, or of those row numbers.

    `ids` gives the category id of each label, `asked` the labels to ask an image for; `tell` hears of (done, all).
    Boxes are [x, y, width, height] in pixels of the image. UsageError names a modality without an expert.
    """
    numbers = range(len(source.rows)) if numbers is None else numbers
    unknown = {source.rows[n].modality for n in numbers} - set(grounder.modalities)
    if unknown:
        raise UsageError(
            f"the model has no expert for {', '.join(sorted(unknown))}, only for {', '.join(grounder.modalities)}; "
            "say --modality to predict for some"
        )
    found: dict[int, Rows] = {}
    for first in range(0, len(numbers), WINDOW):
        window = numbers[first : first + WINDOW]
        samples = [source.read(n) for n in window]
        for batch in _batches(samples, [tuple(asked(s)) for s in samples], grounder.model.config):
            found |= _detected(grounder, batch, ids)
        if tell is not None:
            tell(first + len(window), len(numbers))
    return [row for rows in found.values() for row in rows]


def annotated(sample: Sample) -> list[str]:
    """The labels that the source annotated in this image and whose presence or absence is known."""
    return sorted({region.label for region in sample.regions} | set(sample.absent))


def category_ids(ontology: Ontology, level: str) -> dict[str, int]:
    """Label → its id at a level: the label's own, or its category's."""
    if level not in LEVELS:
        raise UsageError(f"--level {level}: it is label or category")
    if level == "label":
        return {name: label.id for name, label in ontology.labels.items()}
    return {name: ontology.categories[label.category].id for name, label in ontology.labels.items()}


def rows_of(source: Source, path: Path, modalities: Sequence[str]) -> list[int]:
    """The row numbers of these modalities, of all without any; Failure when there is none."""
    numbers = [n for n, row in enumerate(source.rows) if not modalities or row.modality in modalities]
    if not numbers:
        raise Failure(f"{path}: no image of the modalities {', '.join(modalities)} in this split")
    return numbers


def _batches(
    samples: Sequence[Sample], prompts: Sequence[tuple[str, ...]], config: ModelConfig
) -> Iterator[list[tuple[Sample, tuple[str, ...]]]]:
    """Images of one modality, canvas and prompt together; those that are asked for nothing are left out."""
    groups: dict[tuple[Any, ...], list[tuple[Sample, tuple[str, ...]]]] = {}
    for sample, prompt in zip(samples, prompts, strict=True):
        if prompt:
            size = canvas(*scaled_size(sample.image.shape[0], sample.image.shape[1], config))
            groups.setdefault((sample.modality, size, prompt), []).append((sample, prompt))
    for group in groups.values():
        yield from (group[n : n + BATCH] for n in range(0, len(group), BATCH))


def _detected(
    grounder: Grounder, batch: Sequence[tuple[Sample, tuple[str, ...]]], ids: dict[str, int]
) -> dict[int, Rows]:
    """Image id → its results."""
    first, prompt = batch[0]
    found = grounder.ground_all([sample.image for sample, _ in batch], prompt, modality=first.modality)
    return {
        sample.image_id: [
            {"image_id": sample.image_id, "category_id": ids[b.phrase], "bbox": list(b.bbox), "score": b.score}
            for b in boxes
        ]
        for (sample, _), boxes in zip(batch, found, strict=True)
    }
