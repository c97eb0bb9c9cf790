"""Files to arrays: the format is found by content, so a ``.jpg`` that is a PNG is read as one."""

from pathlib import Path

import numpy as np

from etl.dicom.file import is_dicom
from etl.errors import ItemError
from etl.formats import arrays, nifti, pictures
from etl.isolate import alive
from etl.pixels.raster import MAX_BYTES, STACK_AFFINE, Array, Raster, unreadable

__all__ = ["Raster", "companions", "read", "read_colors", "read_grey", "read_indexed", "read_pages"]

PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM",
            b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # fmt: skip
META_KEYS = (b"ObjectType", b"NDims", b"Comment", b"DimSize", b"ElementDataFile")
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".jpg", ".jpeg",
            ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm", ".pbm", ".pnm", ".npy", ".npz")  # fmt: skip


def sniff(path: Path) -> str:
    """``nifti``, ``dicom``, ``itk``, ``picture`` or a key of ``arrays.READERS``; else ItemError with the cause."""
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise unreadable(path, "no plain file")
    try:
        head = nifti.peek(path)
    except OSError as error:
        raise unreadable(path, error.strerror or error) from error
    if not head:
        empty = path.stat().st_size == 0
        raise unreadable(path, "empty file" if empty else "cut off inside its gzip header")
    if nifti.is_nifti(head):
        return "nifti"
    if is_dicom(head):
        return "dicom"
    if head.startswith(b"NRRD") or head.lstrip().startswith(META_KEYS):
        return "itk"
    if head.startswith(PICTURES) or _is_pnm(head):
        return "picture"
    array = arrays.kind_of(path, head)
    if array is not None:
        return array
    if head.startswith(b"version https://git-lfs"):
        raise unreadable(path, "a Git LFS pointer, not the file itself")
    if path.name.lower().endswith(SUFFIXES):
        raise unreadable(path, "its content is not what its name says, or its header is damaged")
    raise ItemError("unsupported", f"{path.name}: unknown format")


def _is_pnm(head: bytes) -> bool:
    return head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace()


def is_picture(path: Path) -> bool:
    """Whether the file holds a 2D picture without a place in space."""
    return sniff(path) == "picture"


def read(
    path: Path, limit: int = MAX_BYTES, *, variable: str | None = None, integral: float | None = None
) -> Raster:
    """The values of a file; ``limit`` is the largest array in bytes it may declare.

    ``variable`` names the array in a file that holds several (MAT, npz). With ``integral`` the values are labels:
    small integers are enough if none is further than that from one.

    ItemError ``unreadable``, ``unsupported`` or ``too_large`` names the file and the cause.
    """
    alive()
    found = sniff(path)
    try:
        if found == "picture":
            return Raster(pictures.read(path, limit))
        if found == "nifti":
            return nifti.read(path, limit, integral=integral)
        if found in arrays.READERS:
            return _without_geometry(arrays.read(path, found, variable, limit))
        if found == "dicom":
            from etl.dicom import read as dicom  # pydicom takes long to import

            return dicom.read(path, limit)
        from etl.formats import itk  # SimpleITK takes long to import and few sources need it

        return itk.read(path, limit)
    except OSError as error:
        raise unreadable(path, error.strerror or error) from error
    except MemoryError as error:
        raise ItemError("too_large", f"{path.name}: more than this machine's memory") from error


def _without_geometry(array: Array) -> Raster:
    """A 2D array or an 8-bit one of three channels is a picture (rows, columns[, 3]), another 3D or 4D one a stack
    (rows, columns, slices[, t]) of unknown spacing."""
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8):
        return Raster(array)
    if array.ndim not in (3, 4):
        raise ItemError("unsupported", f"an array of {array.ndim} dimensions is no image")
    return Raster(array, STACK_AFFINE.copy())


def read_pages(path: Path) -> list[Array]:
    """The pages of a TIFF or GIF, each (rows, columns) or (rows, columns, 3)."""
    _require_picture(path)
    return pictures.read_pages(path)


def read_indexed(path: Path) -> Array:
    """Label values (rows, columns) of a picture: palette indices, or grey values."""
    _require_picture(path)
    return pictures.read_indexed(path)


def read_grey(path: Path) -> Array:
    """Grey values (rows, columns) of a picture, to compare with a threshold."""
    _require_picture(path)
    return pictures.read_grey(path)


def read_colors(path: Path) -> Array:
    """Colours (rows, columns, 3), uint8, of a picture."""
    _require_picture(path)
    return pictures.read_colors(path)


def _require_picture(path: Path) -> None:
    if not is_picture(path):
        raise ItemError("unsupported", f"{path.name}: not a picture")


def companions(path: Path) -> list[Path]:
    """The other files that hold this one's voxels: ``.raw`` of a ``.mhd``, ``.img`` of a ``.hdr``."""
    found = sniff(path)
    if found in ("picture", "dicom", *arrays.READERS):
        return []
    if found == "nifti":
        sources = [nifti.data_file(path)]
    else:
        from etl.formats import itk

        sources = itk.data_files(path)
    return [source for source in sources if source != path]
