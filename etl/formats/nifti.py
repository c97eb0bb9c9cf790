"""NIfTI files to arrays; nibabel is used in this module only, and only for headers."""

# mypy: allow-untyped-calls

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deflate
import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from etl.errors import ItemError
from etl.isolate import alive
from etl.pixels import slabs
from etl.pixels.raster import MAX_BYTES, Array, Raster, check_affine, check_packed, check_size, spacing_of, unreadable

GZIP = b"\x1f\x8b"
Bytes = bytes | bytearray | memoryview
HEADER_BYTES = 540


def is_nifti(head: bytes) -> bool:
    """Whether these first bytes (540 or more, not compressed) are a NIfTI-1 or NIfTI-2 header."""
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def peek(path: Path, size: int = HEADER_BYTES) -> bytes:
    """The first ``size`` bytes of a file, decompressed when it is gzip."""
    with path.open("rb") as stream:
        head = stream.read(max(size, 64 * 1024))
    if not head.startswith(GZIP):
        return head[:size]
    try:
        return zlib.decompressobj(wbits=31).decompress(head, size)
    except zlib.error as error:
        raise unreadable(path, f"damaged gzip stream ({error})") from error


def read(path: Path, limit: int = MAX_BYTES, *, integral: float | None = None) -> Raster:
    """Array [i, j(, k(, t))] in file order: integers as they are stored, else the smallest type that has the values.

    Slope and intercept are applied in float64, as nibabel does. With ``integral`` the values are labels: they come as
    small integers if none is further than that from one.
    """
    header = _header(path)
    dtype = header.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "iuf":
        raise ItemError("unsupported", f"{path.name}: voxels of type {header.get_value_label('datatype')}")
    shape = _shape(path, header)
    size = check_size(path, shape, dtype.itemsize, limit)
    affine = check_affine(path, np.asarray(header.get_best_affine(), np.float64))
    source, end = _source(path, header, size, limit)
    scale = _scale(path, header)
    if scale is None and dtype.isnative and dtype.kind in "iu" and (integral is None or dtype.itemsize == 1):
        payload = _payload(source, end)
        array: Array = np.frombuffer(payload, dtype, count=size // dtype.itemsize, offset=end - size)
    else:
        pieces = (_values(piece, scale, integral) for piece in _slabs(source, dtype, end - size, end))
        array = slabs.gathered(pieces, size // dtype.itemsize)
    return Raster(array.reshape(shape, order="F"), affine, spacing_of(affine, len(shape)))


def _values(stored: Array, scale: tuple[float, float] | None, integral: float | None) -> Array:
    """Stored voxels as values in a small type."""
    values = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if scale is not None:
        values = values.astype(np.float64) * scale[0] + scale[1]
    elif values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    if integral is not None:
        labels = slabs.integers(values, integral)
        if labels is not None:
            return labels
    return values if values.dtype.kind in "iu" else slabs.narrow(values)


def _header(path: Path) -> nib.Nifti1Header:
    head = peek(path)
    second = head[4:8] in (b"n+2\0", b"ni2\0")
    kind, length = (nib.Nifti2Header, 540) if second else (nib.Nifti1Header, 348)
    if len(head) < length:
        raise unreadable(path, f"ends inside its header, after {len(head)} bytes")
    try:
        return kind(binaryblock=head[:length])
    except (HeaderDataError, ValueError, TypeError, KeyError) as error:
        raise unreadable(path, error) from error


def _shape(path: Path, header: nib.Nifti1Header) -> tuple[int, ...]:
    """The shape without the axes of extent 1 behind the third."""
    shape = tuple(int(extent) for extent in header.get_data_shape())
    shape = shape[:3] + tuple(extent for extent in shape[3:] if extent != 1)
    if len(shape) > 4:
        raise ItemError("unsupported", f"{path.name}: {len(shape)} dimensions")
    return shape if len(shape) > 1 else (*shape, 1)


def data_file(path: Path) -> Path:
    """The file that holds the voxels: the file itself, or the ``.img`` beside a ``.hdr``."""
    name = path.name
    for old, new in ((".hdr", ".img"), (".hdr.gz", ".img.gz")):
        if name.endswith(old):
            return path.with_name(name.removesuffix(old) + new)
    return path


def _source(path: Path, header: nib.Nifti1Header, size: int, limit: int) -> tuple[Path, int]:
    """The file of the voxels, and the byte (decompressed) where they end: they are the last ``size`` before it."""
    single = bytes(header["magic"].tobytes())[:2] == b"n+"
    source = path if single else data_file(path)
    if not source.is_file():
        raise unreadable(path, f"its data file {source.name} is missing")
    try:
        offset = int(header.get_data_offset())
    except (ValueError, OverflowError) as error:
        raise unreadable(path, "its data offset is not a number") from error
    if offset < 0:
        raise unreadable(path, f"impossible data offset {offset}")
    end = offset + size
    if end > limit:
        raise ItemError("too_large", f"{path.name}: its voxels end at byte {end}, the limit is {limit}")
    return source, end


def _payload(path: Path, end: int) -> Bytes:
    """The first ``end`` bytes, decompressed."""
    raw = path.read_bytes()
    data = _gunzip(path, raw, end) if raw.startswith(GZIP) else raw
    if len(data) < end:
        raise unreadable(path, f"cut off: {len(data)} of {end} bytes")
    return memoryview(data)[:end]


def _slabs(path: Path, dtype: np.dtype[Any], start: int, end: int) -> Iterator[Array]:
    """The voxels between two bytes, decompressed, in flat arrays; the checksum is verified at the end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        packed = file.peek(2).startswith(GZIP)
        if packed:
            check_packed(path, end, size)
        elif size < end:
            raise unreadable(path, f"cut off: {size} of {end} bytes")
        stream = gzip.GzipFile(fileobj=file) if packed else file
        try:
            at = stream.seek(start)
            while at < end:
                alive()
                piece = stream.read(min(slabs.VALUES * dtype.itemsize, end - at))
                at += len(piece)
                if not piece or len(piece) % dtype.itemsize:
                    raise unreadable(path, f"cut off: {at} of {end} bytes")
                yield np.frombuffer(piece, dtype)
            stream.read(1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise unreadable(path, f"damaged gzip stream ({error})") from error


def _gunzip(path: Path, raw: bytes, end: int) -> Bytes:
    """At least the first ``end`` decompressed bytes where there are so many, checksum verified."""
    check_packed(path, end, len(raw))
    try:
        data: Bytes = deflate.gzip_decompress(raw, end)
    except (deflate.DeflateError, ValueError, MemoryError):
        data = b""
    return data if len(data) >= end else _gunzip_members(path, raw, end)


def _gunzip_members(path: Path, raw: bytes, end: int) -> bytes:
    """As `_gunzip`, for files of several gzip members or with bytes behind the voxels."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            data = stream.read(end)
            stream.read(1)  # reaching the end verifies the checksum
            return data
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, f"damaged gzip stream ({error})") from error


def _scale(path: Path, header: nib.Nifti1Header) -> tuple[float, float] | None:
    """Slope and intercept, or None where there are none."""
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise unreadable(path, error) from error
    return None if slope is None or (slope, inter) == (1.0, 0.0) else (slope, inter)


def save(path: Path, array: Array, affine: Array) -> None:
    """Write an RAS+ array (i, j, k[, t]) with its affine (mm) as NIfTI-1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.ascontiguousarray(array), affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
