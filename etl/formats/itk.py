"""NRRD and MetaImage files to arrays; SimpleITK is used in this module only."""

# mypy: allow-untyped-calls

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from etl.errors import ItemError
from etl.pixels.raster import MAX_BYTES, Raster, check_affine, check_packed, check_size, spacing_of, unreadable

HEADER_BYTES = 64 * 1024
LIST_BYTES = 4 * 2**20
MAX_DATA_FILES = 100_000
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


def read_segments(path: Path) -> tuple[Raster, tuple[Segment, ...]] | None:
    """A segmentation of 3D Slicer (`.seg.nrrd`): array [i, j, k, layer] and its segments; None for another file."""
    with path.open("rb") as stream:
        if b"_LabelValue:=" not in stream.read(HEADER_BYTES):
            return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        check_size(path, (*reader.GetSize(), reader.GetNumberOfComponents()), 1, MAX_BYTES)
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


def data_files(path: Path) -> list[Path]:
    """The files that hold the voxels: the file itself, or those that its header names, all below its folder."""
    fields = _fields(path)
    text = fields.get("elementdatafile") or fields.get("data file") or fields.get("datafile") or "LOCAL"
    if text.upper() == "LOCAL":
        return [path]
    names = _listed(path) if text.upper().startswith("LIST") else _numbered(path, text) if "%" in text else [text]
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
            raise unreadable(path, "names a data file outside its folder")
    return [path.parent / name for name in names]


def _listed(path: Path) -> list[str]:
    """The names below a header's `LIST`, one a line."""
    with path.open("rb") as stream:
        lines = stream.read(LIST_BYTES).decode("latin-1").splitlines()
    at = next(n for n, line in enumerate(lines) if re.match(r"(ElementDataFile\s*=|data ?file:)\s*LIST", line, re.I))
    return [line.strip() for line in lines[at + 1 :] if line.strip()]


def _numbered(path: Path, text: str) -> list[str]:
    """The names of a pattern with one number: `slice%03d.raw 1 20 1` (first, last, step)."""
    pattern, *numbers = text.split()
    if not re.fullmatch(r"[^%]*%0?\d?d[^%]*", pattern) or len(numbers) < 3:
        raise unreadable(path, "a pattern of data files that cannot be understood")
    try:
        first, last, step = (int(number) for number in numbers[:3])
        found = range(first, last + 1, step)
    except ValueError as error:
        raise unreadable(path, error) from error
    if len(found) > MAX_DATA_FILES:
        raise ItemError("too_large", f"{path.name}: {len(found)} data files")
    return [pattern % number for number in found]


def _check_data_file(path: Path, limit: int) -> None:
    """The voxels are there, as many bytes as declared; ITK's own messages for this are poor."""
    sources = data_files(path)
    for source in sources:
        if not source.is_file():
            raise unreadable(path, f"its data file {source.name} is missing")
    fields = _fields(path)
    width = META_BYTES.get(fields.get("elementtype", "").upper().removeprefix("MET_"))
    try:
        shape = tuple(int(extent) for extent in (fields.get("dimsize") or fields.get("sizes") or "").split())
    except ValueError as error:
        raise unreadable(path, error) from error
    if not shape:
        return
    needed = check_size(path, shape, width or 1, limit)
    stored = sum(source.stat().st_size for source in sources)
    if fields.get("encoding", "").lower() in ("bz2", "bzip2"):
        raise ItemError("unsupported", f"{path.name}: packed by bzip2")
    if fields.get("encoding", "").lower() in ("gz", "gzip"):
        check_packed(path, needed, stored)
    elif width and fields.get("compresseddata", "false").lower() == "true":
        check_packed(path, needed, stored)
        if len(sources) == 1 and fields.get("elementnumberofchannels", "1") == "1":
            _check_stream(path, sources[0], needed, fields.get("compresseddatasize", ""))
    elif width and stored < needed:
        raise unreadable(sources[0], f"cut off: {stored} of {needed} bytes")


def _check_stream(path: Path, source: Path, needed: int, declared: str) -> None:
    """The compressed voxels of a MetaImage unpack to what is declared: ITK gives what it got, without an error.

    It needs CompressedDataSize: without it, or with a wrong one, it gives whatever its memory holds.
    """
    raw = source.read_bytes()
    if source == path:
        mark = re.search(rb"ElementDataFile\s*=[^\n]*\n", raw[:HEADER_BYTES])
        raw = raw[mark.end() if mark else 0 :]
    stream = zlib.decompressobj(wbits=47)
    try:
        found = len(stream.decompress(raw, needed + 1))
    except zlib.error as error:
        raise unreadable(path, f"damaged compressed voxels ({error})") from error
    if found != needed or not stream.eof:
        raise unreadable(path, f"its compressed voxels are not the {needed} bytes that it declares")
    used = len(raw) - len(stream.unused_data)
    if not declared.isdecimal() or not used <= int(declared) <= len(raw):
        raise unreadable(path, f"its CompressedDataSize is missing or not {used}")


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
