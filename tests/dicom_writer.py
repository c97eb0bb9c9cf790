"""Small DICOM files for tests: any transfer syntax, any geometry."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
LOSSLESS = (
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
)  # fmt: skip


def encoded(frame: np.ndarray, syntax: str) -> bytes:
    """One frame as the codestream of a transfer syntax."""
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        return bytes(imagecodecs.ljpeg_encode(frame, bitspersample=8 * frame.itemsize))
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        return bytes(imagecodecs.jpegls_encode(frame))
    if syntax == uid.JPEG2000Lossless:
        return bytes(imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, level=0))
    if syntax == uid.HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(frame, reversible=True))
    if syntax == uid.JPEGExtended12Bit:
        return bytes(imagecodecs.jpeg8_encode(frame, level=98, bitspersample=12))
    stream = BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def header(series: str = "1.2.3.4", number: int | None = 1, **tags: Any) -> Dataset:
    """The elements of any image."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.CTImageStorage, uid.generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", series
    dataset.Modality, dataset.PatientID, dataset.InstanceNumber = "CT", "anonymous", number
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def write(path: Path, frames: np.ndarray, dataset: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> Path:
    """Write frames (rows, columns), (n, rows, columns) or (n, rows, columns, 3) with this header."""
    many = frames if frames.ndim > 2 else frames[None]
    dataset.Rows, dataset.Columns = many.shape[1:3]
    dataset.SamplesPerPixel = 3 if many.ndim == 4 else 1
    if "PhotometricInterpretation" not in dataset:
        dataset.PhotometricInterpretation = "RGB" if many.ndim == 4 else "MONOCHROME2"
    if many.ndim == 4:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * frames.itemsize
    if "BitsStored" not in dataset:
        dataset.BitsStored = dataset.BitsAllocated
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(frames.dtype.kind == "i")
    if len(many) > 1:
        dataset.NumberOfFrames = len(many)
    run_length = syntax == uid.RLELossless  # pydicom's own encoder takes the finished file
    syntax = uid.ExplicitVRLittleEndian if run_length else syntax
    if uid.UID(syntax).is_encapsulated:
        keeps_sign = syntax in (uid.JPEG2000Lossless, uid.HTJ2KLossless)
        plain = [f if keeps_sign else f.view(f"u{f.itemsize}") for f in many]
        dataset.PixelData = encapsulate([encoded(np.ascontiguousarray(f), syntax) for f in plain])
    else:
        order = "<" if uid.UID(syntax).is_little_endian else ">"
        raw = many.astype(many.dtype.newbyteorder(order)).tobytes()
        dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB" if frames.itemsize == 1 or uid.UID(syntax).is_encapsulated else "OW"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.UID(syntax)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    file = FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128)
    if run_length:
        file.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    pydicom.dcmwrite(path, file, enforce_file_format=True)
    return path


def place(dataset: Dataset, position: Sequence[float], orientation: Sequence[float] = AXIAL,
          spacing: Sequence[float] = (0.8, 0.7)) -> Dataset:
    """The dataset with a place in the patient (LPS mm)."""
    dataset.ImagePositionPatient = [round(float(v), 6) for v in position]
    dataset.ImageOrientationPatient = [round(float(v), 9) for v in orientation]
    dataset.PixelSpacing = list(spacing)
    return dataset


def series(folder: Path, volume: np.ndarray, affine: np.ndarray, *, syntax: str = uid.ExplicitVRLittleEndian,
           names: Sequence[str] | None = None, numbers: Sequence[int] | None = None, **tags: Any) -> list[Path]:
    """A series of the array [i, j, k] whose RAS+ ``affine`` is given: rows run along i, columns along j."""
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    sizes = np.linalg.norm(lps[:3, :2], axis=0)
    orientation = [*(lps[:3, 0] / sizes[0]), *(lps[:3, 1] / sizes[1])]
    paths = []
    for k in range(volume.shape[2]):
        dataset = header(number=numbers[k] if numbers else k + 1, **tags)
        place(dataset, (lps @ [0, 0, k, 1])[:3], orientation, (sizes[1], sizes[0]))
        name = names[k] if names else f"{k:03d}.dcm"
        paths.append(write(folder / name, np.ascontiguousarray(volume[:, :, k].T), dataset, syntax))
    return paths
