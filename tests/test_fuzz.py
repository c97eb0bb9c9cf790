"""Damaged files through every reader: an array or an ItemError, in time, in memory, and never a dead process."""

import random
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_writer import header, place, series, write
from PIL import Image
from pydicom import uid
from test_dicom import AFFINE, enhanced, phantom

from etl import formats, isolate
from etl.errors import ItemError

LIMITS = isolate.Limits(seconds=30, memory=3 * 2**29)
BUDGET = 2**28
SLOW_SECONDS = 10.0
DICOM = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless,
         uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless)  # fmt: skip


def seeds(folder: Path) -> list[Path]:
    """Small good files of every format and transfer syntax."""
    volume = phantom((20, 16, 1), "uint16")
    made = [series(folder / syntax.keyword, volume, AFFINE, syntax=syntax)[0] for syntax in DICOM]
    colours = np.random.default_rng(2).integers(0, 256, (16, 20, 3), np.uint8)
    made.append(write(folder / "jpeg", colours[..., 0].copy(), header(Modality="DX"), uid.JPEGBaseline8Bit))
    made.append(write(folder / "cine", np.stack([colours] * 3), header(Modality="US"), uid.RLELossless))
    made.append(enhanced(folder / "enhanced", phantom(dtype="uint16"), [3, 0, 4, 1, 2]))
    mosaic = place(header(Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), (0, 0, 0))
    mosaic.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
    mosaic.add_new(0x0019100A, "US", 4)
    made.append(write(folder / "mosaic", np.tile(volume[:, :, 0], (2, 2)), mosaic))
    for name in ("a.nii", "a.nii.gz", "a.hdr"):
        kind = nib.Nifti1Pair if name.endswith("hdr") else nib.Nifti1Image
        nib.save(kind(volume, np.eye(4)), folder / name)
        made.append(folder / name)
    for name in ("a.nrrd", "a.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(volume), folder / name, useCompression=name == "a.nrrd")
        made.append(folder / name)
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM"):
        stream = BytesIO()
        Image.fromarray(colours).save(stream, kind)
        made.append(folder / f"p.{kind.lower()}")
        made[-1].write_bytes(stream.getvalue())
    return made


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, a piece cut out, doubled or swapped, numbers made extreme, or the end cut off."""
    raw = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at, size = chance.randrange(len(raw)), chance.choice((1, 2, 4, 8, 64))
        what = chance.randrange(6)
        if what == 0:
            raw[at] = chance.randrange(256)
        elif what == 1:
            raw[at] ^= 1 << chance.randrange(8)
        elif what == 2:
            raw[at : at + size] = chance.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * size
        elif what == 3 and len(raw) > 2 * size:
            del raw[at : at + size]
        elif what == 4:
            raw[at:at] = raw[at : at + size]
        elif len(raw) > 16:
            del raw[max(8, at) :]
    return bytes(raw)


def read_all(job: tuple[Path, list[str], int, int]) -> list[list[Any]]:
    """In the child: [number, seed, outcome] of each mutant that did what it must not, and counts of the rest."""
    folder, made, first, last = job
    contents = {path: Path(path).read_bytes() for path in made}
    outcomes: Counter[str] = Counter()
    wrong: list[list[Any]] = []
    for number in range(first, last):
        isolate.alive(str(number))
        chance = random.Random(number)
        seed = made[number % len(made)]
        target = folder / f"m{Path(seed).suffix}"
        target.write_bytes(mutated(contents[seed], chance))
        if target.suffix == ".hdr":
            (folder / "m.img").write_bytes(Path(seed).with_suffix(".img").read_bytes())
        started = time.process_time()
        try:
            formats.read(target, BUDGET)
            outcomes["read"] += 1
        except ItemError as error:
            outcomes[error.reason] += 1
            if str(folder) in error.detail:
                wrong.append([number, Path(seed).name, f"a folder in its message: {error.detail}"])
        except Exception as error:
            wrong.append([number, Path(seed).name, f"{type(error).__name__}: {error}"])
        if time.process_time() - started > SLOW_SECONDS:
            wrong.append([number, Path(seed).name, "too slow"])
    return [*wrong, [-1, "counts", dict(outcomes)]]


def fuzz(tmp_path: Path, first: int, last: int) -> tuple[list[list[Any]], Counter[str]]:
    """Everything wrong in a range of mutants, with what killed the child; and how often each outcome came."""
    made = [str(path) for path in seeds(tmp_path / "seeds")]
    for path in made:
        formats.read(Path(path), BUDGET)
    (tmp_path / "mutants").mkdir()
    wrong: list[list[Any]] = []
    counts: Counter[str] = Counter()
    step = 500
    at = first
    while at < last:
        upto = min(at + step, last)
        try:
            found = isolate.call(read_all, (tmp_path / "mutants", made, at, upto), LIMITS)
            wrong += [row for row in found if row[0] >= 0]
            counts.update(found[-1][2])
            at = upto
        except isolate.Died as died:
            wrong.append([int(died.at or -1), Path(made[int(died.at or 0) % len(made)]).name, str(died.error)])
            at = int(died.at or at) + 1
    return wrong, counts


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_some_hundred_mutants(tmp_path: Path) -> None:
    wrong, counts = fuzz(tmp_path, 0, 600)
    assert wrong == []
    assert counts["read"] > 50
    assert counts["unreadable"] > 50


@pytest.mark.slow
def test_ten_thousand_mutants(tmp_path: Path) -> None:
    wrong, counts = fuzz(tmp_path, 1000, 11_000)
    assert wrong == []
    assert sum(counts.values()) == 10_000
