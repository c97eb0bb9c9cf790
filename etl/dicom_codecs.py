"""Compressed DICOM pixels: imagecodecs as a decoding plugin of pydicom (decision 0005).

pydicom splits the fragments, converts colours and corrects signs; only the codec is called here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

NAME = "imagecodecs"
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
        width = runner.bits_allocated // 8
        runner.set_option("planar_configuration", 1)
        return bytearray(imagecodecs.dicomrle_decode(src, np.dtype(f"<u{width}")))
    array = np.asarray(_decoded(src, syntax))
    if array.shape[:2] != (runner.rows, runner.columns):
        raise ValueError(f"a frame of {array.shape[:2]}, the header says {runner.rows, runner.columns}")
    if array.ndim == 3:
        runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * array.itemsize)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):  # undone by the codec
        runner.set_option("photometric_interpretation", "RGB")
    return bytearray(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


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
            decoder.add_plugin(NAME, ("etl.dicom_codecs", "decode_frame"))


_register()
