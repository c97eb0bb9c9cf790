"""Peak memory of the process that slices a volume, beyond its libraries, in int16 volumes of the same shape.

usage: memory.py FOLDER [--large]   (FOLDER keeps the generated files; --large: a volume of a billion voxels, 2 GB)

The process first slices a tiny volume, so that what it has loaded and compiled then counts as libraries.
"""

import gzip
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (512, 512, 120)
KINDS = {
    "int16, uint8 labels": (("<i2", 1), ("u1", 1), ".nii.gz"),
    "the same, not packed": (("<i2", 1), ("u1", 1), ".nii"),
    "int16, int32 labels": (("<i2", 1), ("<i4", 1), ".nii.gz"),
    "int16, float32 labels": (("<i2", 1), ("<f4", 1), ".nii.gz"),
    "int16, float64 labels": (("<i2", 1), ("<f8", 1), ".nii.gz"),
    "the same, not packed ": (("<i2", 1), ("<f8", 1), ".nii"),
    "int16, uint8 labels of slope 2": (("<i2", 1), ("u1", 2), ".nii.gz"),
    "float32 of integers, uint8 labels": (("<f4", 1), ("u1", 1), ".nii.gz"),
    "float64 of integers, float64 labels": (("<f8", 1), ("<f8", 1), ".nii.gz"),
    "float32, uint8 labels": (("<f4", 0.37), ("u1", 1), ".nii.gz"),
    "big-endian int16, float64 labels": ((">i2", 1), (">f8", 1), ".nii.gz"),
    "int16 of slope 0.5, uint8 labels": (("<i2", 0.5), ("u1", 1), ".nii.gz"),
}  # fmt: skip
"""Image (stored type, slope; a type of floats is multiplied instead), labels (the same), file ending."""


def header(dtype: np.dtype, shape: tuple[int, ...], slope: float = 1) -> bytes:
    """The bytes of a NIfTI file before its voxels."""
    found = nib.Nifti1Header(endianness=">" if dtype.byteorder == ">" else "<")
    found.set_data_shape(shape)
    found.set_data_dtype(dtype)
    found.set_sform(np.diag([0.75, 0.75, 3, 1]), 1)
    found["vox_offset"], found["magic"], found["scl_slope"], found["scl_inter"] = 352, b"n+1", slope, 0
    return found.binaryblock + bytes(4)


def save(path: Path, values: np.ndarray, kind: tuple[str, float]) -> None:
    """A NIfTI file of this stored type, whose values are `values` times the slope."""
    dtype, slope = np.dtype(kind[0]), kind[1]
    array = values.astype(dtype) * dtype.type(slope) if dtype.kind == "f" else values.astype(dtype)
    raw = header(dtype, array.shape, 1 if dtype.kind == "f" else slope) + array.tobytes(order="F")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, 1, mtime=0) if path.name.endswith(".gz") else raw)


