"""Drawn images of all seven modalities as a dataset: for experiments that need subjects, not anatomy.

Usage: python -m glip.phantoms FOLDER --subjects 30 writes shards for `medglip-etl train FOLDER`. Every subject is one
person of one modality; a fifth of them is `test`. Organs are sometimes absent, and then known to be.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pycocotools import mask as rle

from etl.demo.shapes import Floats, Mask, ellipse, jitter, texture, vessels
from etl.labels.maps import Ontology, load_ontology
from etl.pixels.png import encode
from etl.release.records import SPLITS
from etl.release.shards import schema

Rng = np.random.Generator
Scene = tuple[Floats, list[tuple[str, Mask]]]


def ct(rng: Rng) -> Scene:
    """An axial cut of a body; the patient's right is on the left."""
    shape, scale = (112, 144), float(rng.uniform(0.85, 1.1))
    body = ellipse(shape, jitter(rng, (56, 72), 3), (46 * scale, 62 * scale))
    grey = 20 + 90.0 * body + 6 * texture(rng, shape)
    spots = {
        "liver": ((48, 46), (24, 27), 40), "spleen": ((52, 108), (15, 11), 25),
        "right kidney": ((76, 50), (9, 8), 60), "left kidney": ((76, 96), (9, 8), 60),
    }  # fmt: skip
    return _organs(rng, grey, spots, scale, chance=0.8)


def mri(rng: Rng) -> Scene:
    """A head with two ventricles and, in half of the subjects, a tumour."""
    shape, scale = (128, 112), float(rng.uniform(0.85, 1.1))
    head = ellipse(shape, jitter(rng, (64, 56), 3), (56 * scale, 46 * scale))
    grey = 10 + 110.0 * head + 8 * texture(rng, shape)
    ventricle = np.zeros(shape, bool)
    for side in (-1, 1):
        ventricle |= ellipse(shape, jitter(rng, (62, 56 + 9 * side), 2), jitter(rng, (19, 6), 2))
    regions = [("brain ventricle", ventricle)]
    grey[ventricle] -= 70
    if rng.random() < 0.5:
        center = (rng.uniform(38, 90), rng.choice([32.0, 80.0]) + rng.uniform(-4, 4))
        tumor = ellipse(shape, center, jitter(rng, (11, 10), 4)) & ~ventricle
        grey[tumor] += 90
        regions.append(("brain tumor", tumor))
    return grey, regions


def ultrasound(rng: Rng) -> Scene:
    """Speckle with a dark mass or a bright ring."""
    shape = (120, 160)
    noise = np.hypot(texture(rng, shape, 1.0, 0.1), texture(rng, shape, 1.0, 0.1))
    grey = 70 * noise * np.linspace(1.1, 0.6, shape[0])[:, None]
    if rng.random() < 0.5:
        mass = ellipse(shape, jitter(rng, (58, 80), 25), jitter(rng, (20, 26), 8))
        return np.where(mass, grey * 0.25, grey), [("breast tumor", mass)]
    center, radii = jitter(rng, (60, 80), 10), jitter(rng, (36, 48), 8)
    head = ellipse(shape, center, radii)
    ring = head & ~ellipse(shape, center, (radii[0] - 4, radii[1] - 4))
    return grey + 150 * ring, [("fetal head", head)]


def xray(rng: Rng) -> Scene:
    """A chest from the front: dark lungs, a bright heart towards the patient's left."""
    shape, scale = (144, 128), float(rng.uniform(0.85, 1.1))
    ribs = 12 * (np.sin(np.arange(shape[0]) / 3.5)[:, None] > 0.6)
    grey = 150 + ribs + 8 * texture(rng, shape)
    spots = {
        "right lung": ((68, 36), (42, 19), -90), "left lung": ((68, 92), (42, 18), -90),
        "heart": ((92, 72), (19, 17), 50),
    }  # fmt: skip
    return _organs(rng, grey, spots, scale, chance=0.9)


def dermoscopy(rng: Rng) -> Scene:
    """Skin with one lesion."""
    shape = (120, 150)
    lesion = ellipse(shape, jitter(rng, (60, 75), 20), jitter(rng, (26, 32), 14))
    color = np.where(lesion[..., None], rng.uniform(60, 130, 3) * [1, 0.7, 0.6], np.array([222.0, 178, 160]))
    return color + 9 * texture(rng, shape, 3)[..., None], [("skin lesion", lesion)]


def endoscopy(rng: Rng) -> Scene:
    """A red wall with one or two polyps."""
    shape = (128, 144)
    dark = np.hypot(*np.indices(shape) - np.array([[[64]], [[72]]])) / 90.0
    color = np.array([190.0, 95, 75]) * (1.15 - dark)[..., None] + 12 * texture(rng, shape, 4)[..., None]
    places = [(40, 44), (90, 104)][: int(rng.integers(1, 3))]
    polyps = [ellipse(shape, jitter(rng, p, 10), jitter(rng, (18, 19), 6)) for p in places]
    color[np.any(polyps, axis=0)] += np.array([45.0, 55, 50])
    return color, [("colorectal polyp", p) for p in polyps]


