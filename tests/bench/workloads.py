"""Synthetic raw folders for the benchmarks, with their manifests and label maps: the same bytes every time."""

import gzip
import io
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage

ORGANS = ("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
          "inferior vena cava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "urinary bladder",
          "prostate")  # fmt: skip


def volumes(raw: Path, slug: str, count: int, shape: tuple[int, int, int] = (512, 512, 120)) -> None:
    """CT-like int16 volumes with 15 labelled ellipsoids, as gzipped NIfTI at level 6."""
    for n in range(count):
        name = raw / slug / "{part}" / f"case{n:03d}.nii.gz"
        if not Path(str(name).format(part="labels")).exists():
            image, labels = ct(np.random.default_rng(n), shape)
            write(Path(str(name).format(part="images")), image)
            write(Path(str(name).format(part="labels")), labels)


def ct(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image (Hounsfield units, int16) and its labels (uint8)."""
    grid = np.ogrid[: shape[0], : shape[1], : shape[2]]
    small = ndimage.gaussian_filter(rng.normal(size=(32, 32, 16)), 2)
    smooth = ndimage.zoom(small / small.std() * 150, np.array(shape) / small.shape, order=1)
    body = sum(((g - n / 2) / (n * s)) ** 2 for g, n, s in zip(grid[:2], shape[:2], (0.43, 0.33), strict=True)) < 1
    image = np.where(body, smooth + rng.normal(0, 12, shape), -1000).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    for value in range(1, len(ORGANS) + 1):
        centre = [rng.uniform(0.25, 0.75) * n for n in shape]
        radius = [rng.uniform(0.04, 0.14) * n for n in shape[:2]] + [rng.uniform(0.1, 0.33) * shape[2]]
        labels[sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) < 1] = value
    return image, labels


def write(path: Path, array: np.ndarray) -> None:
    """One gzipped NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    nib.Nifti1Image(array, np.diag([0.75, 0.75, 3, 1])).to_stream(buffer)
    path.write_bytes(gzip.compress(buffer.getvalue(), 6, mtime=0))


def pictures(raw: Path, slug: str, count: int) -> None:
    """256x256 RGB pictures with one lesion each, as PNG."""
    y, x = np.ogrid[:256, :256]
    for n in range(count):
        path = raw / slug / "images" / f"p{n:04d}.png"
        if path.exists():
            continue
        rng = np.random.default_rng(n)
        small = rng.integers(90, 200, (16, 16, 3)).astype(np.uint8)
        image = np.asarray(Image.fromarray(small).resize((256, 256))) + rng.integers(0, 6, (256, 256, 3), np.uint8)
        cx, cy, r = rng.integers(70, 186), rng.integers(70, 186), rng.integers(30, 60)
        mask = ((x - cx) ** 2 + (y - cy) ** 2 < r * r).astype(np.uint8) * 255
        for part, array in (("images", image), ("labels", mask)):
            (raw / slug / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(raw / slug / part / path.name)


def settings(folder: Path, slug: str, *, modality: str, suffix: str, kind: str, labels: dict[int, str]) -> None:
    """The manifest and the label map of a workload below `folder`; every component is a region."""
    lines = ", ".join(f"{value}: {name}" for value, name in labels.items())
    manifest = f"""slug: {slug}
title: benchmark {slug}
year: 2024
modality: {modality}
body_regions: [abdomen]
homepage: https://example.org
license: {{name: CC0-1.0, redistribution: allowed}}
access: open
evidence: [tests/bench/workloads.py]
status: verified
files:
  - {{image: "images/{{case}}{suffix}", mask: "labels/{{case}}{suffix}", kind: {kind}}}
labels: {{{lines}}}
components: all
view: {{window: {"{center: 40, width: 400}" if modality == "ct" else "none"}}}
"""
    entries = "".join(f"  {n}: {{label: {n}, status: approved, by: bench}}\n" for n in labels.values())
    for path, text in ((folder / "manifests" / f"{slug}.yaml", manifest),
                       (folder / "label_maps" / "sources" / f"{slug}.yaml", f"source: {slug}\nlabels:\n{entries}")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def decoded(blob: bytes) -> np.ndarray:
    """The pixels of a PNG."""
    return np.asarray(Image.open(io.BytesIO(blob)))


def by_pillow(picture: np.ndarray) -> bytes:
    """A picture as Pillow's default PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
