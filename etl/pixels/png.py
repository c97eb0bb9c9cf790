"""8-bit images to PNG bytes, the same bytes on every machine."""

import struct

import deflate
import numpy as np
import numpy.typing as npt

Bytes = bytes | bytearray
LEVEL = 1
COLOR_TYPES = {2: 0, 3: 2}  # array dimensions -> PNG colour type (grey, RGB)


def encode(image: npt.NDArray[np.uint8]) -> bytes:
    """Lossless PNG of a grey (rows, columns) or RGB (rows, columns, 3) image.

    Filter "up" and libdeflate's level 1: several times faster than zlib's usual level 6 at a similar size, and always
    the same bytes for the same pixels, on every processor.
    """
    rows, columns = image.shape[:2]
    flat = np.ascontiguousarray(image).reshape(rows, -1)
    lines = np.empty((rows, flat.shape[1] + 1), np.uint8)
    lines[:, 0] = 2
    lines[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=lines[1:, 1:])
    data = deflate.zlib_compress(lines.data, LEVEL)
    header = struct.pack(">IIBBBBB", columns, rows, 8, COLOR_TYPES[image.ndim], 0, 0, 0)
    return b"".join((b"\x89PNG\r\n\x1a\n", *_chunk(b"IHDR", header), *_chunk(b"IDAT", data), *END))


def _chunk(kind: bytes, data: Bytes) -> tuple[bytes, bytes, Bytes, bytes]:
    check = deflate.crc32(data, deflate.crc32(kind))  # ten times as fast as zlib's
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", check)


END = _chunk(b"IEND", b"")
