"""Raw sources of drawn images of all seven modalities, for experiments that need many subjects and no anatomy.

They go through the whole pipeline like any other source: pictures, a mask for each label, manifests and label maps.
Two more endoscopy sources show the same polyps through other cameras, and are tests only.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from etl.demo.shapes import Floats
from etl.labels import file as label_file
from etl.labels.maps import Mapping
from etl.pixels.png import encode
from etl.store import write_bytes
from glip.phantoms import SCENES

TESTED = 4
"""Every fourth subject is a published test subject."""
REGIONS = {"ct": "abdomen", "mri": "head and neck", "ultrasound": "chest", "xray": "chest", "dermoscopy": "skin",
           "endoscopy": "abdomen", "fundus": "head and neck"}  # fmt: skip


def dim(picture: Floats) -> Floats:
    """A darker, bluish and blurred camera."""
    return np.asarray(ndimage.gaussian_filter(picture, (1.5, 1.5, 0)) * np.array([0.6, 0.7, 0.9]))


def glaring(picture: Floats) -> Floats:
    """A bright, pale camera with little contrast."""
    return 110 + 0.6 * picture


CAMERAS: dict[str, Callable[[Floats], Floats]] = {"drawn_endoscopy_dim": dim, "drawn_endoscopy_glaring": glaring}


def write(folder: Path, *, subjects: int, seed: int = 0) -> int:
    """Writes `raw/`, `manifests/` and `label_maps/`, the same bytes every time; the number of images.

    `subjects` of each source, one image each; a quarter of them `test`.
    """
    sources: list[tuple[str, str, Callable[[Floats], Floats] | None]] = [(f"drawn_{m}", m, None) for m in SCENES]
    sources += [(slug, "endoscopy", camera) for slug, camera in CAMERAS.items()]
    for slug, modality, camera in sources:
        for subject in range(subjects):
            split = "test" if camera or subject % TESTED == TESTED - 1 else "train"
            _write_case(folder / "raw" / slug / split, f"s{subject:03d}", slug, modality, camera, seed)
        _write_manifest(folder, slug, modality, tested_only=camera is not None)
    return len(sources) * subjects


def _write_case(
    folder: Path, case: str, slug: str, modality: str, camera: Callable[[Floats], Floats] | None, seed: int
) -> None:
    rng = np.random.default_rng([seed, zlib.crc32(f"{slug}/{case}".encode())])
    picture, regions = SCENES[modality][0](rng)
    picture = camera(picture) if camera else picture
    write_bytes(folder / "images" / f"{case}.png", encode(_uint8(picture)))
    for label in SCENES[modality][1]:
        masks = [mask for name, mask in regions if name == label]
        whole = np.any(masks, axis=0) if masks else np.zeros(picture.shape[:2], bool)
        write_bytes(folder / "masks" / case / f"{label}.png", encode(_uint8(255.0 * whole)))


def _uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _write_manifest(folder: Path, slug: str, modality: str, *, tested_only: bool) -> None:
    labels = SCENES[modality][1]
    rules = [
        {"image": f"{split}/images/{{case:s\\d+}}.png", "mask": f"{split}/masks/{{case}}/{{label}}.png",
         "kind": "file_per_label", "split": split}
        for split in (("test",) if tested_only else ("train", "test"))
    ]  # fmt: skip
    manifest: dict[str, Any] = {
        "slug": slug, "title": f"Drawn images: {slug.removeprefix('drawn_').replace('_', ', ')}", "year": 2026,
        "modality": modality, "body_regions": [REGIONS[modality]], "homepage": "https://example.org/drawn",
        "license": {"name": "CC0-1.0", "redistribution": "allowed"}, "access": "open",
        "citation": "drawn by this project", "evidence": ["glip/phantoms.py"], "status": "verified",
        "files": rules, "labels": {name: name for name in labels}, "annotates": list(labels),
    }  # fmt: skip
    if modality == "endoscopy":
        manifest["components"] = list(labels)
    write_bytes(folder / "manifests" / f"{slug}.yaml", yaml.safe_dump(manifest, sort_keys=False).encode())
    entries = {name: Mapping(label=name, status="approved", by="drawn") for name in labels}
    path = folder / "label_maps" / "sources" / f"{slug}.yaml"
    write_bytes(path, label_file.render(slug, entries).encode())
