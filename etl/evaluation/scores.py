"""Detections held against ground truth: COCO's numbers overall and by group, with bootstrap intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import UsageError
from etl.evaluation.detections import Detections, Ints, Truth
from etl.evaluation.matching import MOST, Matches, match
from etl.evaluation.precision import METRICS, Floats, Ranked, averaged, measured, ranked

PROTOCOLS = ("auto", "coco", "federated")
BOUNDS = (2.5, 97.5)  # percentiles of a 95 % interval
IMAGE_GROUPINGS = ("modality", "source")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to evaluate.

    `protocol`: coco takes what is not annotated for absent; federated counts a category only where its presence or
    absence is known; auto is federated where the ground truth says what is known. `bootstrap`: resamples of the
    subjects, 0 for no intervals; `seed`: of these.
    """

    protocol: str = "auto"
    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UsageError(f"--protocol {self.protocol}: it is one of {', '.join(PROTOCOLS)}")
        if self.bootstrap < 0 or self.seed < 0:
            raise UsageError("--bootstrap and --seed are 0 or more")


@dataclass(frozen=True, slots=True)
class Group:
    """Some images and some categories that are measured together: (images,) bool, and category numbers."""

    by: str
    name: str
    images: NDArray[np.bool_]
    categories: Ints


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`document`: what `--json` prints; the rest is what curves and failure sheets are drawn from."""

    document: dict[str, Any]
    truth: Truth
    matches: Matches
    table: Ranked
    groups: list[Group]


def evaluate(
    truth: Truth, detections: Detections, settings: Settings, against: Detections | None = None
) -> Evaluation:
    """The evaluation of detections; with `against`, also the differences to other detections of the same images.

    Raises UsageError where the federated protocol is asked for and the ground truth names no negatives.
    """
    federated = _is_federated(truth, settings)
    matches = match(truth, detections, federated)
    tables = [ranked(truth, matches)]
    if against is not None:
        tables.append(ranked(truth, match(truth, against, federated)))
    groups = list(_groups(truth))
    unit, units = _units(truth)
    rows = [row for part in _by_images(groups) for row in _rows(tables, part, units, settings)]
    document: dict[str, Any] = {
        "protocol": "federated" if federated else "coco",
        "settings": asdict(settings) | {"detections_per_image_and_category": MOST},
        "truth": {"name": truth.name, "sha256": truth.digest},
        "results": _told(detections),
        "against": _told(against) if against is not None else None,
        "bootstrap_unit": unit,
        "detections": {
            "read": len(detections.score), "duplicates": detections.duplicates,
            "over_limit": int(np.count_nonzero(detections.rank >= MOST)),
            "unknown": matches.unknown, "forgiven": matches.forgiven,
        },
        "images": {
            "all": len(truth.images), "without_boxes": len(truth.images) - len(np.unique(truth.image)),
            "without_detections": len(truth.images) - len(np.unique(detections.image)),
        },
        "overall": rows[0],
        "plain_coco": _plain(truth, detections) if federated else rows[0]["metrics"],
        "groups": rows[1:],
    }  # fmt: skip
    return Evaluation(document, truth, matches, tables[0], groups)


def _is_federated(truth: Truth, settings: Settings) -> bool:
    if settings.protocol == "federated" and truth.negative is None:
        raise UsageError(f"{truth.name}: no image has neg_category_ids, so that nothing is known to be absent; "
                         "take --protocol coco")  # fmt: skip
    return settings.protocol == "federated" or (settings.protocol == "auto" and truth.negative is not None)


def _told(detections: Detections) -> dict[str, Any]:
    return {"name": detections.name, "sha256": detections.digest}


def _plain(truth: Truth, detections: Detections) -> dict[str, float | None]:
    """The overall numbers that pycocotools gives."""
    values = measured(ranked(truth, match(truth, detections, False)), np.ones(len(truth.images), np.int64))
    return _named(averaged(values, np.ones((1, len(truth.categories))))[0])


def _named(values: Floats) -> dict[str, float | None]:
    return {name: None if np.isnan(v) else float(v) for name, v in zip(METRICS, values, strict=True)}


def _groups(truth: Truth) -> Iterator[Group]:
    """All images first, then by what images say of themselves, then by category and what is above it."""
    everything, every = np.ones(len(truth.images), bool), np.arange(len(truth.categories))
    yield Group("overall", "all", everything, every)
    for by, names in truth.groupings.items():
        for name in sorted(set(names)):
            yield Group(by, name, everything, np.array([n for n in every if names[n] == name]))
    for by in IMAGE_GROUPINGS:
        values = np.array([str(image.get(by, "")) for image in truth.images])
        for name in sorted(set(values.tolist()) - {""}):
            yield Group(by, name, values == name, every)


def _by_images(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups of the same images together: they share one table and one bootstrap."""
    parts: dict[int, list[Group]] = {}
    for group in groups:
        parts.setdefault(id(group.images), []).append(group)
    return list(parts.values())


