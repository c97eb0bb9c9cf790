"""Clinical efficacy of reports: the 14 CheXpert findings, and RadGraph F1. Only with weights; never a silent zero.

The labellers and their weights are other people's: `f1chexbert` with `chexbert.pth`, `radgraph` with its model folder.
Neither is a dependency, and nothing is downloaded. Tables that a labeller wrote can be scored without either.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import Failure, UsageError
from glip.downstream.captions import Metric, mean_of

Labels = NDArray[np.bool_]


def efficacy(found: Labels, truth: Labels) -> dict[str, Metric]:
    """Precision, recall and F1 of the 14 findings, micro (all decisions alike) and macro (mean over findings).

    `found` and `truth` are (reports, 14): whether a finding is positive. A finding that neither side names counts 0 in
    the macro mean, as scikit-learn's `zero_division=0` does, and as the published numbers do.
    """
    hit, out, missed = found & truth, found & ~truth, ~found & truth
    table = np.concatenate([hit, out, missed], axis=1).astype(float)
    values: dict[str, Metric] = {}
    for average in ("micro", "macro"):
        for place, name in enumerate(("precision", "recall", "F1")):
            value = _share(average, place)
            values[f"CheXpert-14 {average} {name}"] = Metric(table, value)
    return values


def _share(average: str, place: int) -> Any:
    def value(sums: NDArray[np.float64]) -> Any:
        hit, out, missed = np.split(sums, 3, axis=-1)
        if average == "micro":
            hit, out, missed = (part.sum(axis=-1, keepdims=True) for part in (hit, out, missed))
        over = (hit + out, hit + missed, hit + (out + missed) / 2)[place]
        return np.divide(hit, over, out=np.zeros_like(hit), where=over > 0).mean(axis=-1)

    return value


def chexbert(reports: Sequence[str], weights: Path) -> Labels:
    """(reports, 14) by CheXbert, findings in its order; uncertain counts as positive, as `f1chexbert` has it.

    `weights` is the folder that holds `chexbert.pth`. UsageError says what is missing.
    """
    if not (weights / "chexbert.pth").is_file():
        raise UsageError(f"{weights}: no chexbert.pth here; CheXbert's weights have to be brought by hand")
    module = _package("f1chexbert.f1chexbert", "f1chexbert")
    module.CACHE_DIR = str(weights)  # the package looks only here, and downloads nothing if the file is there
    labeller = module.F1CheXbert(device="cpu")
    return np.array([labeller.get_label(report.strip()) for report in reports], dtype=bool)


def radgraph(answers: Sequence[str], truths: Sequence[str], weights: Path, *, model: str = "radgraph") -> Metric:
    """The mean RadGraph F1 (`partial` level) of reports; `weights` holds the folder of the model, unpacked."""
    if not (weights / model / "config.json").is_file():
        raise UsageError(f"{weights}: no {model}/config.json here; RadGraph's model has to be brought by hand")
    module = _package("radgraph", "radgraph")
    scorer = module.F1RadGraph(reward_level="partial", model_type=model, model_cache_dir=str(weights), cuda=-1)
    return mean_of([float(v) for v in scorer(refs=list(truths), hyps=list(answers))[1]])


def _package(name: str, install: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Failure(f"{error.name} is missing: pip install {install}") from error
