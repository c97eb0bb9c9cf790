"""A DICOM series in five encodings: read directly, through dcm2niix and .nii.gz, and by the codec alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import pydicom
import workloads
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from timing import Row, cpu_of

from etl.dicom import read as dicom

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicom_writer import AXIAL, header, write

SYNTAXES = {"explicit": uid.ExplicitVRLittleEndian, "JPEG 2000": uid.JPEG2000Lossless,
            "JPEG lossless": uid.JPEGLosslessSV1, "JPEG-LS": uid.JPEGLSLossless, "RLE": uid.RLELossless}  # fmt: skip
DECODERS = {uid.JPEG2000Lossless: imagecodecs.jpeg2k_decode, uid.JPEGLosslessSV1: imagecodecs.ljpeg_decode,
            uid.JPEGLSLossless: imagecodecs.jpegls_decode}  # fmt: skip


def make(folder: Path, count: int) -> None:
    """The series in each encoding: 512×512, 12 of 16 bits, file names out of the order of the slices."""
    missing = [name for name in SYNTAXES if len(list((folder / name).glob("*.dcm"))) != count]
    if not missing:
        return
    image, _ = workloads.ct(np.random.default_rng(0), (512, 512, count))
    stored = np.clip(image.astype(np.int32) + 1024, 0, 4095).astype(np.uint16)
    order = np.random.default_rng(1).permutation(count)
    for name in missing:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n, k in enumerate(order.tolist()):
            tags = {"BitsStored": 12, "RescaleSlope": 1, "RescaleIntercept": -1024, "PixelSpacing": [0.75, 0.75],
                    "ImageOrientationPatient": list(AXIAL), "ImagePositionPatient": [0, 0, 3.0 * k],
                    "SliceThickness": 3, "StudyInstanceUID": "1.2.3", "StudyDate": "20200101"}  # fmt: skip
            write(folder / name / f"{n:03d}.dcm", np.ascontiguousarray(stored[:, :, k].T),
                  header("1.2.3.4", k + 1, **tags), SYNTAXES[name])  # fmt: skip


def through_nifti(folder: Path, out: Path) -> None:
    """The series by dcm2niix to .nii.gz, and read back."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    program = Path(sys.executable).resolve().with_name("dcm2niix")
    found = shutil.which("dcm2niix") or next(p for p in (*_beside(), str(program)) if Path(p).exists())
    subprocess.run([found, "-z", "y", "-o", out, "-f", "series", folder], check=True, stdout=subprocess.DEVNULL)
    np.asanyarray(nib.load(out / "series.nii.gz").dataobj)


def _beside() -> list[str]:
    import dcm2niix

    return [str(dcm2niix.bin)]


def by_codec(folder: Path) -> None:
    """Each frame by the codec alone."""
    for path in sorted(folder.glob("*.dcm")):
        dataset = pydicom.dcmread(path)
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax in DECODERS:
            DECODERS[syntax](next(generate_frames(dataset.PixelData, number_of_frames=1)))
        elif syntax == uid.RLELossless:
            get_decoder(syntax).as_array(dataset, raw=True)


def rows(folder: Path, count: int, rounds: int) -> list[Row]:
    """The targets of DICOM."""
    make(folder, count)
    found = []
    for name in SYNTAXES:
        paths = sorted((folder / name).glob("*.dcm"))

        def read(paths: list[Path] = paths) -> np.ndarray:
            images, refused = dicom.find(paths)
            assert len(images) == 1, refused
            return images[0].read().array

        assert read().shape == (512, 512, count)
        ours = [cpu_of(read) for _ in range(2 * rounds)]
        theirs = [cpu_of(lambda n=name: through_nifti(folder / n, folder / "nifti")) for _ in range(rounds)]
        aim = "≥ 20" if name == "explicit" else ""
        found.append(Row(f"DICOM series, {name}, against dcm2niix to .nii.gz and back", aim,
                         [t / min(ours) for t in theirs], "CPU seconds, in turn in one run"))  # fmt: skip
        if name != "explicit":
            codec = [cpu_of(lambda n=name: by_codec(folder / n)) for _ in range(rounds)]
            found.append(Row(f"the same over the codec alone, {name}", "≤ 1.1", [o / min(codec) for o in ours],
                             "CPU seconds; the codec's time holds the reading of the files"))  # fmt: skip
    return found
