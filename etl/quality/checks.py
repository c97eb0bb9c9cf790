"""The checks on images and annotations: what each looks for, its threshold, and what it says of the facts.

Tier 1 asks whether a file is a readable image, tier 2 whether image and annotation belong together, tier 3 whether
the annotation can be true. None of them removes anything: what fails gets a flag with evidence (what cannot be used
at all is in quarantine long before). `docs/quality.md` shows this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from etl.labels.maps import Ontology

Flag = tuple[str, str]  # name, evidence


@dataclass(frozen=True, slots=True)
class Check:
    """A check: a `warning` asks for a look, a `note` is often so by nature."""

    tier: Literal[1, 2, 3]
    level: Literal["warning", "note"]
    rule: str
    threshold: float


CHECKS: dict[str, Check] = {
    "constant_image": Check(1, "warning", "the image shows so many values at most", 1),
    "image_is_mask": Check(1, "warning", "this share of the values above the least equal their neighbour, or this "
                           "share of all lies at the two ends of the range", 0.97),
    "few_grey_levels": Check(1, "warning", "fewer distinct values than this", 16),
    "implausible_ct": Check(1, "warning", "of a CT in more than 8 bits, less than this share is within 200 HU of "
                            "water; or nothing is below -50 although something is above 1000 (an offset)", 0.02),
    "repeated_slices": Check(1, "warning", "so many pairs of neighbouring slices are equal", 1),
    "not_finite": Check(1, "note", "a share above this is infinite or not a number", 0),
    "mask_turned": Check(2, "warning", "turned or flipped, the outline lies on the image's edges by this many "
                         "deviations and as it is by less than half of that", 1.0),
    "mask_shifted": Check(2, "warning", "the same for the outline moved by 3 % of a side or more; only of outlines of "
                          "60 pixels or more on the plane reduced to 160", 1.2),
    "outside_body": Check(2, "warning", "this share of the annotation is on the background around the body", 0.5),
    "covers_image": Check(2, "warning", "a region has this share of the image", 0.98),
    "sides_swapped": Check(3, "warning", "a structure called left is to the patient's right of its right "
                           "counterpart by this share of the width", 0.02),
    "wrong_side": Check(3, "warning", "a left or right structure without counterpart has its middle on the other "
                        "side, by this share of the width", 0.15),
    "broken_structure": Check(3, "warning", "an anatomical structure that occurs once is missing on slices "
                              "between two on each of which it has this share of its largest area", 0.25),
    "fragments": Check(3, "note", "so many specks of 4 pixels or fewer on the planes looked at", 20),
    "cut_by_border": Check(3, "note", "so many regions touch the border of the image", 1),
}  # fmt: skip
LOWER = 0.5  # of the best agreement, below which the agreement as it is is poor
MOVED = 0.03  # least shift, of a side
LONG = 60  # least outline for a shift, in pixels of the reduced plane
OFFSET = (-50.0, 1000.0)  # a CT whose least and greatest values are both above these is not in Hounsfield units
TURNS = ("as it is", "turned by 180°", "flipped top to bottom", "flipped left to right",
         "transposed", "transposed, turned by 180°", "transposed, flipped top to bottom",
         "transposed, flipped left to right")  # fmt: skip


def limit(name: str) -> float:
    """The threshold of a check."""
    return CHECKS[name].threshold


def of_image(seen: dict[str, Any]) -> Iterator[Flag]:
    """What `etl.quality.evidence.seen` says against an image."""
    yield from _of_values(seen["values"])
    if sum(seen["repeats"].values()) >= limit("repeated_slices"):
        pairs = ", ".join(f"{n} {axis}" for axis, n in sorted(seen["repeats"].items()))
        yield "repeated_slices", f"equal neighbours: {pairs}"
    for plane in seen["edges"]:
        if plane["planes"]:
            yield from _of_edges(plane)


def _of_values(values: dict[str, Any]) -> Iterator[Flag]:
    distinct = values["distinct"]
    if distinct <= limit("constant_image"):
        yield "constant_image", f"{distinct} distinct values"
        return
    if max(values["flat"], values["extremes"]) >= limit("image_is_mask"):
        yield "image_is_mask", f"{distinct} values, {values['flat']:.0%} equal their neighbour, " \
                               f"{values['extremes']:.0%} at the ends of the range"
    elif distinct < limit("few_grey_levels"):
        yield "few_grey_levels", f"{distinct} distinct values in {values['bits']} bits"
    if values["finite"] < 1 - limit("not_finite"):
        yield "not_finite", f"{1 - values['finite']:.2%} of the values"
    if "tissue" in values:
        offset = values["low"] > OFFSET[0] and values["high"] > OFFSET[1]
        if offset or values["tissue"] < limit("implausible_ct"):
            yield "implausible_ct", f"{values['tissue']:.1%} near water, {values['air']:.1%} air, values from " \
                                    f"{values['low']:g} to {values['high']:g}"


def _of_edges(plane: dict[str, Any]) -> Iterator[Flag]:
    now, best = plane["z"][0], int(np.argmax(plane["z"]))
    if plane["z"][best] >= limit("mask_turned") and now < LOWER * plane["z"][best]:
        yield "mask_turned", f"{plane['axis']}: {plane['z'][best]:.2f} {TURNS[best]}, {now:.2f} as it is"
    elif (plane["z_moved"] >= limit("mask_shifted") and now < LOWER * plane["z_moved"]
          and max(map(abs, plane["moved"])) >= MOVED and plane["length"] >= LONG):  # fmt: skip
        rows, columns = plane["moved"]
        yield "mask_shifted", f"{plane['axis']}: {plane['z_moved']:.2f} moved by {rows:+.1%} of the rows and " \
                              f"{columns:+.1%} of the columns, {now:.2f} as it is"
    if plane["outside"] >= limit("outside_body"):
        yield "outside_body", f"{plane['axis']}: {plane['outside']:.0%} of the annotation"
    if plane["specks"] >= limit("fragments"):
        yield "fragments", f"{plane['axis']}: {plane['specks']} specks on {plane['planes']} planes"


def of_regions(regions: pd.DataFrame, ontology: Ontology, modality: str, stride: int) -> Iterator[tuple[str, Flag]]:
    """(case, flag) of the labelled regions of a source, of all sizes; `stride` as they were cut."""
    if regions.empty:
        return
    yield from _sides(regions, ontology, modality)
    if stride == 1:
        yield from _broken(regions, ontology)


def _sides(regions: pd.DataFrame, ontology: Ontology, modality: str) -> Iterator[tuple[str, Flag]]:
    """Left and right by the middle of each structure, in shares of the width from the middle of the image.

    Volumes are shown as the convention says; pictures of CT, MRI and X-ray are taken to be.
    """
    axes = ["axial", "coronal"] + (["native"] if modality in ("ct", "mri", "xray") else [])
    sided = regions[regions["label"].map(lambda name: ontology.labels[name].laterality != "none")
                    & regions["axis"].isin(axes)]  # fmt: skip
    if sided.empty:
        return
    place = (sided["x"] + sided["w"] / 2) / sided["width"] - 0.5
    table = pd.DataFrame({"case": sided["case"], "label": sided["label"], "n": sided["area"].astype(float),
                          "sum": place * sided["area"], "native": sided["axis"] == "native"})  # fmt: skip
    found = table.groupby(["case", "label"]).agg({"n": "sum", "sum": "sum", "native": "any"})
    middle: dict[Any, float] = (found["sum"] / found["n"]).to_dict()
    native: dict[Any, bool] = found["native"].to_dict()
    for (case, label), at in middle.items():
        side, _, part = label.partition(" ")
        other = middle.get((case, f"{'right' if side == 'left' else 'left'} {part}"))
        outward = at if side == "left" else -at  # the patient's left is on the right of the image
        if other is not None and side == "left" and other - at > limit("sides_swapped"):
            yield case, ("sides_swapped", f"{part}: left at {at + 0.5:.0%} of the width, right at {other + 0.5:.0%}")
        elif other is None and not native[case, label] and outward < -limit("wrong_side"):
            yield case, ("wrong_side", f"{label} at {at + 0.5:.0%} of the width, the patient's right being at 0 %")


def _broken(regions: pd.DataFrame, ontology: Ontology) -> Iterator[tuple[str, Flag]]:
    """Structures that are large, then missing, then large again along the slices; none that occurs several times."""
    whole = regions[(regions["axis"] == "axial") & ~regions["several"]
                    & regions["label"].map(lambda name: ontology.labels[name].kind == "anatomy")]  # fmt: skip
    areas = whole.groupby(["case", "label", "slice_index"], sort=True)["area"].sum().reset_index()
    groups: Any = areas.groupby(["case", "label"])
    for (case, label), column in groups:
        index, area = column["slice_index"].to_numpy(), column["area"].to_numpy()
        least = limit("broken_structure") * area.max()
        gap = (np.diff(index) > 1) & (area[:-1] >= least) & (area[1:] >= least)
        if gap.any():
            first = int(np.flatnonzero(gap)[0])
            yield case, ("broken_structure", f"{label}: nothing on axial {index[first] + 1} to {index[first + 1] - 1}")


def of_slices(kept: pd.DataFrame) -> Iterator[tuple[tuple[str, str, int], Flag]]:
    """(image, flag) of the regions of each exported image."""
    edge = ((kept["x"] == 0) | (kept["y"] == 0) | (kept["x"] + kept["w"] == kept["width"])
            | (kept["y"] + kept["h"] == kept["height"]))  # fmt: skip
    at = ["case", "axis", "slice_index"]
    for name, hit in (("cut_by_border", edge), ("covers_image", kept["area_fraction"] >= limit("covers_image"))):
        groups: Any = kept[hit].groupby(at, sort=True)["label"]
        for place, labels in groups:
            yield place, (name, ", ".join(sorted(set(labels))))
