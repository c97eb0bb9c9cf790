"""Arms compared on the same items: values, intervals and paired differences by one bootstrap over images. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glip.downstream.captions import Floats, Metric

BASE = "none"
"""Differences are to this arm."""
LEVEL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Resamples of the units that are independent of each other: images (or studies), not questions."""

    resamples: int = 1000
    seed: int = 0

    def weights(self, units: Sequence[str]) -> Floats:
        """(resamples, items): how often each item is in each resample; the items of one unit go together."""
        names, place = np.unique(np.asarray(units), return_inverse=True)
        rng = np.random.default_rng(self.seed)
        chance = np.full(len(names), 1 / len(names))
        drawn = rng.multinomial(len(names), chance, size=self.resamples).astype(float)
        out: Floats = drawn[:, place]
        return out


def compare(
    arms: Mapping[str, Mapping[str, Metric]], units: Sequence[str], bootstrap: Bootstrap = Bootstrap()
) -> dict[str, Any]:
    """`{arm: {metric: {value, interval, difference, difference_interval}}}`.

    All arms have the same items in the same order (rows of the metrics), `units` says which image or study each belongs
    to. Intervals are 95 % percentile intervals; differences are to the arm `none`, each resample drawn once for all
    arms. A value is None where the metric has no item, an interval where there are fewer than two units.
    """
    weights = bootstrap.weights(units) if bootstrap.resamples and len(set(units)) > 1 else None
    drawn = {
        arm: {name: m.value(weights @ m.statistics) for name, m in metrics.items()} if weights is not None else {}
        for arm, metrics in arms.items()
    }
    out: dict[str, Any] = {}
    for arm, metrics in arms.items():
        out[arm] = {}
        for name, metric in metrics.items():
            base = arms[BASE][name].overall if BASE in arms else float("nan")
            mine = drawn[arm].get(name)
            paired = mine - drawn[BASE][name] if mine is not None and BASE in arms else None
            out[arm][name] = {
                "value": _number(metric.overall), "interval": _interval(mine),
                "difference": None if arm == BASE else _number(metric.overall - base),
                "difference_interval": None if arm == BASE else _interval(paired),
            }  # fmt: skip
    return out


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(values: Floats | None) -> list[float] | None:
    """Of the resamples in which the metric is defined; None where it is in less than half of them."""
    if values is None or np.isnan(values).mean() > 0.5:
        return None
    low, high = np.nanpercentile(values, LEVEL)
    return [float(low), float(high)]
