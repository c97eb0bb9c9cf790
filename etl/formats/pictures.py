"""PNG, JPEG, TIFF, BMP, GIF and PNM files to arrays, with Pillow; tifffile for what Pillow cannot read.

A file may be packed with gzip.
"""

import gzip
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import tifffile
from PIL import Image, ImageOps, TiffImagePlugin  # noqa: F401  (registers TIFF, which Pillow does late)

from etl.errors import ItemError
from etl.formats import nifti
from etl.pixels.raster import MAX_BYTES, Array, check_packed, check_size, unreadable

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
COLOURED = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")
GREY_ALPHA = ("LA", "La")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM")
MAX_PICTURE_BYTES = 2**30
"""Of all pages of one picture, decoded."""
Image.MAX_IMAGE_PIXELS = MAX_PICTURE_BYTES // 2  # Pillow refuses to open what has twice as many, and warns below
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Every failure to decode a file as an ItemError."""
    try:
        yield
    except ItemError:
        raise
    except Image.DecompressionBombError as error:
        detail = f"{path.name}: more pixels than the limit is for pictures, {MAX_PICTURE_BYTES}"
        raise ItemError("too_large", detail) from error
    except Exception as error:  # decoders of damaged files raise anything
        raise unreadable(path, error) from error


@contextmanager
def _opened(path: Path, limit: int = MAX_PICTURE_BYTES) -> Iterator[Image.Image]:
    """The first frame, decoded, EXIF orientation applied; every failure as an ItemError."""
    with _faults(path), _plain(path) as source, Image.open(source, formats=FORMATS) as image:
        size = check_size(path, (image.height, image.width), _width(image), min(limit, MAX_PICTURE_BYTES))
        if image.format == "PNG" and source is path:
            check_packed(path, size // 8, path.stat().st_size)  # a pixel may be one bit
        image.load()
        picture_format = image.format
        turned = ImageOps.exif_transpose(image)
        turned.format = picture_format
        yield turned


def read(path: Path, limit: int = MAX_BYTES) -> Array:
    """Grey values (rows, columns) or colours (rows, columns, 3), as a viewer shows them.

    Palettes become colours, one bit becomes 0 and 255, alpha is dropped; 16-bit grey stays uint16.
    """
    _refuse_pages(path)
    try:
        with _opened(path, limit) as image:
            return _values(image)
    except ItemError as error:
        return _as_tiff(path, error, limit)


def read_indexed(path: Path) -> Array:
    """Label values (rows, columns): palette indices, one bit as 0 and 1, equal channels as grey."""
    _refuse_pages(path)
    try:
        with _opened(path) as image:
            if image.mode in ("P", "PA", "1"):
                return np.asarray(image.getchannel(0) if image.mode == "PA" else image).astype(np.uint8)
            array = _values(image)
    except ItemError as error:
        array = _as_tiff(path, error)
    grey = _equal_channels(array)
    if grey is None:
        raise ItemError("unsupported", f"{path.name}: a colour picture has no label values")
    return grey


def read_grey(path: Path) -> Array:
    """Grey values (rows, columns) to compare with a threshold.

    A palette of greys gives greys, one of colours its indices. Colours give the brightest channel,
    but the luminance in a JPEG, whose channels differ by its losses.
    """
    _refuse_pages(path)
    try:
        with _opened(path) as image:
            if image.format in ("JPEG", "MPO"):
                return np.asarray(image.convert("L"))
            array, indices = _values(image), np.asarray(image) if image.mode == "P" else None
    except ItemError as error:
        array, indices = _as_tiff(path, error), None
    grey = _equal_channels(array)
    if grey is not None:
        return grey
    return np.asarray(array.max(axis=2)) if indices is None else indices


def read_colors(path: Path) -> Array:
    """Colours (rows, columns, 3), uint8, of any 8-bit picture, alpha dropped."""
    _refuse_pages(path)
    with _opened(path) as image:
        if image.mode in (*SIXTEEN_BITS, "I", "F"):
            raise ItemError("unsupported", f"{path.name}: no colours in a picture of mode {image.mode}")
        return np.asarray(image.convert("RGB"))


def read_pages(path: Path) -> list[Array]:
    """The pages of a TIFF or the frames of another picture, each (rows, columns) or (rows, columns, 3)."""
    if _is_tiff(path):
        return _tiff_pages(path)
    with _faults(path), _plain(path) as source, Image.open(source, formats=FORMATS) as image:
        count = int(getattr(image, "n_frames", 1))
        check_size(path, (count, image.height, image.width), _width(image), MAX_PICTURE_BYTES)
        pages = []
        for number in range(count):
            image.seek(number)
            pages.append(_values(image.copy()))
    return pages


def _width(image: Image.Image) -> int:
    """Bytes of a decoded pixel."""
    return len(image.getbands()) * (4 if image.mode in ("I", "F") else 2 if image.mode in SIXTEEN_BITS else 1)


def is_jpeg(path: Path) -> bool:
    """Whether the content is JPEG, whatever the file is called."""
    return _head(path).startswith(b"\xff\xd8\xff")


@contextmanager
def _plain(path: Path) -> Iterator[Path | IO[bytes]]:
    """The file, or a stream of what is packed in it (STARE: `.ppm.gz`); no more is unpacked than a decoder asks for."""
    with path.open("rb") as stream:
        packed = stream.read(2) == nifti.GZIP
    if not packed:
        yield path
        return
    with gzip.GzipFile(path) as unpacked:
        yield cast(IO[bytes], unpacked)


def _head(path: Path) -> bytes:
    return nifti.peek(path, 8)


def _is_tiff(path: Path) -> bool:
    return _head(path)[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _values(image: Image.Image) -> Array:
    """Values of a decoded picture; see `read`."""
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * np.uint8(255)
    if image.mode in GREY_ALPHA:
        return np.asarray(image.getchannel(0))
    if image.mode in ("P", "PA") or image.mode in COLOURED:
        return np.asarray(image.convert("RGB"))
    if image.mode in SIXTEEN_BITS:
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image)


def _equal_channels(array: Array) -> Array | None:
    """The one grey channel (rows, columns) of a grey picture; None for a coloured one."""
    if array.ndim == 2:
        return array
    first = array[..., 0]
    same = np.array_equal(first, array[..., 1]) and np.array_equal(first, array[..., 2])
    return np.ascontiguousarray(first) if same else None


def _tiff_pages(path: Path, limit: int = MAX_PICTURE_BYTES) -> list[Array]:
    with _faults(path), _plain(path) as source, tifffile.TiffFile(source) as file:
        pages = [page for page in _whole(file) if isinstance(page, tifffile.TiffPage)]
        for page in pages:
            width = page.dtype.itemsize if page.dtype else 1
            check_size(path, (len(pages), *page.shape), width, min(limit, MAX_PICTURE_BYTES))
        found = [_tiff_values(path, page) for page in pages]
    return found


def _whole(file: tifffile.TiffFile) -> Iterator[Any]:
    """The pages of a TIFF without reduced copies; pages in a ring are given once."""
    seen: set[int] = set()
    for page in file.pages:
        if page.offset in seen:
            return
        seen.add(page.offset)
        if not getattr(page, "is_reduced", False):
            yield page


def _tiff_values(path: Path, page: tifffile.TiffPage) -> Array:
    """One page, (rows, columns) or (rows, columns, 3): bilevel as 0 and 255, white is high, no alpha."""
    array = np.asarray(page.asarray())
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        return (page.colormap[:, array].transpose(1, 2, 0) >> 8).astype(np.uint8)
    if array.dtype == bool or page.bitspersample == 1:
        array = array.astype(np.uint8) * np.uint8(255)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
        array = np.iinfo(array.dtype).max - array
    if array.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        return array
    if array.ndim != 3 or array.shape[2] > 4:
        raise ItemError("unsupported", f"{path.name}: a TIFF page of shape {array.shape}")
    return np.ascontiguousarray(array[..., :3] if array.shape[2] > 2 else array[..., 0])


def _as_tiff(path: Path, error: ItemError, limit: int = MAX_PICTURE_BYTES) -> Array:
    """The one page of a TIFF that Pillow cannot decode; raises the error that it gave for anything else."""
    if not _is_tiff(path) or error.reason != "unreadable":
        raise error
    pages = _tiff_pages(path, limit)
    if len(pages) != 1:
        raise ItemError("unsupported", f"{path.name}: {len(pages)} pages")
    return pages[0]


def _refuse_pages(path: Path) -> None:
    """A picture of several pages is no single image: none of them may be lost in silence."""
    head = _head(path)
    if not _is_tiff(path) and not head.startswith(b"GIF8"):
        return
    try:
        with _plain(path) as source, Image.open(source, formats=FORMATS) as image:
            frames = int(getattr(image, "n_frames", 1))
        if frames > 1 and _is_tiff(path):
            with _plain(path) as source, tifffile.TiffFile(source) as file:
                frames = sum(1 for _ in _whole(file))
    except Exception:  # the reader proper says what is wrong
        return
    if frames > 1:
        raise ItemError("unsupported", f"{path.name}: {frames} pages or frames in one picture")
