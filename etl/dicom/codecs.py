"""Compressed DICOM pixels: imagecodecs as a decoding plugin of pydicom (decision 0005).

pydicom splits the fragments, converts colours and corrects signs; only the codec is called here.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

NAME = "imagecodecs"
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Rec. ITU-T T.81 table B.1, and T.87 for JPEG-LS."""
_JPEG2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
_HTJ2K = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
_JPEGLS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_LOSSLESS = (uid.JPEGLossless, uid.JPEGLosslessSV1)
_SYNTAXES = (*_JPEG2000, *_HTJ2K, *_JPEGLS, *_JPEG_LOSSLESS, uid.JPEGExtended12Bit, uid.RLELossless)
DECODER_DEPENDENCIES = dict.fromkeys(_SYNTAXES, ("imagecodecs",))


def is_available(syntax: str) -> bool:
    """Whether pixels of this transfer syntax are decoded here; pydicom asks."""
    return syntax in DECODER_DEPENDENCIES


def plugin(syntax: str, stored: int) -> str:
    """The name of the one plugin that decodes a transfer syntax; 8-bit JPEG is Pillow's, as for a ``.jpg``.

    One is named, so that what else is installed on a machine does not change a pixel.
    """
    if syntax == uid.JPEGBaseline8Bit or (syntax == uid.JPEGExtended12Bit and stored == 8):
        return "pillow"
    return NAME if syntax in DECODER_DEPENDENCIES else ""


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """The values of one frame, little endian; tells the runner how they are laid out."""
    syntax = runner.transfer_syntax
    if syntax == uid.RLELossless:
        _check_segments(src)  # the codec believes the header, and reads where it says
        width = runner.bits_allocated // 8
        runner.set_option("planar_configuration", 1)
        return bytearray(imagecodecs.dicomrle_decode(src, np.dtype(f"<u{width}")))
    size = frame_size(src)  # a codec believes its stream, and takes memory for it: ask first
    if size != (runner.rows, runner.columns):
        raise ValueError(f"a frame of size {size} (rows, columns) in an image of {runner.rows, runner.columns}")
    array = np.asarray(_decoded(src, syntax))
    if array.shape[:2] != size:
        raise ValueError(f"a frame of {array.shape[:2]}, its stream says {size}")
    if array.ndim == 3:
        runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * array.itemsize)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):  # undone by the codec
        runner.set_option("photometric_interpretation", "RGB")
    return bytearray(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _check_segments(src: bytes) -> None:
    """ValueError unless the header of an RLE frame (PS3.5 G.5) names segments that lie in it, in order."""
    count, *offsets = struct.unpack("<16I", src[:64]) if len(src) >= 64 else (0,)
    starts = [64, *offsets[1:count], len(src)]
    if not 1 <= count <= 15 or offsets[0] != 64 or starts != sorted(starts):
        raise ValueError(f"an RLE frame of {len(src)} bytes whose {count} segments begin at {offsets[:count]}")


def frame_size(src: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 stream declares; None if it has no such header."""
    if src[:4] == b"\xff\x4f\xff\x51":  # SOC, SIZ: Rec. ITU-T T.800 A.5.1
        right, bottom, left, top = struct.unpack(">4I", src[8:24]) if len(src) >= 24 else (0, 0, 0, 0)
        return bottom - top, right - left
    at = 2
    while at + 9 <= len(src) and src[at] == 0xFF:
        marker, length = src[at + 1], int.from_bytes(src[at + 2 : at + 4], "big")
        if marker in _START_OF_FRAME:
            rows, columns = struct.unpack(">2H", src[at + 5 : at + 9])
            return rows, columns
        at += 1 if marker == 0xFF else 2 + length  # bytes FF may fill up before a marker
    return None


def _decoded(src: bytes, syntax: str) -> object:
    if syntax in _JPEG2000:
        return imagecodecs.jpeg2k_decode(src)
    if syntax in _HTJ2K:
        return _decoded_htj2k(src)
    if syntax in _JPEGLS:
        return imagecodecs.jpegls_decode(src)
    if syntax in _JPEG_LOSSLESS:
        return imagecodecs.jpegsof3_decode(src)
    return imagecodecs.jpeg8_decode(src)


def _decoded_htj2k(src: bytes) -> object:
    """imagecodecs drops what OpenJPH says about a damaged stream and gives what it has: that must not pass."""
    faults: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda fault: faults.append(fault.exc_value)
    try:
        array = imagecodecs.htj2k_decode(src)
    finally:
        sys.unraisablehook = hook
    if faults:
        raise ValueError(f"damaged HTJ2K stream ({faults[0]})")
    return array


def _register() -> None:
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if NAME not in decoder._available:
            decoder.add_plugin(NAME, ("etl.dicom.codecs", "decode_frame"))


_register()