def fundus(rng: Rng) -> Scene:
    """A retina with disc, cup and vessels, sometimes with an exudate."""
    size, center = 144, jitter(rng, (72, 66), 18)
    shape = (size, size)
    field = ellipse(shape, (size / 2, size / 2), (size * 0.49, size * 0.49))
    disc = ellipse(shape, center, jitter(rng, (21, 19), 3))
    cup = ellipse(shape, (center[0], center[1] + 2), jitter(rng, (11, 10), 3)) & disc
    color = np.where(field[..., None], np.array([196.0, 92, 48]), 4.0) + 5 * texture(rng, shape, 6)[..., None]
    color[disc], color[cup] = (236, 176, 104), (250, 226, 180)
    color[vessels(rng, size, (center[0], center[1]), 9) & field] = (120, 30, 22)
    regions = [("optic disc", disc), ("optic cup", cup)]
    if rng.random() < 0.5:
        spot = ellipse(shape, jitter(rng, (110, 100), 8), jitter(rng, (11, 10), 3)) & field
        color[spot] = (225, 205, 110)
        regions.append(("hard exudate", spot))
    return color, regions


def _organs(rng: Rng, grey: Floats, spots: dict[str, Any], scale: float, *, chance: float) -> Scene:
    """Ellipses drawn one over the other, each there with some chance (the first always)."""
    regions: list[tuple[str, Mask]] = []
    middle = np.array(grey.shape[:2]) / 2
    for n, (name, (center, radii, value)) in enumerate(spots.items()):
        at = middle + (np.array(center) - middle) * scale
        organ = ellipse(grey.shape[:2], jitter(rng, at.tolist(), 3), jitter(rng, [r * scale for r in radii], 1.5))
        if n == 0 or rng.random() < chance:
            regions = [(other, mask & ~organ) for other, mask in regions]
            grey[organ] += value
            regions.append((name, organ))
    return grey, regions


SCENES: dict[str, tuple[Callable[[Rng], Scene], tuple[str, ...]]] = {
    "ct": (ct, ("liver", "spleen", "right kidney", "left kidney")),
    "mri": (mri, ("brain ventricle", "brain tumor")),
    "ultrasound": (ultrasound, ("breast tumor", "fetal head")),
    "xray": (xray, ("right lung", "left lung", "heart")),
    "dermoscopy": (dermoscopy, ("skin lesion",)),
    "endoscopy": (endoscopy, ("colorectal polyp",)),
    "fundus": (fundus, ("optic disc", "optic cup", "hard exudate")),
}
"""How a modality is drawn, and the labels that are annotated in it."""


def write(folder: Path, *, subjects: int, images: int = 1, seed: int = 0) -> int:
    """Writes `folder/dataset/shards`; the number of images. `subjects` and `images` are per modality and subject."""
    ontology = load_ontology(Path(__file__).resolve().parents[1] / "label_maps")
    count = regions = 0
    for modality in SCENES:
        parts: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for subject in range(subjects):
            for index in range(images):
                row = _row(modality, subject, index, seed, ontology)
                row["image_id"] = count = count + 1
                for region in row["regions"]:
                    region["region_id"] = regions = regions + 1
                parts[row["split"]].append(row)
        for split, rows in parts.items():
            path = folder / "dataset" / "shards" / split / modality / "part-00000.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows, schema()), path, compression="zstd", row_group_size=200)
    return count


def _row(modality: str, subject: int, index: int, seed: int, ontology: Ontology) -> dict[str, Any]:
    """One image in the columns of the shards."""
    draw, annotated = SCENES[modality]
    picture, drawn = draw(np.random.default_rng([seed, zlib.crc32(modality.encode()), subject, index]))
    image: NDArray[np.uint8] = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    case = f"s{subject:03d}"
    key = f"phantom_{modality}/{case}/native/{index}"
    regions = [_region(f"{key}/{name}/{n}", name, mask, ontology) for n, (name, mask) in enumerate(drawn)]
    ids = sorted(ontology.labels[name].id for name in annotated)
    present = {r["label_id"] for r in regions}
    return {
        "key": key, "source": f"phantom_{modality}", "modality": modality, "case": case, "subject": case,
        "split": "test" if subject % 5 == 4 else "train", "axis": "native", "slice_index": index,
        "width": image.shape[1], "height": image.shape[0], "file_name": f"{key}.png", "regions": regions,
        "image": {"bytes": encode(image), "path": f"{key}.png"}, "license": "CC0-1.0", "redistribution": "allowed",
        "caption": ". ".join(dict.fromkeys(r["phrase"] for r in regions)), "annotated_label_ids": ids,
        "absent_label_ids": [i for i in ids if i not in present],
    }  # fmt: skip


def _region(key: str, name: str, mask: Mask, ontology: Ontology) -> dict[str, Any]:
    label = ontology.labels[name]
    category = ontology.categories[label.category]
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "key": key, "label_id": label.id, "label": name, "category_id": category.id, "category": category.name,
        "body_region": category.body_region, "raw_label": name, "phrase": name, "derived": False,
        "bbox": [float(v) for v in rle.toBbox(encoded)], "area": int(mask.sum()), "area_fraction": float(mask.mean()),
        "segmentation": {"size": list(mask.shape), "counts": encoded["counts"].decode()},
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=30, help="people per modality")
    given = parser.parse_args()
    print(f"{write(given.folder, subjects=given.subjects)} images in {given.folder}")
