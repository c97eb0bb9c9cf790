"""DICOM headers: one `Frame` for each 2D plane that a set of files holds, with its place in the patient.

Vectors are (x, y, z) in the DICOM patient system (LPS+, millimetres) until `etl.dicom.series` turns them to RAS+.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import config, uid
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from etl.errors import ItemError
from etl.pixels.raster import check_size, unreadable

Vector = tuple[float, ...]
config.settings.reading_validation_mode = config.IGNORE  # public data break the rules of value lengths everywhere
_TAGS: dict[str, BaseTag] = {}
PLAIN = frozenset({"AS", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "SL", "SS", "TM", "UI", "UL", "US"})
"""Value representations that mean the same in every file: neither character set nor other elements matter."""
ORTHOGONAL = 1e-2
"""Row and column directions whose lengths or angle are further off than this are no directions."""
NO_IMAGE = {"SEG": "a segmentation", "RTSTRUCT": "a structure set", "SR": "a structured report",
            "PR": "a presentation state", "KO": "a key object note", "REG": "a registration",
            "RTPLAN": "a treatment plan"}  # fmt: skip
FLOAT_PIXELS = (b"\xe0\x7f\x08\x00", b"\xe0\x7f\x09\x00")
"""The tags of (Double) Float Pixel Data, little endian."""
VIDEO = ("1.2.840.10008.1.2.4.10",)
"""MPEG-2, MPEG-4 and HEVC are 1.2.840.10008.1.2.4.100 to .108."""


@dataclass(frozen=True, slots=True)
class Header:
    """One file: its data set without the pixels and how these are stored.

    ``rows`` and ``columns`` are those of a frame, a tile where the file is a mosaic of ``tiles`` of them;
    ``series`` are its study and series UID, ``number`` its instance number;
    ``offset`` is where an uncompressed pixel element starts in the file, None where it cannot be read in place.
    """

    path: Path
    dataset: Dataset
    syntax: uid.UID
    offset: int | None
    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    photometric: str
    series: tuple[str, str]
    uid: str
    number: int | None
    floating: bool = False
    tiles: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """One plane. ``position`` is the centre of its first pixel, ``rows`` the direction along a row, ``columns`` the
    one down a column; all three and ``spacing`` (row, column) are None where the file does not say.

    ``marks`` tell repeated planes apart: echo, component, time and so on, as text or numbers.
    """

    header: Header
    index: int
    position: Vector | None
    along: Vector | None
    down: Vector | None
    spacing: tuple[float, float] | None
    thickness: float | None
    slope: float
    intercept: float
    window: tuple[float, float] | None
    marks: dict[str, Any]

    @property
    def normal(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The unit vector row direction × column direction."""
        return np.cross(np.array(self.along), np.array(self.down))


def read_header(path: Path, limit: int) -> Header:
    """The header of a DICOM image; ItemError names what is missing or wrong, or too large for ``limit`` bytes."""
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
            offset = stream.tell()
            floating = stream.read(4) in FLOAT_PIXELS
            return replace(_described(path, dataset, offset, limit), floating=floating)
    except (ItemError, MemoryError):
        raise
    except Exception as error:  # damaged headers raise anything
        raise unreadable(path, error) from error


def series_of(path: Path) -> tuple[str, str] | None:
    """(study, series) UID of a file; None if it cannot be read."""
    keywords = ["StudyInstanceUID", "SeriesInstanceUID"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=keywords)
            return str(dataset.get(keywords[0], "")), str(dataset.get(keywords[1], ""))
    except Exception:  # `read_header` says what is wrong with it
        return None