def case(folder: Path, name: str, shape: tuple[int, int, int]) -> tuple[Path, Path]:
    """The image and the labels of a kind of volume, made if they are not there."""
    image, labels, ending = KINDS[name]
    stem = re.sub(r"\W+", "-", name) + "-" + "x".join(map(str, shape)) + ending
    paths = folder / "images" / stem, folder / "labels" / stem
    if not all(path.exists() for path in paths):
        rng = np.random.default_rng(0)
        body = sum(((np.arange(n) - n / 2) / (0.4 * n)).reshape([-1 if a == w else 1 for a in range(3)]) ** 2
                   for w, n in enumerate(shape)) < 1  # fmt: skip
        values = np.where(body, rng.integers(-60, 140, shape, np.int16), np.int16(-1000))
        marks = body * np.uint8(3)
        marks[: shape[0] // 2][body[: shape[0] // 2]] = 2
        save(paths[0], values, image)
        save(paths[1], marks, labels)
    return paths


MANIFEST = """slug: memory
title: memory
year: 2024
modality: ct
body_regions: [abdomen]
homepage: https://example.org
license: {name: CC0-1.0, redistribution: allowed}
access: open
evidence: [tests/bench/memory.py]
status: verified
files:
  - {image: "images/{case}.nii*", mask: "labels/{case}.nii*", kind: label_map}
labels: {1: aorta, 2: liver, 3: spleen, 4: stomach, 6: gallbladder}
components: all
derive: {abdomen: [liver, spleen]}
"""


def child(folder: Path, image: Path, labels: Path, encode_from: float) -> None:
    """Slices the tiny volume, then the large one, and prints the peak of both."""
    from etl.manifests.load import load_manifest
    from etl.sources.inventory import Case, MaskFile
    from stages import cut
    from stages import slice as slicing

    manifest = load_manifest(folder / "memory.yaml")
    params = slicing.SliceParams()
    peaks = []
    for files in (case(folder, next(iter(KINDS)), (40, 40, 40)), (image, labels)):
        at = [str(path.relative_to(folder)) for path in files]
        units = slicing.units([Case("memory", at[0], at[0], None, at[0], (MaskFile(0, at[1]),))],
                              manifest, folder, params)  # fmt: skip
        batch = slicing.Batch(tuple(units), manifest, folder, folder / "out", params, encode_from)
        done = cut.run(batch, {})
        assert not done[0]["quarantined"], (folder / "out", at)
        peaks.append(peak())
    print(json.dumps({"libraries": peaks[0], "peak": peaks[1], "images": done[0]["images"]}))


def peak() -> int:
    """The largest bytes of memory that this process has had so far."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def measured(folder: Path, name: str, shape: tuple[int, int, int] = SHAPE, encode_from: float = 0.015) -> dict:
    """Bytes of `libraries` and `peak`, and the `volumes` of int16 between them, of slicing a kind of volume."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.yaml").write_text(MANIFEST)
    image, labels = case(folder, name, shape)
    run = subprocess.run([sys.executable, __file__, folder, "--child", image, labels, str(encode_from)],
                         stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
    found = json.loads(run.stdout)
    return found | {"volumes": (found["peak"] - found["libraries"]) / (2 * np.prod(shape))}


def large(folder: Path, shape: tuple[int, int, int] = (1024, 1024, 1000)) -> None:
    """A build of one volume of a billion voxels under `--memory-limit 8GB`, labels in 8 bytes each."""
    (folder / "manifests").mkdir(parents=True, exist_ok=True)
    (folder / "manifests" / "memory.yaml").write_text(MANIFEST)
    (folder / "label_maps" / "sources").mkdir(parents=True, exist_ok=True)
    names = re.findall(r"\d: (\w+)", MANIFEST.split("labels:")[1])
    entries = "".join(f"  {name}: {{label: {name}, status: approved, by: bench}}\n" for name in names)
    (folder / "label_maps" / "sources" / "memory.yaml").write_text(f"source: memory\nlabels:\n{entries}")
    files = folder / "raw" / "memory" / "images" / "large.nii", folder / "raw" / "memory" / "labels" / "large.nii.gz"
    if not files[1].exists():
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
        plane = np.zeros(shape[:2])
        plane[200:600, 300:700], plane[600:700, 300:700] = 2, 3
        pixels = np.random.default_rng(0).integers(-60, 140, shape[:2], np.int16)
        for path, one, opened in ((files[0], pixels, open), (files[1], plane, partial(gzip.open, compresslevel=1))):
            head = header(np.dtype(one.dtype), shape)
            with opened(path, "wb") as file:
                file.write(head)
                for k in range(shape[2]):
                    file.write((one + one.dtype.type(k % 7 if path is files[0] else 0)).tobytes(order="F"))
    command = [Path(sys.executable).with_name("medglip-etl"), "build", "--raw", folder / "raw", "--source", "memory",
               "--manifests", folder / "manifests", "--label-maps", folder / "label_maps", "--out", folder / "large",
               "--memory-limit", "8GB", "--workers", "1", "--stride", "20", "--fresh"]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout.strip(), "under --memory-limit 8GB, which the worker could not have exceeded")


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    if "--large" in sys.argv:
        large(folder)
        return
    if "--child" in sys.argv:
        child(folder, Path(sys.argv[3]), Path(sys.argv[4]), float(sys.argv[5]))
        return
    for name in KINDS:
        found = measured(folder, name)
        print(f"{name:40} {found['volumes']:5.2f} volumes beyond {found['libraries'] / 2**20:.0f} MB of libraries "
              f"({found['images']} images)", flush=True)


if __name__ == "__main__":
    main()
