"""NRRD and MetaImage files to arrays; SimpleITK is used in this module only."""

# mypy: allow-untyped-calls

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from etl.errors import ItemError
from etl.raster import MAX_BYTES, Raster, check_affine, check_size, spacing_of, unreadable

HEADER_BYTES = 64 * 1024
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
META_BYTES = {
    "CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4,
    "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip

sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a Slicer segmentation: its name, and the value that it has in one of the layers."""

    name: str
    layer: int
    value: int


def read(path: Path, limit: int = MAX_BYTES) -> Raster:
    """Array [i, j(, k(, t))] in its stored type, affine in RAS+ mm; a 2D image has k = 0 only."""
    _check_data_file(path, limit)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_information(path, reader, limit)
        image = reader.Execute()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    array = sitk.GetArrayFromImage(image).T
    affine = check_affine(path, _affine(image))
    return Raster(array, affine, spacing_of(affine, array.ndim))


def read_segments(path: Path, limit: int = MAX_BYTES) -> tuple[Raster, tuple[Segment, ...]] | None:
    """A segmentation of 3D Slicer (`.seg.nrrd`): array [i, j, k, layer] and its segments; None for another file."""
    with path.open("rb") as stream:
        if b"_LabelValue:=" not in stream.read(HEADER_BYTES):
            return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        check_size(path, (*reader.GetSize(), reader.GetNumberOfComponents()), 1, limit)
        segments = _named(reader)
        image = reader.Execute()
    except (RuntimeError, ValueError) as error:
        raise unreadable(path, error) from error
    array = sitk.GetArrayFromImage(image)
    array = np.moveaxis(array, -1, 0).T if image.GetNumberOfComponentsPerPixel() > 1 else array.T[..., None]
    if array.ndim != 4 or any(not 0 <= segment.layer < array.shape[3] for segment in segments):
        raise unreadable(path, f"its segments name layers that an array of shape {array.shape} has not")
    affine = check_affine(path, _affine(image))
    return Raster(array, affine, spacing_of(affine, 3)), segments


def _named(reader: sitk.ImageFileReader) -> tuple[Segment, ...]:
    """The segments of a header, from `Segment0_Name`, `Segment0_LabelValue` and, if there, `Segment0_Layer`."""
    header = {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys() if key.startswith("Segment")}
    numbers = sorted(int(key[7:-11]) for key in header if re.fullmatch(r"Segment\d+_LabelValue", key))
    return tuple(
        Segment(
            header.get(f"Segment{n}_Name", ""), int(header.get(f"Segment{n}_Layer", 0)),
            int(header[f"Segment{n}_LabelValue"]),
        )
        for n in numbers
    )  # fmt: skip


def _check_information(path: Path, reader: sitk.ImageFileReader, limit: int) -> None:
    shape = tuple(int(extent) for extent in reader.GetSize())
    components = reader.GetNumberOfComponents()
    if components > 1:
        raise ItemError("unsupported", f"{path.name}: {components} values a voxel")
    if not 2 <= len(shape) <= 4:
        raise ItemError("unsupported", f"{path.name}: {len(shape)} dimensions")
    bits = re.match(r"\d+", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    check_size(path, shape, int(bits[0]) // 8 if bits else 1, limit)


def _affine(image: sitk.Image) -> NDArray[np.float64]:
    """Voxel indices to RAS+ mm (4x4), from ITK's origin, spacing and direction (LPS+)."""
    size = image.GetDimension()
    space = min(size, 3)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(size, size)[:space, :space]
    affine[:space, :space] = direction * np.array(image.GetSpacing())[:space]
    affine[:space, 3] = image.GetOrigin()[:space]
    return LPS_TO_RAS @ affine


def data_file(path: Path) -> Path:
    """The file that holds the voxels: the file itself, or the one that its header names."""
    fields = _fields(path)
    name = fields.get("elementdatafile") or fields.get("data file") or fields.get("datafile") or "LOCAL"
    if name.upper() == "LOCAL" or name.upper().startswith("LIST") or "%" in name:
        return path
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise unreadable(path, "names a data file outside its folder")
    return path.parent / name


def _check_data_file(path: Path, limit: int) -> None:
    """The voxels are there, as many bytes as declared; ITK's own messages for this are poor."""
    source = data_file(path)
    if not source.is_file():
        raise unreadable(path, f"its data file {source.name} is missing")
    fields = _fields(path)
    width = META_BYTES.get(fields.get("elementtype", "").upper().removeprefix("MET_"))
    try:
        shape = tuple(int(extent) for extent in (fields.get("dimsize") or fields.get("sizes") or "").split())
    except ValueError as error:
        raise unreadable(path, error) from error
    if shape:
        check_size(path, shape, width or 1, limit)
    if width and shape and fields.get("compresseddata", "false").lower() != "true":
        size, needed = source.stat().st_size, math.prod(shape) * width
        if size < needed:
            raise unreadable(source, f"cut off: {size} of {needed} bytes")


def _fields(path: Path) -> dict[str, str]:
    """The header's ``key = value`` (MetaImage) or ``key: value`` (NRRD) lines, keys in lower case."""
    with path.open("rb") as stream:
        text = stream.read(HEADER_BYTES).decode("latin-1")
    nrrd = text.startswith("NRRD")
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if nrrd and not line.strip():
            break
        match = re.match(r"([A-Za-z][A-Za-z ]*?)\s*(?::=|:|=)\s*(.*)", line)
        if match:
            fields[match[1].lower()] = match[2].strip()
        if not nrrd and "elementdatafile" in fields:
            break
    return fields
