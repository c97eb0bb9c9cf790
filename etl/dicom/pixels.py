"""DICOM pixels: stored values in place where they are not compressed, pydicom's decoders for the rest."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from etl.dicom import codecs as dicom_codecs
from etl.dicom.header import Frame, Header
from etl.dicom.series import Stack
from etl.errors import ItemError
from etl.isolate import alive
from etl.pixels.raster import MAX_BYTES, Array, check_size, unreadable

PIXEL_DATA = (0x7FE0, 0x0010)
_OPTIONS: Any = {"allow_excess_frames": False}
UNDEFINED = 0xFFFFFFFF
LONG_FORM = (b"OB", b"OW", b"UN", b"OF", b"OD", b"OV", b"OL")


def volume(stack: Stack, limit: int) -> Array:
    """The array [column, row, slice(, time)] of a stack after slope and intercept; integers where that is exact."""
    times, slices = len(stack.planes), len(stack.planes[0])
    header = stack.planes[0][0].header
    shape = (times, slices, header.rows, header.columns)
    check_size(header.path, shape, max(1, header.allocated // 8), limit)
    places: dict[Path, list[tuple[Frame, int, int]]] = {}
    for t, plane in enumerate(stack.planes):
        for k, frame in enumerate(plane):
            places.setdefault(frame.header.path, []).append((frame, t, k))
    array = np.empty(shape, _stored_type([frame.header for plane in stack.planes for frame in plane]))
    for here in places.values():
        _fill(array, here)
    flat = [frame for plane in stack.planes for frame in plane]
    values = _rescaled(array.reshape(-1, *shape[2:]), flat, limit).reshape(shape)
    turned = values.transpose(3, 2, 1, 0)
    return turned[..., 0] if times == 1 else turned


def _stored_type(headers: Sequence[Header]) -> np.dtype[Any]:
    kinds = {np.dtype(f"{'i' if h.signed else 'u'}{max(1, h.allocated // 8)}") for h in headers}
    if "ModalityLUTSequence" in headers[0].dataset:
        return np.dtype(np.float64)
    if any(h.floating for h in headers):
        return np.dtype(np.float64)
    return np.result_type(*kinds)


def _fill(array: Array, places: Sequence[tuple[Frame, int, int]]) -> None:
    """Put the planes of one file where they belong."""
    alive()
    header = places[0][0].header
    plain = len(places) == 1 and header.frames == 1 and array.dtype == _file_type(header)
    if plain and _read_into(header, array[places[0][1:]]):
        return
    values = frames(header)
    if values.ndim != 3 or not np.can_cast(values.dtype, array.dtype, "safe"):
        raise ItemError("unreadable", f"{header.path.name}: values of type {values.dtype} in a series of {array.dtype}")
    for frame, t, k in places:
        array[t, k] = values[frame.index]


def _file_type(header: Header) -> np.dtype[Any]:
    return np.dtype(f"{'i' if header.signed else 'u'}{max(1, header.allocated // 8)}")


def _read_into(header: Header, plane: Array) -> bool:
    """Read an uncompressed grey plane straight into ``plane``; False where that cannot be done."""
    if header.offset is None or header.samples != 1 or header.allocated not in (8, 16, 32) or header.tiles:
        return False
    with header.path.open("rb") as stream:
        stream.seek(header.offset)
        start, length = _element(stream.read(12), header)
        if length < plane.nbytes:
            return False
        stream.seek(header.offset + start)
        if stream.readinto(plane.view(np.uint8).reshape(-1).data) != plane.nbytes:
            return False
    if not header.syntax.is_little_endian and plane.itemsize > 1:
        plane.byteswap(inplace=True)
    _use_stored_bits(plane, header)
    return True


def _element(head: bytes, header: Header) -> tuple[int, int]:
    """(bytes before the value, bytes of the value) of the pixel element that starts with ``head``; length 0 if it
    has another form."""
    order: Literal["little", "big"] = "little" if header.syntax.is_little_endian else "big"
    tag = (int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order))
    implicit = header.syntax.is_implicit_VR
    start = 8 if implicit else 12
    if tag != PIXEL_DATA or not (implicit or head[4:6] in LONG_FORM):
        return start, 0
    length = int.from_bytes(head[start - 4 : start], order)
    return start, 0 if length == UNDEFINED else length


def _use_stored_bits(plane: Array, header: Header) -> None:
    """Drop bits that hold no value (old overlays) and extend the sign, where there are such (PS3.5, 8.1.1)."""
    spare = 8 * plane.itemsize - header.stored
    if spare == 0:
        return
    low = -(1 << (header.stored - 1)) if header.signed else 0
    if plane.min() < low or plane.max() > low + (1 << header.stored) - 1:
        np.left_shift(plane, spare, out=plane)
        np.right_shift(plane, spare, out=plane)


def frames(header: Header) -> Array:
    """Stored values (frames, rows, columns[, 3]) of a file; colours as RGB.

    Raises:
        ItemError: `unreadable` or `unsupported`, with what the codec says.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(header.path, force=True)
            array = _decoded(header, dataset)
    except (ItemError, MemoryError):
        raise
    except Exception as error:  # damaged pixels raise anything
        raise unreadable(header.path, error) from error
    if not header.tiles:
        return array
    across, rows, columns = header.tiles, header.rows, header.columns
    tiled = array.reshape(across, rows, across, columns).swapaxes(1, 2)
    return tiled.reshape(across * across, rows, columns)[: header.frames]


