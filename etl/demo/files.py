"""File writers of the demo: every format by the plainest way, with no time or host in the bytes."""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from etl.store import write_bytes

Array = NDArray[Any]


def stored(ras: Array, spacing: tuple[float, float, float], codes: str) -> tuple[Array, NDArray[np.float64]]:
    """A RAS+ array (i, j, k[, channel]) turned to axis codes such as `LPS`, and its affine to RAS+ mm.

    The world position of every voxel stays what it was with `diag(spacing)` and the volume's centre at 0.
    """
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-s * (n - 1) / 2 for s, n in zip(spacing, ras.shape, strict=False)]
    positive, negative = "RAS", "LPI"
    order = [positive.index(c) if c in positive else negative.index(c) for c in codes]
    array = np.transpose(ras, [*order, *range(3, ras.ndim)])
    turn = np.zeros((4, 4))
    turn[3, 3] = 1.0
    for axis, (code, world) in enumerate(zip(codes, order, strict=True)):
        turn[world, axis] = 1.0
        if code in negative:
            array = np.flip(array, axis)
            turn[world, axis] = -1.0
            turn[world, 3] = array.shape[axis] - 1
    return np.ascontiguousarray(array), affine @ turn


def nifti(path: Path, ras: Array, spacing: tuple[float, float, float], codes: str) -> None:
    """NIfTI-1, gzipped."""
    array, affine = stored(ras, spacing, codes)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    write_bytes(path, gzip.compress(image.to_bytes(), mtime=0))


def nrrd(path: Path, ras: Array, spacing: tuple[float, float, float], codes: str) -> None:
    """NRRD with attached gzip data, in left-posterior-superior space."""
    array, affine = stored(ras, spacing, codes)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    vector = ["(" + ",".join(f"{x:g}" for x in lps[:3, n]) + ")" for n in range(4)]
    header = [
        "NRRD0004",
        f"type: {'uint8' if array.dtype == np.uint8 else 'int16'}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(str(n) for n in array.shape),
        "space directions: " + " ".join(vector[:3]),
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {vector[3]}",
    ]
    data = gzip.compress(array.tobytes(order="F"), mtime=0)
    write_bytes(path, ("\n".join(header) + "\n\n").encode() + data)


def mha(path: Path, ras: Array, spacing: tuple[float, float, float], codes: str, *, packed: bool = False) -> None:
    """MetaImage with attached data, zlib-packed or plain."""
    array, affine = stored(ras, spacing, codes)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    data = array.tobytes(order="F")
    body = zlib.compress(data) if packed else data
    header = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {packed}",
        *([f"CompressedDataSize = {len(body)}"] if packed else []),
        "TransformMatrix = " + " ".join(f"{x:g}" for x in (lps[:3, :3] / sizes).T.ravel()),
        "Offset = " + " ".join(f"{x:g}" for x in lps[:3, 3]),
        "CenterOfRotation = 0 0 0",
        "ElementSpacing = " + " ".join(f"{x:g}" for x in sizes),
        "DimSize = " + " ".join(str(n) for n in array.shape),
        f"ElementType = {'MET_UCHAR' if array.dtype == np.uint8 else 'MET_SHORT'}",
        "ElementDataFile = LOCAL",
    ]
    write_bytes(path, ("\n".join(header) + "\n").encode() + body)


def picture(path: Path, array: Array, **options: Any) -> None:
    """A 2D image (rows, columns[, 3]); the format follows the suffix."""
    _save(path, Image.fromarray(array), options)


def palette(path: Path, indices: NDArray[np.uint8], colors: list[tuple[int, int, int]]) -> None:
    """A palette PNG: the indices are the values, the colours only for show."""
    image = Image.fromarray(indices).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([c for color in colors for c in color])
    _save(path, image, {})


def pages(path: Path, arrays: list[NDArray[np.uint8]]) -> None:
    """A multi-page TIFF, one 2D array a page."""
    images = [Image.fromarray(a) for a in arrays]
    _save(path, images[0], {"save_all": True, "append_images": images[1:]})


def _save(path: Path, image: Image.Image, options: dict[str, Any]) -> None:
    names = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".bmp": "BMP"}
    sink = io.BytesIO()
    image.save(sink, names[path.suffix], **options)
    write_bytes(path, sink.getvalue())
