"""DICOM files of a miniature: an axial series of a volume, or one picture a file."""

# mypy: allow-untyped-calls

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.miniature.shapes import Grid

Array = NDArray[Any]
CLASSES = {"ct": ("1.2.840.10008.5.1.4.1.1.2", "CT"), "mri": ("1.2.840.10008.5.1.4.1.1.4", "MR"),
           "ultrasound": ("1.2.840.10008.5.1.4.1.1.6.1", "US")}  # fmt: skip
RADIOGRAPH = ("1.2.840.10008.5.1.4.1.1.1", "CR")


def uid(text: str) -> str:
    """A UID that depends on the text only."""
    return f"2.25.{zlib.crc32(text.encode())}{zlib.adler32(text.encode())}"


def series(
    paths: Sequence[Path], array: Array, grid: Grid, modality: str, name: str, *,
    backward: bool = False, mask: bool = False,
) -> None:
    """One file a slice: volume slices from foot to head, or the frames of a picture.

    Instance Numbers count in the order of the files, or against it when `backward`. A `mask` has no rescale.
    """
    for number, path in enumerate(paths):
        plane = array[:, :, number] if grid.native else array[::-1, ::-1, number].T
        data = header(name, modality, len(paths) - 1 - number if backward else number)
        if modality == "ct" and not mask:
            data.RescaleIntercept, data.RescaleSlope = -1024, 1
            plane = (plane.astype(np.int32) + 1024).astype(plane.dtype)
        if not grid.native:
            data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            data.ImagePositionPatient = position(grid, number)
            data.PixelSpacing = [grid.spacing[1], grid.spacing[0]]
            data.SliceThickness = grid.spacing[2]
        _write(path, np.ascontiguousarray(plane), data)


def position(grid: Grid, number: int) -> list[float]:
    """Where the first pixel of slice `number` lies, in LPS mm: the volume's centre is at 0, as in its other files."""
    i, j, k = grid.spacing
    return [-i * (grid.shape[0] - 1) / 2, -j * (grid.shape[1] - 1) / 2, k * (number - (grid.shape[2] - 1) / 2)]


def header(name: str, modality: str, number: int) -> Any:
    """A data set with the identity of one image of a study; no person is in it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    sop, kind = CLASSES.get(modality, RADIOGRAPH)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(sop)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID(f"{uid(name)}.{number + 1}")
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{uid(name)}.0.1", f"{uid(name)}.0.2"
    data.FrameOfReferenceUID = f"{uid(name)}.0.3"
    data.PatientName, data.PatientID, data.StudyDate = "", "", ""
    data.Modality, data.SeriesNumber, data.InstanceNumber = kind, 1, number + 1
    return data


def _write(path: Path, plane: Array, data: Any) -> None:
    data.Rows, data.Columns = plane.shape[:2]
    data.SamplesPerPixel = 3 if plane.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if plane.ndim == 3 else "MONOCHROME2"
    if plane.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * plane.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(plane.dtype.kind == "i")
    data.PixelData = plane.tobytes()
    data["PixelData"].VR = "OW" if plane.dtype.itemsize > 1 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
