"""The four arms of an experiment: the same items without regions, with found, with reference and with foreign ones.

A gain that the shuffled arm shares is length or habit, not grounding.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from etl.errors import Failure, UsageError
from glip.downstream.items import Item, Region, Size, images_of, read_document, references_of, region

ARMS = ("none", "predicted", "reference", "shuffled")


@dataclass(frozen=True, slots=True)
class Found:
    """What `ground` found in a folder: regions and sizes by the path of the image below the folder."""

    regions: dict[str, tuple[Region, ...]] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    experts: tuple[str, ...] | None = None
    """The modalities that the model has an expert for; None: not known, every image that is listed counts."""


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm: the regions of each image in it (none for an image that is not there), and what had to be left out."""

    name: str
    regions: dict[str, tuple[Region, ...]]
    counts: dict[str, int] = field(default_factory=dict)

    def of(self, item: Item) -> tuple[tuple[Region, ...], ...]:
        """The regions of each image of an item."""
        return tuple(self.regions.get(image, ()) for image in images_of(item))


def read_found(path: Path, *, bundle: Path | None = None) -> Found:
    """The `results.json` that `ground FOLDER --out` wrote; the experts from the bundle's `bundle.json`.

    Raises:
        Failure: not a COCO document with images, categories and scored annotations; names what is wrong.
    """
    document = read_document(path / "results.json" if path.is_dir() else path)
    try:
        names = {int(c["id"]): str(c["name"]) for c in document["categories"]}
        files = {int(i["id"]): str(i["file_name"]) for i in document["images"]}
        sizes = {str(i["file_name"]): (int(i["width"]), int(i["height"])) for i in document["images"]}
        regions: dict[str, list[Region]] = {name: [] for name in files.values()}
        for row in document["annotations"]:
            phrase = names[int(row["category_id"])]
            regions[files[int(row["image_id"])]].append(region({**row, "phrase": phrase}))
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(f"{path}: no results of `ground --out` ({type(error).__name__}: {error})") from None
    return Found({k: ordered(v) for k, v in regions.items()}, sizes, _experts(bundle))


def _experts(bundle: Path | None) -> tuple[str, ...] | None:
    if bundle is None:
        return None
    about = read_document(bundle / "bundle.json")
    return tuple(str(e) for e in about["experts"])


def ordered(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Best score first; among equals by phrase, then from left to right and top to bottom."""
    return tuple(sorted(regions, key=lambda r: (-r.score, r.phrase, r.bbox)))


def build(
    items: Sequence[Item], found: Found, *, sizes: Mapping[str, Size], threshold: float = 0.0, seed: int = 0
) -> list[Arm]:
    """The four arms over the images of the items; `reference` only if the dataset has regions.

    `shuffled` gives an image the found regions (the reference ones if nothing was found anywhere) of another image,
    scaled to its size. `sizes` are those of the items' images.
    """
    images = list(dict.fromkeys(image for item in items for image in images_of(item)))
    modality = {image: item.modality for item in items for image in images_of(item)}
    predicted = _predicted(images, modality, found, threshold)
    arms = [Arm("none", {}), predicted]
    references = {
        image: ordered(own)
        for item in items for image, own in zip(images_of(item), references_of(item) or (), strict=False)
    }  # fmt: skip
    if references:
        arms.append(Arm("reference", references, {"without_reference": len(images) - len(references)}))
    base = predicted.regions if any(predicted.regions.values()) else references
    arms.append(Arm("shuffled", shuffled(base, sizes, seed=seed)))
    return arms


def _predicted(images: Sequence[str], modality: Mapping[str, str | None], found: Found, threshold: float) -> Arm:
    """An image whose modality has no expert, or that was not grounded, goes without regions, and is counted."""
    counts = {"no_expert": 0, "not_grounded": 0, "nothing_found": 0}
    regions: dict[str, tuple[Region, ...]] = {}
    for image in images:
        known = modality[image]
        if found.experts is not None and known is not None and known not in found.experts:
            counts["no_expert"] += 1
        elif image not in found.regions:
            counts["not_grounded"] += 1
        else:
            regions[image] = tuple(r for r in found.regions[image] if r.score >= threshold)
            counts["nothing_found"] += not regions[image]
    return Arm("predicted", regions, counts)


def shuffled(
    regions: Mapping[str, tuple[Region, ...]], sizes: Mapping[str, Size], *, seed: int
) -> dict[str, tuple[Region, ...]]:
    """Every image with the regions of another one: a random cycle over all images, so none keeps its own.

    Raises Failure for a single image, which has no other.
    """
    names = sorted(regions)
    if not names:
        return {}
    if len(names) == 1:
        raise Failure("one image cannot be shuffled: the shuffled arm needs two or more")
    random.Random(seed).shuffle(names)
    return {
        name: tuple(_scaled(r, sizes[other], sizes[name]) for r in regions[other])
        for name, other in zip(names, names[1:] + names[:1], strict=True)
    }


def _scaled(found: Region, old: Size, new: Size) -> Region:
    fx, fy = new[0] / old[0], new[1] / old[1]
    x, y, w, h = found.bbox
    return replace(found, bbox=(x * fx, y * fy, w * fx, h * fy))


def image_sizes(root: Path, items: Sequence[Item]) -> dict[str, Size]:
    """(width, height) of every image of the items. UsageError names the first that is not there or not below `root`."""
    sizes: dict[str, Size] = {}
    for image in dict.fromkeys(image for item in items for image in images_of(item)):
        if image.startswith("/") or ".." in image.split("/"):
            raise UsageError(f"{image}: an image path that leaves the folder {root}")
        try:
            with Image.open(root / image) as picture:
                sizes[image] = picture.size
        except OSError as error:
            raise UsageError(f"{root / image}: cannot be read as a picture ({error.strerror or error})") from None
    return sizes


def summary(arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """For each arm: images with regions, regions, and what was left out."""
    return {
        arm.name: {"images": sum(bool(r) for r in arm.regions.values()),
                   "regions": sum(map(len, arm.regions.values())), **arm.counts}
        for arm in arms
    }  # fmt: skip


def to_json(arm: Arm) -> str:
    """The regions of an arm as one JSON document, the same for the same arm."""
    rows = {
        image: [{"phrase": r.phrase, "bbox": [round(v, 2) for v in r.bbox], "score": round(r.score, 4)} for r in found]
        for image, found in sorted(arm.regions.items())
    }
    return json.dumps({"arm": arm.name, "counts": arm.counts, "regions": rows}, ensure_ascii=False, indent=1) + "\n"
