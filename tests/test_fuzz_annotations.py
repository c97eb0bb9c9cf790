"""Damaged annotations through every kind's reader: layers or objects, an ItemError or a UsageError, never a crash."""

import gzip
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import scipy.io
from PIL import Image
from test_array_kinds import hdf5, seg_nrrd
from test_dicom_kinds import SHAPE, oblique, phantom, rectangle, seg, structures
from test_fuzz import LIMITS, SLOW_SECONDS, mutated
from test_objects import SIZE, VOC, coco_file

from etl import isolate
from etl.errors import ItemError, UsageError
from etl.kinds import Grid, read_layers
from etl.manifests.manifest import Rule

PICTURE = Grid("images/a.png", SIZE)
VALUES = np.random.default_rng(4).integers(0, 4, SIZE).astype(np.uint8)
LABELS = {"0": "none", "1": "lung", "2": "heart", "3": "liver"}


def seeds(folder: Path) -> list[tuple[str, Path, Grid, dict[str, Any]]]:
    """(kind, good file, image, other keys of the rule) of every kind that reads a file of its own format."""
    folder.mkdir()
    affine = oblique()
    masks = {"lung": phantom(1) > 0.7, "heart": phantom(2) > 0.7}
    volume = Grid("a", SHAPE, affine)
    made: list[tuple[str, Path, Grid, dict[str, Any]]] = [
        ("coco", coco_file(folder / "coco.json", [
            {"id": 1, "bbox": [2, 3, 9, 8]}, {"id": 2, "segmentation": [[2, 2, 8, 2, 8, 9]]},
            {"id": 3, "iscrowd": 1, "segmentation": {"size": list(SIZE), "counts": [5, 9, 30, 2, 554]}}]), PICTURE, {}),
        ("dicom_seg", seg(folder / "seg.dcm", masks, affine), volume, {}),
        ("dicom_seg", seg(folder / "part.dcm", {n: m * 150 for n, m in masks.items()}, affine, kind="FRACTIONAL"),
         volume, {}),
        ("rtstruct", structures(folder / "rt.dcm", {"lung": [rectangle(1, 1, 6, 5, 2)]}, affine), volume, {}),
        ("label_map", seg_nrrd(folder / "a.seg.nrrd", np.ones((1, *SHAPE)), [("lung", 0, 1)]), volume, {}),
    ]  # fmt: skip
    texts = {
        "voc": ("a.xml", VOC.format(w=SIZE[1])),
        "yolo": ("a.txt", "0 0.5 0.5 0.2 0.5\n1 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5\n"),
        "labelme": ("a.json", '{"shapes": [{"label": "lung", "points": [[2, 2], [8, 2], [8, 6]]}, {"label": "heart", '
                              '"points": [[9, 9], [3, 4]], "shape_type": "rectangle"}]}'),
        "csv_boxes": ("b.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,lung,1.2,2,5,6\na.png,heart,0,0,2,2\n"),
        "rle_csv": ("r.csv", "ImageId,EncodedPixels,label\na.png,1 3 21 3,lung\na.png,22 2,heart\n"),
    }  # fmt: skip
    for kind, (name, text) in texts.items():
        (folder / name).write_text(text)
        made.append((kind, folder / name, PICTURE, {}))
    np.save(folder / "a.npy", VALUES)
    np.savez_compressed(folder / "a.npz", mask=VALUES)
    scipy.io.savemat(folder / "a.mat", {"mask": VALUES}, do_compression=True)
    hdf5(folder / "h.mat", mask=VALUES)
    made += [(kind, folder / name, PICTURE, {}) for kind, name in
             (("npy", "a.npy"), ("npy", "a.npz"), ("mat", "a.mat"), ("mat", "h.mat"))]  # fmt: skip
    Image.fromarray(VALUES).save(folder / "a.png")
    Image.fromarray(VALUES * 85).save(folder / "b.tif")
    nib.save(nib.Nifti1Image(np.ones(SHAPE), affine), folder / "a.nii")
    (folder / "b.nii.gz").write_bytes(gzip.compress((folder / "a.nii").read_bytes(), mtime=0))
    made += [("label_map", folder / "a.png", PICTURE, {}), ("bitfield", folder / "a.png", PICTURE, {}),
             ("binary", folder / "b.tif", PICTURE, {}), ("outline", folder / "b.tif", PICTURE, {}),
             ("multipage", folder / "b.tif", PICTURE, {}), ("label_map", folder / "a.nii", volume, {}),
             ("label_map", folder / "b.nii.gz", volume, {})]  # fmt: skip
    return made


def read(kind: str, path: Path, grid: Grid, options: dict[str, Any]) -> int:
    """How many annotations a file holds."""
    rule = Rule(image="images/{case}.png", mask="m/{case}", kind=kind, **options)
    return len(read_layers([(rule, path, None)], LABELS, grid))


def read_all(job: tuple[Path, Path, int, int]) -> list[list[Any]]:
    """In the child: [number, seed, outcome] of each mutant that did what it must not, and counts of the rest."""
    good, folder, first, last = job
    made = seeds(good)
    outcomes: Counter[str] = Counter()
    wrong: list[list[Any]] = []
    for number in range(first, last):
        isolate.alive(str(number))
        kind, path, grid, options = made[number % len(made)]
        target = folder / f"{number}-{path.name}"
        target.write_bytes(mutated(path.read_bytes(), random.Random(number)))
        started = time.process_time()
        try:
            read(kind, target, grid, options)
            outcomes["read"] += 1
        except (ItemError, UsageError) as error:
            outcomes[getattr(error, "reason", "usage")] += 1
        except Exception as error:
            wrong.append([number, f"{kind} {path.name}", f"{type(error).__name__}: {error}"])
        target.unlink()
        if time.process_time() - started > SLOW_SECONDS:
            wrong.append([number, f"{kind} {path.name}", "too slow"])
    return [*wrong, [-1, "counts", dict(outcomes)]]


def fuzz(tmp_path: Path, first: int, last: int) -> tuple[list[list[Any]], Counter[str]]:
    """Everything wrong in a range of mutants, with what killed the child; and how often each outcome came."""
    (tmp_path / "mutants").mkdir()
    wrong: list[list[Any]] = []
    counts: Counter[str] = Counter()
    at = first
    while at < last:
        upto = min(at + 500, last)
        try:
            found = isolate.call(read_all, (tmp_path / f"good{at}", tmp_path / "mutants", at, upto), LIMITS)
            wrong += [row for row in found if row[0] >= 0]
            counts.update(found[-1][2])
            at = upto
        except isolate.Died as died:
            wrong.append([int(died.at or -1), "died", str(died.error)])
            at = int(died.at or at) + 1
    return wrong, counts


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_the_seeds_are_good(tmp_path: Path) -> None:
    for kind, path, grid, options in seeds(tmp_path / "good"):
        assert read(kind, path, grid, options), path


def test_some_hundred_damaged_annotations(tmp_path: Path) -> None:
    wrong, counts = fuzz(tmp_path, 0, 500)
    assert wrong == []
    assert counts["read"] > 50
    assert counts["unreadable"] > 50


@pytest.mark.slow
def test_five_thousand_damaged_annotations(tmp_path: Path) -> None:
    wrong, counts = fuzz(tmp_path, 1000, 6000)
    assert wrong == []
    assert sum(counts.values()) == 5000
