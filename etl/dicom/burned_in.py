"""Pixels that may show who the patient is: what a header or a known device says about text burned into them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage; its multi-frame forms append .1 to .4 (PS3.4 B.5)."""
DIGITISED = {"DV": "digitised video", "DF": "digitised film", "SD": "a scanned document", "SI": "a scanned image"}
"""Conversion types (PS3.3 C.8.6.1) that bring along what was written on the original."""
SCANNERS = frozenset({"CT", "MR", "NM", "PT"})
CONTRAST = 0.25
"""Of the image's range: what differs this much from its surroundings can be read."""
LETTER_PIXELS = 20
"""Fewer readable pixels than this are no text."""


def identifying(dataset: Any) -> str | None:
    """Why the pixels of a DICOM image may show who the patient is, by its header; else None.

    `dataset` is a pydicom data set, or anything whose `get` gives the value of a keyword.

    BurnedInAnnotation (PS3.3 C.7.6.1.1.1) decides where it is there. Without it a screen save does, a secondary capture
    of film, video or paper, and one of a scanner's that has no place in the patient: a dose report or a rendering.
    Ultrasound is judged with its pixels, see `text_outside`.
    """
    burned = _word(dataset, "BurnedInAnnotation")
    if burned == "YES":
        return "annotation is burned into its pixels (BurnedInAnnotation)"
    if burned == "NO":
        return None
    kinds = dataset.get("ImageType") or ()
    words = " ".join(map(str, [kinds] if isinstance(kinds, str) else kinds)).upper()
    if re.search(r"SCREEN[ _]?(SAVE|SHOT|CAPTURE)", words):
        return "a saved screen (ImageType), not marked as free of annotation"
    if not str(dataset.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURE):
        return None
    conversion = _word(dataset, "ConversionType")
    if conversion in DIGITISED:
        return f"a secondary capture of {DIGITISED[conversion]}, not marked as free of annotation"
    if _word(dataset, "Modality") in SCANNERS and not dataset.get("ImagePositionPatient"):
        return "a secondary capture without a place in the patient, not marked as free of annotation"
    return None


def text_outside(dataset: Any, frames: NDArray[Any]) -> str | None:
    """Why an ultrasound image (frames, rows, columns[, 3]) may show who the patient is; else None.

    Devices write names above the scan. Unless the header says that nothing is burned in, everything outside of the scan
    regions that it declares (SequenceOfUltrasoundRegions, PS3.3 C.8.5.5) must be blank; where it declares none, the
    places where a device of this make is known to write (`burned_in.csv`).
    """
    if _word(dataset, "BurnedInAnnotation") == "NO":
        return None
    seen = frames.max(axis=0) if frames.ndim > 2 else frames
    seen = seen.max(axis=2) if seen.ndim == 3 else seen
    regions = dataset.get("SequenceOfUltrasoundRegions") or ()
    if regions and _readable(seen, _outside(seen.shape, regions)):
        return "the device wrote something outside of its scan regions, not marked as free of annotation"
    if not regions and _readable(seen, _known(seen.shape, dataset)):
        return "something is written where devices of this make write names, not marked as free of annotation"
    return None


def _outside(shape: tuple[int, ...], regions: Iterable[Any]) -> Mask:
    outside = np.ones(shape, bool)
    for region in regions:
        left, top = (int(region.get(f"RegionLocationMin{axis}0", 0)) for axis in "XY")
        right, bottom = (int(region.get(f"RegionLocationMax{axis}1", 0)) for axis in "XY")
        outside[max(0, top) : bottom + 1, max(0, left) : right + 1] = False
    return outside


def _known(shape: tuple[int, ...], dataset: Any) -> Mask:
    inside = np.zeros(shape, bool)
    modality, maker, model = (_word(dataset, k) for k in ("Modality", "Manufacturer", "ManufacturerModelName"))
    for device in devices():
        same_size = device.rows in (None, shape[0]) and device.columns in (None, shape[1])
        if same_size and device.modality == modality and device.manufacturer in maker and device.model in model:
            left, top, width, height = device.place
            inside[top : top + height, left : left + width] = True
    return inside


def _readable(seen: NDArray[Any], where: Mask) -> bool:
    """Whether these pixels of an image (rows, columns) hold something that stands out from them."""
    strip = seen[where].astype(np.float64)
    if not strip.size:
        return False
    extent = float(seen.max()) - float(seen.min())
    return bool(extent) and int((np.abs(strip - np.median(strip)) > CONTRAST * extent).sum()) >= LETTER_PIXELS


@dataclass(frozen=True, slots=True)
class Device:
    """Where a make of device writes on images of a size: `place` is (left, top, width, height) in pixels."""

    modality: str
    manufacturer: str
    model: str
    rows: int | None
    columns: int | None
    place: tuple[int, int, int, int]


@cache
def devices() -> tuple[Device, ...]:
    """The known devices: the ultrasound rules of RSNA CTP's DicomPixelAnonymizer, as pydicom/deid collected them."""
    with (Path(__file__).parent / "burned_in.csv").open(newline="") as lines:
        return tuple(
            Device(
                row["modality"], row["manufacturer"].upper(), row["model"].upper(),
                int(row["rows"]) if row["rows"] else None, int(row["columns"]) if row["columns"] else None,
                (int(row["left"]), int(row["top"]), int(row["width"]), int(row["height"])),
            )
            for row in csv.DictReader(lines)
        )  # fmt: skip


def _word(dataset: Any, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip().upper()
