"""Single DICOM images and cine, and real files: what pydicom gives, or a true reason."""

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_writer import header, write
from PIL import Image
from program import DATA
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, get_decoder
from pydicom.sequence import Sequence

from etl import formats
from etl.dicom import codecs
from etl.dicom import read as dicom
from etl.errors import ItemError
from etl.pixels import geometry, intensity
from etl.pixels.raster import Raster
from stages.convert import convert

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
DCM_QA = {
    "dcm_qa/In/Orientation/ax/axasc35": "dcm_qa/Ref/ax_asc_35sl_6.nii",
    "dcm_qa/In/Orientation/ax/axdesc36": "dcm_qa/Ref/ax_desc_36sl_10.nii",
    "dcm_qa/In/Orientation/cor/corasc36": "dcm_qa/Ref/cor_asc_36sl_13.nii",
    "dcm_qa/In/Orientation/sag/sagint35": "dcm_qa/Ref/sag_int_35sl_24.nii",
    "dcm_qa/In/Orientation/axmb/AxInt36mb": "dcm_qa/Ref/fMRI_MB_int_26.nii",
    "dcm_qa/In/TotalReadoutTime": "dcm_qa/Ref/noPF_noPAT_noPOS_PEres100_ES0p59_BW2222_AP_8.nii",
    "dcm_qa_enh/In": "dcm_qa_enh/Ref/Siemens_REST1_w_SMS_PF7-8_6.nii",
}


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip("no test data here")
    return DATA / name


def canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    to = geometry.orientation(affine)
    return geometry.canonical(array, to), geometry.canonical_affine(affine, array.shape, to)


def dicom_files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and formats.sniff(p) == "dicom"]


@pytest.mark.parametrize(("folder", "reference"), DCM_QA.items())
def test_series_equal_what_dcm2niix_gives(folder: str, reference: str) -> None:
    images, refused = dicom.find(dicom_files(real(folder)))
    assert not refused
    assert len(images) == 1
    raster = images[0].read()
    assert raster.affine is not None
    image = nib.load(real(reference))
    ours, theirs = canonical(raster.array, raster.affine), canonical(np.asanyarray(image.dataobj), image.affine)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-3)


def test_uneven_slices_are_refused_and_tilted_ones_kept() -> None:
    paths = dicom_files(real("dcm_qa_ct/In/GE"))
    images, refused = dicom.find(paths)
    assert not images
    assert [item.error.reason for item in refused] == ["incomplete_volume"]
    images, refused = dicom.find(paths[2:])  # the evenly spaced part
    assert not refused
    raster = images[0].read()
    assert raster.scan is not None
    assert raster.scan.tilt == pytest.approx(18.5, abs=0.01)
    for k, origin in enumerate(raster.scan.slices):
        np.testing.assert_array_equal(raster.array[:, :, k].T, pydicom.dcmread(origin.file).pixel_array)


def expected(path: Path) -> np.ndarray:
    """What pydicom makes of a file's pixels, (frames, rows, columns[, 3]): after the modality LUT, colours in 8 bit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        if not getattr(dataset, "file_meta", None) or "TransferSyntaxUID" not in dataset.file_meta:
            implicit, little = dataset.original_encoding
            dataset.file_meta = getattr(dataset, "file_meta", None) or pydicom.dataset.FileMetaDataset()
            plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
            dataset.file_meta.TransferSyntaxUID = plain if little else uid.ExplicitVRBigEndian
        array, _ = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            array = apply_color_lut(array, dataset)
            array = array >> 8 if array.dtype == np.uint16 else array
        elif dataset.SamplesPerPixel == 3:
            array = array >> max(0, dataset.BitsStored - 8)
        elif "PerFrameFunctionalGroupsSequence" in dataset:
            shared = dataset.SharedFunctionalGroupsSequence[0]
            scales = [(own if "PixelValueTransformationSequence" in own else shared).PixelValueTransformationSequence[0]
                      for own in dataset.PerFrameFunctionalGroupsSequence]
            array = np.stack([apply_modality_lut(a, scale) for a, scale in zip(array, scales, strict=True)])
        else:
            array = apply_modality_lut(array, dataset)
    return array if int(dataset.get("NumberOfFrames") or 1) > 1 else array[None]


def frames(raster: Raster) -> np.ndarray:
    if raster.affine is not None:
        return np.moveaxis(raster.array, 2, 0).swapaxes(1, 2)
    assert raster.scan is not None
    return raster.array if raster.scan.cine else raster.array[None]


def attempt(path: Path) -> tuple[Raster | None, ItemError | None]:
    try:
        return formats.read(path), None
    except ItemError as error:
        return None, error


def agree(path: Path) -> None:
    """The file reads as pydicom reads it, or it is refused where pydicom cannot read it or it is no image."""
    raster, refused = attempt(path)
    if raster is None:
        assert refused is not None
        no_image = any(word in refused.detail for word in ("DICOM object", "unknown format", "volumes in one file"))
        assert no_image if refused.reason == "unsupported" else refused.reason == "unreadable"
        if refused.reason == "unreadable":
            with pytest.raises(Exception):  # noqa: B017, PT011
                expected(path)
        return
    ours, theirs = frames(raster), expected(path)
    assert raster.scan is not None
    order = np.argsort([origin.frame for origin in raster.scan.slices])
    np.testing.assert_array_equal(ours[order], theirs)


def let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are compared also where the file would be set aside for text in them."""
    monkeypatch.setattr(dicom, "identifying", lambda *_: None)
    monkeypatch.setattr(dicom, "text_outside", lambda *_: None)