def _decoded(header: Header, dataset: pydicom.Dataset) -> Array:
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = header.syntax
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ItemError("unreadable", f"{header.path.name}: it has no pixels, or is cut off before them")
    try:
        decoder = get_decoder(header.syntax)
    except NotImplementedError as error:
        raise ItemError("unsupported", f"{header.path.name}: transfer syntax {header.syntax.name}") from error
    plugin = dicom_codecs.plugin(header.syntax, header.stored) if header.syntax.is_encapsulated else ""
    array, said = decoder.as_array(dataset, decoding_plugin=plugin, **_OPTIONS)
    if header.frames == 1 or header.tiles:
        array = array[None]
    if said["photometric_interpretation"] == "PALETTE COLOR":
        array = _eight_bits(apply_color_lut(array, dataset), 16)[..., :3]
    elif header.samples == 3:
        array = _eight_bits(array, header.stored)
    return array


def _eight_bits(colors: Array, stored: int) -> Array:
    """Colours as uint8: the upper eight of the stored bits."""
    if colors.dtype == np.uint8:
        return colors
    if colors.dtype.kind != "u":
        raise ItemError("unsupported", f"colours of type {colors.dtype}")
    return (colors >> max(0, stored - 8)).astype(np.uint8)


def rescaled_frames(first: Frame, array: Array) -> Array:
    """Grey values (frames, rows, columns) of a file after its modality LUT, or slope and intercept."""
    return _rescaled(array, [first] * len(array), MAX_BYTES)


def _rescaled(array: Array, flat: Sequence[Frame], limit: int) -> Array:
    """Modality LUT, or slope and intercept of each plane (PS3.3 C.11.1), applied: in integers where that is exact,
    else in float64."""
    header = flat[0].header
    if header.dataset.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(array.astype(np.int16 if header.signed else np.uint16), header.dataset))
    pairs = [(frame.slope, frame.intercept) for frame in flat]
    if all(pair == (1.0, 0.0) for pair in pairs):
        return array
    whole = array.dtype.kind in "iu" and all(value.is_integer() for pair in pairs for value in pair)
    to = _holding(array, pairs) if whole else None
    if to is None:
        check_size(header.path, array.shape, 8, limit)
        result = array.astype(np.float64)
        for plane, (slope, intercept) in zip(result, pairs, strict=True):
            plane *= slope
            plane += intercept
        return result
    result = _as_type(array, to)
    for plane, (slope, intercept) in zip(result, pairs, strict=True):
        if slope != 1:
            np.multiply(plane, to.type(slope), out=plane)
        if intercept:
            np.add(plane, to.type(intercept), out=plane)
    return result


def _as_type(array: Array, to: np.dtype[Any]) -> Array:
    """The array as another integer type: the same memory where the values fit both."""
    if array.dtype == to:
        return array
    return array.view(to) if array.dtype.itemsize == to.itemsize else array.astype(to)


def _holding(array: Array, pairs: Sequence[tuple[float, float]]) -> np.dtype[Any] | None:
    """int16 or int32, whichever holds every stored and every rescaled value; None if neither does."""
    low = high = 0.0
    bounds = [(float(plane.min()), float(plane.max())) for plane in array]
    for (least, most), (slope, intercept) in zip(bounds, pairs, strict=True):
        scaled = (least * slope, most * slope)
        ends = (least, most, slope, intercept, *scaled, *(value + intercept for value in scaled))
        low, high = min(low, *ends), max(high, *ends)
    if not math.isfinite(low + high):
        return None
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max and np.dtype(kind).itemsize >= array.dtype.itemsize:
            return np.dtype(kind)
    return None
