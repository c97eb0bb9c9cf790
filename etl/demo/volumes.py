"""Volumes of the demo: two CT and three MRI sources in NIfTI, NRRD and MetaImage, each in another orientation.

All shapes live on the RAS+ grid (i → Right, j → Anterior, k → Superior); the writers turn them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.demo.files import mha, nifti, nrrd
from etl.demo.shapes import Expected, Floats, Mask, ellipse, jitter, texture

Rng = Callable[[str], np.random.Generator]


def ct_abdomen(root: Path, expected: Expected, rng: Rng) -> None:
    """Label map, stored LPS; two visits of one person, one with a stent, which no label covers."""
    shape, spacing = (56, 48, 36), (6.0, 6.0, 8.0)
    organs = {
        1: ((38, 27, 20), (12, 12, 12)),
        2: ((14, 18, 22), (6, 7, 8)),
        3: ((38, 11, 12), (5, 5, 8)),
        4: ((18, 10, 13), (5, 5, 8)),
    }
    names = {1: "liver", 2: "spleen", 3: "right kidney", 4: "left kidney"}
    for case in ("s01_1", "s01_2", "s02_1", "s03_1"):
        r = rng(case)
        labels = np.zeros(shape, dtype=np.uint8)
        for value, (center, radii) in organs.items():
            labels[ellipse(shape, jitter(r, center), jitter(r, radii, 0.6))] = value
        if case == "s02_1":
            labels[ellipse(shape, (28, 20, 18), (5, 5, 9))] = 5
        grey = _body(r, shape, ((28, 23.5), (26, 22)))
        grey[labels > 0] += 25.0 * labels[labels > 0]
        nifti(root / "imagesTr" / f"{case}_0000.nii.gz", _int16(grey), spacing, "LPS")
        nifti(root / "labelsTr" / f"{case}.nii.gz", labels, spacing, "LPS")
        masks = {name: labels == value for value, name in names.items()}
        expected.volume("demo_ct_abdomen", case.replace("_", "-"), masks)


def ct_chest(root: Path, expected: Expected, rng: Rng) -> None:
    """One file a structure, stored ASL; the heart overlaps a lung; one case lacks the heart's file."""
    shape, spacing = (52, 44, 40), (7.0, 7.0, 7.0)
    names = {"lung_left": "left lung", "lung_right": "right lung", "heart": "heart", "trachea": "trachea"}
    for case in ("c01", "c02", "c03"):
        r = rng(case)
        masks = {
            "lung_left": ellipse(shape, jitter(r, (15, 22, 20)), jitter(r, (9, 14, 15), 0.7)),
            "lung_right": ellipse(shape, jitter(r, (37, 22, 20)), jitter(r, (9, 14, 15), 0.7)),
            "heart": ellipse(shape, jitter(r, (23, 28, 15)), jitter(r, (7, 6, 7), 0.5)),
            "trachea": ellipse(shape, (26, 18, 34), (1.6, 1.6, 6)),
        }
        grey = _body(r, shape, ((26, 21.5), (24, 20)))
        for name, value in (("lung_left", -780.0), ("lung_right", -780.0), ("heart", 60.0), ("trachea", -950.0)):
            grey[masks[name]] = value + 20.0 * texture(r, shape)[masks[name]]
        if case == "c03":
            del masks["heart"]
        nifti(root / case / "ct.nii.gz", _int16(grey), spacing, "ASL")
        for name, mask in masks.items():
            nifti(root / case / "segmentations" / f"{name}.nii.gz", mask.astype(np.uint8), spacing, "ASL")
        expected.volume("demo_ct_chest", case, {names[name]: mask for name, mask in masks.items()})


