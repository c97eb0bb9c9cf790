"""Arrays of a miniature to files: the format follows the name, the orientation the grid."""

# mypy: allow-untyped-calls

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from etl.demo.files import stored
from etl.errors import UsageError
from etl.miniature.shapes import Grid

Array = NDArray[Any]

VOLUMES = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
            ".gif": "GIF", ".pgm": "PPM", ".ppm": "PPM"}  # fmt: skip
ARRAYS = (".npy", ".npz", ".mat")
TEXTS = (".json", ".xml", ".csv", ".txt")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def format_of(name: str) -> str:
    """``volume``, ``picture``, ``array``, ``text`` or ``dicom`` (also for a name without a known ending)."""
    lower = name.lower()
    if lower.endswith(VOLUMES):
        return "volume"
    if lower.removesuffix(".gz").endswith(tuple(PICTURES)):
        return "picture"
    if lower.endswith(ARRAYS):
        return "array"
    return "text" if lower.endswith(TEXTS) else "dicom"


def save(path: Path, array: Array, grid: Grid, variable: str | None = None) -> None:
    """Write values on a grid: a volume (i, j, k[, channel]) or frames of a picture (rows, columns, frame[, 3])."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = format_of(path.name)
    if kind == "volume":
        _volume(path, *placed(array, grid))
    elif kind == "picture":
        picture(path, array[:, :, 0])
    elif kind == "array":
        _array(path, array if array.shape[2] > 1 else array[:, :, 0], variable)
    else:
        raise UsageError(f"{path.name}: a miniature has no writer for one file of this format")


def placed(array: Array, grid: Grid) -> tuple[Array, NDArray[np.float64]]:
    """The array in file order and its affine to RAS+ mm."""
    if grid.native:
        turned = np.swapaxes(array, 0, 1)
        flat = turned[:, :, 0] if turned.shape[2] == 1 else turned
        return np.ascontiguousarray(flat), np.diag([-0.5, -0.5, 1.0, 1.0])
    values, affine = stored(array, grid.spacing, grid.codes)
    return values, _turn(grid.turned) @ affine


def _turn(degrees: float) -> NDArray[np.float64]:
    turn = np.eye(4)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
    return turn


def _volume(path: Path, array: Array, affine: NDArray[np.float64]) -> None:
    if path.name.lower().endswith((".nii", ".nii.gz", ".hdr")):
        kind: Any = nib.Nifti1Pair if path.suffix == ".hdr" else nib.Nifti1Image
        nifti = kind(array, affine, dtype=array.dtype)
        nifti.header.set_xyzt_units("mm")
        nib.save(nifti, path)
        return
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(array.T)
    size = image.GetDimension()
    space = min(size, 3)
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:space, :space], axis=0)
    direction = np.eye(size)
    direction[:space, :space] = lps[:space, :space] / spacing
    image.SetSpacing([*spacing.tolist(), *[1.0] * (size - space)])
    image.SetOrigin([*lps[:space, 3].tolist(), *[0.0] * (size - space)])
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=path.suffix != ".mhd")


def picture(path: Path, array: Array) -> None:
    """A 2D image (rows, columns[, 3]); JPEG is written as well as it can be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.lower()
    kind = PICTURES["." + name.removesuffix(".gz").rsplit(".", 1)[1]]
    sink = io.BytesIO()
    if kind == "TIFF":
        import tifffile

        tifffile.imwrite(sink, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    else:
        options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
        Image.fromarray(array).save(sink, kind, **options)
    data = sink.getvalue()
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)


def pages(path: Path, arrays: list[Array]) -> None:
    """A TIFF of several pages, each (rows, columns)."""
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        for array in arrays:
            file.write(array, photometric="minisblack", contiguous=False)


def _array(path: Path, array: Array, variable: str | None) -> None:
    if path.suffix.lower() == ".npy":
        np.save(path, array)
    elif path.suffix.lower() == ".npz":
        arrays: dict[str, Any] = {variable or "arr_0": array}
        np.savez(path, **arrays)
    else:
        import scipy.io

        scipy.io.savemat(path, {variable or "mask": array})