def test_files_decode_as_pydicom_decodes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = dicom_files(real("pydicom-data"))
    assert len(paths) == 7
    for path in paths:
        if path.name == "gdcm-US-ALOKA-16.dcm":  # shows the hospital's texts around the scan
            with pytest.raises(ItemError, match="identifying"):
                formats.read(path)
        else:
            formats.read(path)
    let_through(monkeypatch)
    for path in paths:
        agree(path)


@pytest.mark.parametrize("path", [p for p in sorted(BUNDLED.glob("*")) if p.is_file()], ids=lambda p: p.name)
def test_bundled_files_decode_as_pydicom_decodes_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_through(monkeypatch)
    agree(path)


def picture(tmp_path: Path, array: np.ndarray, **tags: object) -> Raster:
    return formats.read(write(tmp_path / "a.dcm", array, header(**{"Modality": "DX", **tags})))


def shown(raster: Raster) -> np.ndarray:
    assert raster.scan is not None
    return intensity.to_grey(raster.array, raster.scan.window or raster.scan.curve, invert=raster.scan.invert)


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_monochrome1_is_bright_where_values_are_low(tmp_path: Path) -> None:
    tags = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    plain = shown(picture(tmp_path, RAMP, **tags))
    turned = shown(picture(tmp_path, RAMP, PhotometricInterpretation="MONOCHROME1", **tags))
    np.testing.assert_array_equal(turned, 255 - plain)
    assert turned[0, 0] == 255


def test_imager_spacing(tmp_path: Path) -> None:
    assert picture(tmp_path, RAMP, ImagerPixelSpacing=[0.2, 0.1]).spacing == (0.2, 0.1)


def test_sigmoid_and_voi_lut(tmp_path: Path) -> None:
    raster = picture(tmp_path, RAMP, WindowCenter=2000, WindowWidth=800, VOILUTFunction="SIGMOID", BitsStored=12)
    np.testing.assert_array_equal(shown(raster), np.rint(255 / (1 + np.exp(-4 * (RAMP - 2000.0) / 800))))
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [256, 1000, 8], np.arange(256, dtype="<u2")[::-1].tobytes()
    lut["LUTData"].VR = "OW"
    raster = picture(tmp_path, RAMP, VOILUTSequence=Sequence([lut]), BitsStored=12)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    np.testing.assert_array_equal(shown(raster), apply_voi_lut(RAMP, dataset))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless, uid.RLELossless])
def test_cine_of_colours_becomes_one_png_a_frame(tmp_path: Path, syntax: uid.UID) -> None:
    cine = np.random.default_rng(1).integers(0, 256, (3, 20, 24, 3), np.uint8)
    write(tmp_path / "in" / "us", cine, header(Modality="US"), syntax)
    (report,) = convert(tmp_path / "in", tmp_path / "out")
    assert (report["kind"], report["shape"], report["inputs"]) == ("frames", [3, 20, 24, 3], ["us"])
    for n in range(3):
        png = Image.open(tmp_path / "out" / report["output"] / f"{n:04d}.png")
        np.testing.assert_array_equal(np.asarray(png), cine[n])


@pytest.mark.parametrize("words", [
    (0, 64), (16, 64), (2**32 - 1, 64),  # as many segments as no frame has
    (3, 64, 400, 8389346), (3, 64, 2**32 - 1, 900),  # beyond the frame
    (2, 128, 700), (3, 64, 900, 400),  # not after the header; backwards
    (),  # less than a header
])  # fmt: skip
def test_a_damaged_header_of_rle_reaches_no_codec(words: tuple[int, ...]) -> None:
    frame = np.array([*words, *[0] * (16 - len(words))], "<u4").tobytes() + bytes(1000)
    with pytest.raises(ValueError, match="an RLE frame of"):
        codecs._check_segments(frame if words else frame[:63])
    codecs._check_segments(np.array([3, 64, 400, 900, *[0] * 12], "<u4").tobytes() + bytes(1000))


def test_decode_joins_series_and_names_each(tmp_path: Path) -> None:
    folder = real("dcm_qa/In/Orientation/ax")
    reports = list(convert(folder, tmp_path))
    volumes = [r for r in reports if r["inputs"] and r["inputs"][0].startswith("axasc35/MR")]
    assert len(volumes) == 1
    assert len(volumes[0]["inputs"]) == 2
    image = nib.load(tmp_path / volumes[0]["output"])
    reference = nib.as_closest_canonical(nib.load(DATA / DCM_QA["dcm_qa/In/Orientation/ax/axasc35"]))
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), np.asanyarray(reference.dataobj))
    assert sorted(r["kind"] for r in reports) == ["volume"] * 3  # two series, and the NIfTI that lies among them