def mri_brain(root: Path, expected: Expected, rng: Rng) -> None:
    """NRRD pairs of four thick slices: too thin to cut coronally or sagittally."""
    shape, spacing = (64, 60, 4), (3.0, 3.0, 20.0)
    for case in ("sub-01", "sub-02", "sub-03"):
        r = rng(case)
        labels = np.zeros(shape, dtype=np.uint8)
        labels[ellipse(shape, jitter(r, (27, 32, 1.5), 0.5), (4, 11, 2.5))] = 1
        labels[ellipse(shape, jitter(r, (37, 32, 1.5), 0.5), (4, 11, 2.5))] = 1
        labels[ellipse(shape, jitter(r, (46, 40, 1.5), 2), jitter(r, (7, 7, 1.9), 0.4))] = 2
        grey = _head(r, shape)
        grey[labels == 1] *= 0.3
        grey[labels == 2] *= 1.7
        nrrd(root / case / "t1.nrrd", _int16(grey), spacing, "LPS")
        nrrd(root / case / "t1-label.nrrd", labels, spacing, "LPS")
        expected.volume("demo_mri_brain", case, {"brain ventricle": labels == 1, "brain tumor": labels == 2})


def mri_tumor(root: Path, expected: Expected, rng: Rng) -> None:
    """4D NIfTI of two channels with one 3D label map, stored LAS; the whole tumor is a union of the three parts."""
    shape, spacing = (44, 42, 36), (4.0, 4.0, 4.0)
    for case in ("BT_01", "BT_02", "BT_03"):
        r = rng(case)
        center, labels = jitter(r, (28, 24, 18), 3), np.zeros(shape, dtype=np.uint8)
        labels[ellipse(shape, center, (11, 10, 10))] = 2
        labels[ellipse(shape, center, (7.5, 7, 7))] = 4
        labels[ellipse(shape, center, (4.5, 4.5, 4))] = 1
        channels = []
        for gain in (np.array([1.0, 0.8, 2.2, 1, 1.4]), np.array([1.0, 0.4, 0.8, 1, 1.9])):
            channels.append(_int16(_head(r, shape) * gain[labels]))
        nifti(root / f"{case}_img.nii.gz", np.stack(channels, axis=3), spacing, "LAS")
        nifti(root / f"{case}_seg.nii.gz", labels, spacing, "LAS")
        masks = {
            "non-enhancing brain tumor core": labels == 1,
            "peritumoral edema": labels == 2,
            "enhancing brain tumor": labels == 4,
            "brain tumor": labels > 0,
        }
        for channel in ("FLAIR", "T1w"):
            expected.volume("demo_mri_tumor", f"{case}-{channel}", masks)


def mri_heart(root: Path, expected: Expected, rng: Rng) -> None:
    """Short-axis MetaImage of ten slices, two phases of each person, masks packed; stored RPI."""
    shape, spacing = (48, 44, 10), (3.0, 3.0, 10.0)
    for number in (1, 2, 3):
        for phase, size in (("ed", 1.0), ("es", 0.75)):
            case = f"patient{number:02d}_{phase}"
            r = rng(case)
            center, labels = jitter(r, (20, 22, 4.5)), np.zeros(shape, dtype=np.uint8)
            labels[ellipse(shape, (center[0] + 11, center[1] + 2, 4.5), (9 * size, 8 * size, 5))] = 1
            labels[ellipse(shape, center, (10.5, 10.5, 5.2))] = 2
            labels[ellipse(shape, center, (8 * size, 8 * size, 5))] = 3
            grey = _head(r, shape) + np.array([0, 250, 60, 270])[labels]
            mha(root / "database" / f"{case}.mha", _int16(grey), spacing, "RPI")
            mha(root / "database" / f"{case}_gt.mha", labels, spacing, "RPI", packed=True)
            names = {1: "right ventricle", 2: "left ventricular myocardium", 3: "left ventricle"}
            masks = {name: labels == value for value, name in names.items()}
            expected.volume("demo_mri_heart", case.replace("_", "-"), masks)


def _body(rng: np.random.Generator, shape: tuple[int, int, int], outline: tuple[Any, Any]) -> Floats:
    """Hounsfield units: soft tissue in an elliptic trunk with a spine at the back, air around it."""
    trunk = ellipse(shape[:2], *outline)[:, :, None]
    grey = np.where(trunk, 20.0 + 12.0 * texture(rng, shape), -1000.0 + 5.0 * rng.standard_normal(shape))
    spine: Mask = ellipse(shape[:2], (shape[0] / 2, 5), (3, 3))
    grey[spine] += 500.0
    return np.asarray(grey)


