"""Augmentation that does not change what an image shows to a physician, one recipe for each modality.

Geometry keeps the image's size. Boxes of regions with a mask are tight around the moved mask; an image with a region
that has only a box is not rotated, since its box could not stay tight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glip.phrases import mirrored

Mask = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Region:
    """One labelled area: box [x, y, width, height] in pixels and, if known, its mask (rows, columns) of 0 and 1."""

    label: str
    box: tuple[float, float, float, float]
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What may be done to an image of one modality."""

    mirror: bool = False
    """Left-right mirror images, with left and right exchanged in the labels."""
    upside_down: bool = False
    """Also mirror top-down, where the camera has no up."""
    degrees: float = 0.0
    """Largest rotation."""
    zoom: float = 0.1
    """Largest share by which the content is enlarged or shrunk."""
    gain: float = 0.1
    """Largest share by which contrast changes; brightness changes by up to the same share of the full range."""


RECIPES = {
    # The side of heart and liver, and what lies in front of what, is a finding in itself: never mirrored.
    "ct": Recipe(degrees=10), "mri": Recipe(degrees=10), "xray": Recipe(degrees=5),
    # The probe's side is arbitrary; gravity and depth are not.
    "ultrasound": Recipe(mirror=True, degrees=5),
    # A mirrored fundus is one of the other eye.
    "fundus": Recipe(mirror=True, degrees=10, gain=0.05),
    # Colour is a finding: it hardly moves. No direction is up.
    "dermoscopy": Recipe(mirror=True, upside_down=True, degrees=180, gain=0.05),
    "endoscopy": Recipe(mirror=True, upside_down=True, degrees=180, gain=0.05),
}  # fmt: skip


def augment(
    image: NDArray[np.uint8], regions: list[Region], absent: list[str], *, recipe: Recipe, axis: str,
    labels: set[str], rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], list[Region], list[str]]:  # fmt: skip
    """(image, regions, absent labels) of a randomly changed copy; regions that left the image are dropped.

    Mirror images, left-right or top-down, are refused for planes cut from volumes (`axis` not `native`), and when a
    label with a side has no partner among `labels`. Both at once are a half turn, which exchanges no sides.
    """
    may = axis == "native" and all(mirrored(name) in labels for name in [*(r.label for r in regions), *absent])
    across = recipe.mirror and may and rng.random() < 0.5
    down = recipe.upside_down and may and rng.random() < 0.5
    if across:
        image, regions = image[:, ::-1], [_across(r, image.shape[1]) for r in regions]
    if down:
        image, regions = image[::-1], [_down(r, image.shape[0]) for r in regions]
    if across != down:
        regions = [replace(r, label=mirrored(r.label)) for r in regions]
        absent = [mirrored(name) for name in absent]
    if all(r.mask is not None for r in regions):
        image, regions = _moved(image, regions, recipe, rng)
    return _toned(image, recipe.gain, rng), regions, absent


def _across(region: Region, width: int) -> Region:
    x, y, w, h = region.box
    mask = None if region.mask is None else region.mask[:, ::-1]
    return replace(region, box=(width - x - w, y, w, h), mask=mask)


def _down(region: Region, height: int) -> Region:
    x, y, w, h = region.box
    mask = None if region.mask is None else region.mask[::-1]
    return replace(region, box=(x, height - y - h, w, h), mask=mask)


def _moved(
    image: NDArray[np.uint8], regions: list[Region], recipe: Recipe, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Region]]:
    """Rotated about the centre and zoomed; what comes in from outside is black."""
    angle = np.deg2rad(rng.uniform(-recipe.degrees, recipe.degrees))
    factor = 1 + rng.uniform(-recipe.zoom, recipe.zoom)
    height, width = image.shape[:2]
    cx, cy = (width - 1) / 2, (height - 1) / 2
    c, s = np.cos(angle) / factor, np.sin(angle) / factor
    matrix = (c, s, cx - c * cx - s * cy, -s, c, cy + s * cx - c * cy)

    def warp(array: NDArray[np.uint8], how: Image.Resampling) -> NDArray[np.uint8]:
        # PIL samples at pixel centres (x + 0.5, y + 0.5), so the constant part is shifted to match.
        a, b, e, d, f, g = matrix
        centred = (a, b, e + 0.5 - 0.5 * (a + b), d, f, g + 0.5 - 0.5 * (d + f))
        picture = Image.fromarray(np.ascontiguousarray(array))
        return np.asarray(picture.transform((width, height), Image.Transform.AFFINE, centred, how))

    out = [_tight(r.label, warp(r.mask, Image.Resampling.NEAREST)) for r in regions if r.mask is not None]
    return warp(image, Image.Resampling.BILINEAR), [r for r in out if r is not None]


def _tight(label: str, mask: Mask) -> Region | None:
    """The region of a mask with its tight box; None for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    x, y = int(columns[0]), int(rows[0])
    return Region(label, (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1), mask)


def _toned(image: NDArray[np.uint8], gain: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Contrast and brightness changed alike on all channels, so that hues stay."""
    factor, shift = 1 + rng.uniform(-gain, gain), 255 * rng.uniform(-gain, gain)
    levels = (np.arange(256.0) - 127.5) * factor + 127.5 + shift
    lookup = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return lookup[image]
