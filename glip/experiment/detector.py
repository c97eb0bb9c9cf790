"""What an experiment asks of a detector: to train on a selection, and to give COCO results on another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from glip.experiment.protocol import Amount, DetrModel, ExternalModel, GlipModel, GroundingModel, Model
from glip.experiment.selection import Selection

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a model, trained once, tested on all test sets of its study."""

    study: str
    model: str
    amount: Amount
    seed: int
    folder: Path
    """Of the run; the detector keeps what it needs below `model/` there."""
    data: Path
    """The built dataset, with its pictures where it was built with --png."""
    training: Selection | None
    """What is trained on; None: nothing, the detector is tested as it comes."""
    tests: dict[str, Selection]

    @property
    def weights(self) -> Path:
        """Where the detector keeps what it learned."""
        return self.folder / "model"

    @property
    def modalities(self) -> list[str]:
        """All modalities that are trained or tested."""
        parts = [self.training] if self.training else []
        return sorted({m for part in (*parts, *self.tests.values()) for m in part.about["modalities"]})


class Detector(Protocol):
    """A detector; it may be interrupted at any time, and is then asked for the same again."""

    def train(self, job: Job) -> None:
        """Learns from `job.training`, or prepares the untrained model where that is None."""

    def predict(self, job: Job, test: str) -> Rows:
        """COCO results of a test set: label ids, [x, y, width, height] in pixels, scores.

        Each image is asked for the labels whose presence or absence is known there.
        """


def detector(model: Model) -> Detector:
    """The detector of a protocol's model."""
    if isinstance(model, ExternalModel):
        from glip.experiment.external import External

        return External(model)
    if isinstance(model, GlipModel):
        from glip.experiment.ours import Glip

        return Glip(model)
    _quiet()
    if isinstance(model, DetrModel):
        from glip.experiment.rt_detr import RtDetr

        return RtDetr(model)
    assert isinstance(model, GroundingModel)
    from glip.experiment.grounding_dino import GroundingDino

    return GroundingDino(model)


def _quiet() -> None:
    """No progress bars and no report of weights that a model does not use."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