def _head(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    """MRI grey values: a textured ellipse on a noisy background."""
    inside = ellipse(shape[:2], (shape[0] / 2, shape[1] / 2), (shape[0] * 0.46, shape[1] * 0.46))[:, :, None]
    return np.asarray(np.where(inside, 300.0 + 30.0 * texture(rng, shape), 8.0 * np.abs(rng.standard_normal(shape))))


def _int16(grey: Floats) -> NDArray[np.int16]:
    return np.rint(grey).astype(np.int16)


SOURCES: dict[str, tuple[Callable[[Path, Expected, Rng], None], dict[str, Any], dict[str, Any]]] = {
    "demo_ct_abdomen": (
        ct_abdomen,
        {
            "folder": "DemoAbdomen",
            "modality": "ct",
            "body_regions": ["abdomen"],
            "files": [
                {
                    "image": r"imagesTr/{subject:s\d+}_{visit:\d+}_0000.nii.gz",
                    "mask": "labelsTr/{subject}_{visit}.nii.gz",
                    "kind": "label_map",
                }
            ],
            "labels": {1: "liver", 2: "spleen", 3: "right_kidney", 4: "left_kidney", 5: "stent"},
            "view": {"window": {"center": 40, "width": 400}},
        },
        {
            "liver": "liver",
            "spleen": "spleen",
            "right_kidney": "right kidney",
            "left_kidney": "left kidney",
            "stent": {"label": None, "status": "rejected", "why": "device, no anatomy"},
        },
    ),
    "demo_ct_chest": (
        ct_chest,
        {
            "modality": "ct",
            "body_regions": ["chest"],
            "files": [
                {
                    "image": "{subject}/ct.nii.gz",
                    "mask": "{subject}/segmentations/{label}.nii.gz",
                    "kind": "file_per_label",
                }
            ],
            "labels": {"lung_left": "lung_left", "lung_right": "lung_right", "heart": "heart", "trachea": "trachea"},
            "annotates": ["lung_left", "lung_right", "trachea"],
            "view": {"window": {"center": -500, "width": 1600}},
        },
        {"lung_left": "left lung", "lung_right": "right lung", "heart": "heart", "trachea": "trachea"},
    ),
    "demo_mri_brain": (
        mri_brain,
        {
            "modality": "mri",
            "detail": "T1w",
            "body_regions": ["head and neck"],
            "files": [{"image": r"{case:sub-\d+}/t1.nrrd", "mask": "{case}/t1-label.nrrd", "kind": "label_map"}],
            "labels": {1: "ventricles", 2: "tumour"},
        },
        {
            "ventricles": "brain ventricle",
            "tumour": {"label": "brain tumor", "status": "approved", "why": "the source is of the brain"},
        },
    ),
    "demo_mri_tumor": (
        mri_tumor,
        {
            "modality": "mri",
            "detail": "FLAIR and T1w",
            "body_regions": ["head and neck"],
            "files": [
                {
                    "image": r"{case:BT_\d+}_img.nii.gz",
                    "mask": "{case}_seg.nii.gz",
                    "kind": "label_map",
                    "split": "train",
                }
            ],
            "labels": {1: "necrotic core", 2: "edema", 4: "enhancing tumor"},
            "derive": {"whole tumor": ["necrotic core", "edema", "enhancing tumor"]},
            "channels": {0: "FLAIR", 1: "T1w"},
        },
        {
            "necrotic core": "non-enhancing brain tumor core",
            "edema": "peritumoral edema",
            "enhancing tumor": "enhancing brain tumor",
            "whole tumor": "brain tumor",
        },
    ),
    "demo_mri_heart": (
        mri_heart,
        {
            "modality": "mri",
            "detail": "short-axis cine",
            "body_regions": ["chest"],
            "files": [
                {
                    "image": r"database/{subject:patient\d+}_{phase:ed|es}.mha",
                    "mask": "database/{subject}_{phase}_gt.mha",
                    "kind": "label_map",
                }
            ],
            "labels": {1: "RV", 2: "MYO", 3: "LV"},
            "view": {"percentile": [1, 99]},
        },
        {"RV": "right ventricle", "MYO": "left ventricular myocardium", "LV": "left ventricle"},
    ),
}