def _units(truth: Truth) -> tuple[str, Ints]:
    """What is drawn in a bootstrap, and its number for each image: subjects, images where these are not known."""
    if truth.images and all(image.get("subject") for image in truth.images):
        names = [(str(image.get("source", "")), str(image["subject"])) for image in truth.images]
        known = {name: number for number, name in enumerate(sorted(set(names)))}
        return "subject", np.array([known[name] for name in names], np.int64)
    return "image", np.arange(len(truth.images))


def _rows(tables: Sequence[Ranked], groups: Sequence[Group], units: Ints, settings: Settings) -> list[dict[str, Any]]:
    """The rows of groups that have the same images."""
    images = groups[0].images
    tables = [table.within(images) for table in tables]
    once = images.astype(np.int64)
    members = np.zeros((len(groups), len(tables[0].starts) - 1))
    for g, group in enumerate(groups):
        members[g, group.categories] = 1
    values = [averaged(measured(table, once), members) for table in tables]
    draws = _draws(tables, members, images, units, settings)
    rows = []
    for g, group in enumerate(groups):
        row = _counts(tables[0], group, units)
        drawn = draws[:, :, g] if row["units_with_boxes"] > 1 else draws[:, :0, g]  # one subject has no spread
        row |= {"metrics": _named(values[0][g]), "intervals": _intervals(drawn[0])}
        if len(tables) == 2:
            row |= {"against": _named(values[1][g]), "difference": _named(values[0][g] - values[1][g]),
                    "difference_intervals": _intervals(drawn[0] - drawn[1])}  # fmt: skip
        rows.append(row)
    return rows


def _draws(
    tables: Sequence[Ranked], members: Floats, images: NDArray[np.bool_], units: Ints, settings: Settings
) -> Floats:
    """(tables, resamples, groups, metrics); a resample draws as many units as there are, the same for all tables."""
    _, mine = np.unique(units[images], return_inverse=True)
    count = int(mine.max()) + 1 if len(mine) else 0
    resamples = settings.bootstrap if count > 1 else 0
    draws = np.empty((len(tables), resamples, len(members), len(METRICS)))
    random = np.random.default_rng(settings.seed)
    weights = np.zeros(len(images), np.int64)
    for n in range(resamples):
        weights[images] = np.bincount(random.integers(0, count, count), minlength=count)[mine]
        for t, table in enumerate(tables):
            draws[t, n] = averaged(measured(table, weights), members)
    return draws


def _counts(table: Ranked, group: Group, units: Ints) -> dict[str, Any]:
    """How much a group's numbers rest on."""
    mine = table.counted[0] & np.isin(table.box_category, group.categories)
    shown = np.unique(table.box_image[mine])
    return {
        "by": group.by, "name": group.name,
        "images": int(group.images.sum()), "images_with_boxes": len(shown),
        "units": len(np.unique(units[group.images])), "units_with_boxes": len(np.unique(units[shown])),
        "boxes": int(mine.sum()), "detections": int(np.diff(table.starts)[group.categories].sum()),
    }  # fmt: skip


def _intervals(draws: Floats) -> dict[str, list[float] | None]:
    """95 % percentile intervals of (resamples, metrics), over the resamples in which a metric is defined."""
    result: dict[str, list[float] | None] = {}
    for name, column in zip(METRICS, draws.T, strict=True):
        there = column[~np.isnan(column)]
        result[name] = [float(v) for v in np.percentile(there, BOUNDS)] if len(there) else None
    return result
