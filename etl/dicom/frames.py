"""The planes of one DICOM file: classic, enhanced multi-frame with functional groups, and Siemens mosaic."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from etl.dicom.header import Frame, Header, Vector, directions, floats, number, spacing_of, text_of, value_of, window_of
from etl.errors import ItemError

COMPONENTS = {"M": "M", "MAGNITUDE": "M", "P": "P", "PHASE": "P", "PHASE MAP": "P", "R": "R", "REAL": "R",
              "I": "I", "IMAGINARY": "I"}  # fmt: skip
WATER_FAT = ("W", "F", "IP", "OP", "WATER", "FAT", "IN_PHASE", "OUT_PHASE", "OPP_PHASE")
GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
          "PixelValueTransformationSequence", "FrameVOILUTSequence", "FrameContentSequence", "MREchoSequence",
          "MRDiffusionSequence", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence",
          "CardiacSynchronizationSequence")  # fmt: skip
UIH_GRID = (0x0065, 0x1050)
"""Number of images in a grid, a private element of United Imaging."""
MAX_TILES = 1024


def classic(header: Header) -> Iterator[Frame]:
    """The one plane of a single-frame file, or the frames of a file that places only the first (or none)."""
    one = _frame(header, 0, header.dataset, header.dataset)
    if header.frames == 1:
        yield one
        return
    offsets = floats(header.dataset, "GridFrameOffsetVector", header.frames)
    if offsets is None or one.position is None or one.along is None:
        for index in range(header.frames):
            yield replace(one, index=index, position=None)
        return
    for index, offset in enumerate(offsets):  # PS3.3 C.8.8.3.2: distances along the normal, from the first plane
        place = np.array(one.position) + (offset - offsets[0]) * one.normal
        yield replace(one, index=index, position=tuple(place.tolist()))


def enhanced(header: Header) -> Iterator[Frame]:
    """The frames of an enhanced file, each with its own functional groups over the shared ones (PS3.3 C.7.6.16)."""
    shared = _first(header.dataset, "SharedFunctionalGroupsSequence") or Dataset()
    groups = value_of(header.dataset, "PerFrameFunctionalGroupsSequence") or []
    if len(groups) not in (0, header.frames):
        raise ItemError("unreadable", f"{header.path.name}: {header.frames} frames, {len(groups)} functional groups")
    for index in range(header.frames):
        flat = _flat(shared, groups[index] if len(groups) else Dataset())
        yield _frame(header, index, flat, header.dataset)


def _flat(shared: Dataset, own: Dataset) -> Dataset:
    """The elements of the known functional groups of one frame in one data set."""
    flat = Dataset()
    for name in GROUPS:
        item = _first(own, name) or _first(shared, name)
        if item is not None:
            flat.update(item)
    return flat


def _first(dataset: Dataset, keyword: str) -> Dataset | None:
    sequence = value_of(dataset, keyword)
    return sequence[0] if sequence else None


def _frame(header: Header, index: int, plane: Dataset, top: Dataset) -> Frame:
    turned = directions(plane)
    slope, intercept = number(plane, "RescaleSlope"), number(plane, "RescaleIntercept")
    along, down = turned if turned is not None else (None, None)
    return Frame(
        header, index, floats(plane, "ImagePositionPatient", 3), along, down, spacing_of(plane),
        number(plane, "SpacingBetweenSlices") or number(plane, "SliceThickness"),
        slope if slope not in (None, 0.0) else 1.0, intercept or 0.0, window_of(plane), _marks(plane, top),
    )


def _marks(plane: Dataset, top: Dataset) -> dict[str, Any]:
    """What tells planes at one place apart; a mark that is missing is None."""
    kind = _words(value_of(plane, "FrameType") or value_of(top, "ImageType"))
    component = next((COMPONENTS[v] for v in kind[2:] if v in COMPONENTS), None)
    return {
        "echo": number(plane, "EffectiveEchoTime") or number(plane, "EchoTime") or number(top, "EchoTime"),
        "component": component or text_of(plane, "ComplexImageComponent") or None,
        "contrast": next((v for v in kind[2:] if v in WATER_FAT), None),
        "stack": text_of(plane, "StackID") or None,
        "time": number(plane, "TemporalPositionIndex") or number(top, "TemporalPositionIdentifier"),
        "acquisition": number(top, "AcquisitionNumber"),
        "trigger": number(plane, "NominalCardiacTriggerDelayTime") or number(top, "TriggerTime"),
        "diffusion": number(plane, "DiffusionBValue") or number(top, "DiffusionBValue"),
        "moment": str(value_of(plane, "FrameAcquisitionDateTime") or value_of(top, "AcquisitionTime") or "") or None,
        "number": number(top, "InstanceNumber"),
    }


def _words(value: Any) -> list[str]:
    """An element of one or several words as upper-case words."""
    return [str(word).upper() for word in ([value] if isinstance(value, str) else value or [])]


def mosaic(header: Header) -> list[Frame] | None:
    """The tiles of a Siemens mosaic as planes; None for any other image.

    The position in the header is that of the whole mosaic's corner as if the tile had its size; the slices are
    stacked along the normal of the CSA header, which may point against rows × columns.
    """
    kind = _words(value_of(header.dataset, "ImageType"))
    if UIH_GRID in header.dataset and header.frames == 1:
        raise ItemError("unsupported", f"{header.path.name}: a grid of images in one (United Imaging)")
    if "MOSAIC" not in kind or header.frames != 1:
        return None
    count, normal = _csa(header)
    across = math.ceil(math.sqrt(count))
    if not 1 <= count <= MAX_TILES or header.rows % across or header.columns % across:
        raise ItemError("unreadable", f"{header.path.name}: a mosaic of {count} tiles in {header.rows} rows")
    small = replace(header, rows=header.rows // across, columns=header.columns // across, frames=count, tiles=across)
    whole = _frame(small, 0, header.dataset, header.dataset)
    if whole.position is None or whole.along is None or whole.down is None or whole.spacing is None:
        raise ItemError("unreadable", f"{header.path.name}: a mosaic without position, orientation or spacing")
    step = (whole.thickness or 1.0) * (np.array(normal) if normal is not None else whole.normal)
    corner = (np.array(whole.position)
              + np.array(whole.along) * whole.spacing[1] * (header.columns - small.columns) / 2
              + np.array(whole.down) * whole.spacing[0] * (header.rows - small.rows) / 2)
    return [replace(whole, index=k, position=tuple((corner + k * step).tolist())) for k in range(count)]


def _csa(header: Header) -> tuple[int, Vector | None]:
    """(number of tiles, slice normal or None) of a mosaic, from the CSA header or the newer private element."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its readers experimental at import
        from nibabel.nicom import csareader

    try:
        csa = csareader.get_csa_header(header.dataset, "image")
    except Exception as error:  # a damaged CSA header raises anything
        detail = f"{header.path.name}: its CSA header is damaged ({type(error).__name__})"
        raise ItemError("unreadable", detail) from error
    if csa:
        count, normal = csareader.get_n_mosaic(csa), csareader.get_slice_normal(csa)
        if count:
            found = None if normal is None else tuple(float(v) for v in normal)
            return int(count), found
    plain = header.dataset.get((0x0019, 0x100A))
    if plain is None:
        raise ItemError("unsupported", f"{header.path.name}: a mosaic that does not say how many slices it has")
    return int(plain.value), None