def _described(path: Path, dataset: Dataset, offset: int, limit: int) -> Header:
    modality = text_of(dataset, "Modality")
    if modality in NO_IMAGE or "DirectoryRecordSequence" in dataset:
        what = NO_IMAGE.get(modality, "a directory of files")
        raise ItemError("unsupported", f"{path.name}: a DICOM object without an image of its own, {what}")
    if "Rows" not in dataset or "Columns" not in dataset:
        raise ItemError("unsupported", f"{path.name}: a DICOM object without pixels")
    syntax = _syntax(dataset)
    if str(syntax).startswith(VIDEO):
        raise ItemError("unsupported", f"{path.name}: video ({syntax.name})")
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    frames, samples = _integer(dataset, "NumberOfFrames", 1) or 1, _integer(dataset, "SamplesPerPixel", 1)
    allocated = _integer(dataset, "BitsAllocated", 16)
    if allocated not in (1, 8, 16, 32, 64) or samples not in (1, 3):
        raise ItemError("unsupported", f"{path.name}: {samples} samples of {allocated} bits a pixel")
    stored = _integer(dataset, "BitsStored", allocated)
    if not 1 <= stored <= allocated:
        raise ItemError("unreadable", f"{path.name}: {stored} of {allocated} bits stored")
    instance = number(dataset, "InstanceNumber")
    check_size(path, (frames, rows, columns, samples), max(1, allocated // 8), limit)
    in_place = not syntax.is_encapsulated and not syntax.is_deflated
    return Header(
        path, dataset, syntax, offset if in_place else None, rows, columns, frames, samples, allocated, stored,
        _integer(dataset, "HighBit", stored - 1), _integer(dataset, "PixelRepresentation", 0) == 1,
        text_of(dataset, "PhotometricInterpretation").strip() or "MONOCHROME2",
        (text_of(dataset, "StudyInstanceUID"), text_of(dataset, "SeriesInstanceUID")),
        text_of(dataset, "SOPInstanceUID"), None if instance is None else int(instance),
    )


def _syntax(dataset: Dataset) -> uid.UID:
    """The transfer syntax; the one pydicom found by itself where the file has no meta information."""
    named = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if named:
        return uid.UID(str(named))
    implicit, little = dataset.original_encoding
    if little is False:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian


def value_of(dataset: Dataset, keyword: str) -> Any:
    """The value of an element, None where it is not there; not to be changed. Several times faster than `Dataset.get`:
    most elements of a slice are those of its neighbour, and are turned into values once."""
    tag = _TAGS.get(keyword)
    if tag is None:
        tag = _TAGS[keyword] = Tag(keyword)
    element: DataElement | RawDataElement | None = dataset.get_item(tag)
    if element is None:
        return None
    if isinstance(element, RawDataElement) and element.VR in PLAIN:
        return _converted(element._replace(value_tell=0))
    return dataset[tag].value


@lru_cache(maxsize=4096)
def _converted(element: RawDataElement) -> Any:
    return convert_raw_data_element(element).value


def text_of(dataset: Dataset, keyword: str) -> str:
    """The value of an element as text, empty where it is not there."""
    value = value_of(dataset, keyword)
    return "" if value is None else str(value)


def _integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = value_of(dataset, keyword)
    if value is None or value == "":
        if default is None:
            raise ValueError(f"no {keyword}")
        return default
    return int(value)


def floats(dataset: Dataset, keyword: str, count: int) -> Vector | None:
    """``count`` finite numbers of an element, or None."""
    value = value_of(dataset, keyword)
    if value is None or value == "":
        return None
    try:
        items = [float(item) for item in (value if count > 1 or isinstance(value, list | tuple) else [value])]
    except (TypeError, ValueError):
        return None
    return tuple(items[:count]) if len(items) >= count and all(map(math.isfinite, items)) else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """One finite number of an element, the first of several, or None."""
    value = value_of(dataset, keyword)
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if len(value) else None
    try:
        found: float = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def directions(dataset: Dataset) -> tuple[Vector, Vector] | None:
    """Unit vectors along a row and down a column (Image Orientation (Patient), PS3.3 C.7.6.2), or None."""
    six = floats(dataset, "ImageOrientationPatient", 6)
    if six is None:
        return None
    along, down = np.array(six[:3]), np.array(six[3:])
    lengths = float(np.linalg.norm(along)), float(np.linalg.norm(down))
    off = max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(along @ down)))
    return (six[:3], six[3:]) if off < ORTHOGONAL else None


def spacing_of(dataset: Dataset, keywords: tuple[str, ...] = ("PixelSpacing",)) -> tuple[float, float] | None:
    """(row, column) spacing in mm by the first of these elements that has two positive numbers."""
    for keyword in keywords:
        pair = floats(dataset, keyword, 2)
        if pair is not None and min(pair) > 0:
            return pair[0], pair[1]
    return None


def window_of(dataset: Dataset) -> tuple[float, float] | None:
    """(center, width) of the first VOI window, or None."""
    center, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    return (center, width) if center is not None and width is not None and width > 0 else None


def frames_of(header: Header) -> list[Frame]:
    """The planes of a file in stored order; ItemError if its functional groups or mosaic are damaged."""
    try:
        return list(_planes(header))
    except (ItemError, MemoryError):
        raise
    except Exception as error:  # damaged elements raise anything when they are looked at
        raise unreadable(header.path, error) from error


def _planes(header: Header) -> Iterator[Frame]:
    from etl.dicom import frames as dicom_frames

    if "PerFrameFunctionalGroupsSequence" in header.dataset or "SharedFunctionalGroupsSequence" in header.dataset:
        yield from dicom_frames.enhanced(header)
    elif (mosaic := dicom_frames.mosaic(header)) is not None:
        yield from mosaic
    else:
        yield from dicom_frames.classic(header)
