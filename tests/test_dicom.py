"""DICOM series: values, order, grid, and a true reason where there is no even grid."""

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_writer import AXIAL, LOSSLESS, header, place, series, write
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from etl import formats
from etl.dicom import read as dicom
from etl.errors import ItemError
from etl.pixels.raster import Raster

AFFINE = np.array([[-0.7, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 2.5, -30], [0, 0, 0, 1]])


def phantom(shape: tuple[int, int, int] = (9, 7, 5), dtype: str = "int16", bits: int = 12) -> np.ndarray:
    low = -(1 << (bits - 1)) if dtype.startswith("i") else 0
    return np.random.default_rng(3).integers(low, low + (1 << bits), shape).astype(dtype)


def one(folder: Path) -> Raster:
    images, refused = dicom.find(sorted(folder.iterdir()))
    assert not refused
    assert len(images) == 1
    return images[0].read()


def refusal(folder: Path) -> ItemError:
    images, refused = dicom.find(sorted(folder.iterdir()))
    assert not images
    assert len(refused) == 1
    return refused[0].error


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.keyword)
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_every_lossless_transfer_syntax(tmp_path: Path, syntax: uid.UID, dtype: str) -> None:
    volume = phantom(dtype=dtype)
    series(tmp_path, volume, AFFINE, syntax=syntax, BitsStored=12 if "JPEGLS" not in syntax.keyword else 16)
    raster = one(tmp_path)
    assert raster.array.dtype == dtype
    np.testing.assert_array_equal(raster.array, volume)
    assert raster.affine is not None
    np.testing.assert_allclose(raster.affine, AFFINE, atol=1e-6)
    assert raster.spacing == pytest.approx((0.7, 0.8, 2.5))


@pytest.mark.parametrize(("syntax", "dtype", "top"), [(uid.JPEGBaseline8Bit, "uint8", 255),
                                                      (uid.JPEGExtended12Bit, "uint16", 4095)])
def test_lossy_jpeg(tmp_path: Path, syntax: uid.UID, dtype: str, top: int) -> None:
    ramp = np.linspace(0, top, 32 * 32).reshape(32, 32, 1).astype(dtype)
    series(tmp_path, ramp, AFFINE, syntax=syntax, BitsStored=8 if top == 255 else 12)
    assert np.abs(one(tmp_path).array.astype(int) - ramp.astype(int)).max() <= top / 50


def test_order_comes_from_positions_alone(tmp_path: Path) -> None:
    volume = phantom()
    series(tmp_path, volume, AFFINE, names=["z", "a", "m", "b", "k"], numbers=[3, 3, 9, 1, 7])
    raster = one(tmp_path)
    np.testing.assert_array_equal(raster.array, volume)
    assert raster.scan is not None
    assert [origin.file.name for origin in raster.scan.slices] == ["z", "a", "m", "b", "k"]


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    volume = phantom(dtype="uint16")
    paths = series(tmp_path, volume, AFFINE)
    for k, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = k + 1, -1024 - k
        dataset.save_as(path)
    raster = one(tmp_path)
    assert raster.array.dtype == np.int16
    expected = volume.astype(int) * np.arange(1, 6) - 1024 - np.arange(5)
    np.testing.assert_array_equal(raster.array, expected)
    dataset.RescaleSlope = 0.5
    dataset.save_as(paths[-1])
    raster = one(tmp_path)
    assert raster.array.dtype == np.float64
    np.testing.assert_array_equal(raster.array[..., 4], volume[..., 4] * 0.5 - 1028)


def test_large_unsigned_values_do_not_wrap(tmp_path: Path) -> None:
    volume = np.full((8, 8, 2), 65535, np.uint16)
    series(tmp_path, volume, AFFINE, RescaleSlope=1, RescaleIntercept=-1024)
    assert one(tmp_path).array.max() == 64511


def test_bits_beside_the_value_are_dropped(tmp_path: Path) -> None:
    volume = phantom(dtype="int16")
    overlaid = ((volume.astype(int) & 0x0FFF) | 0x5000).astype(np.int16)
    series(tmp_path, overlaid, AFFINE, BitsStored=12)
    np.testing.assert_array_equal(one(tmp_path).array, volume)


@pytest.mark.parametrize("fault", ["missing", "copied", "doubled", "uneven"])
def test_no_even_grid(tmp_path: Path, fault: str) -> None:
    paths = series(tmp_path, phantom(), AFFINE)
    dataset = pydicom.dcmread(paths[2])
    if fault == "missing":
        paths[2].unlink()
    elif fault == "copied":
        dataset.save_as(tmp_path / "copy.dcm")
    elif fault == "doubled":
        dataset.SOPInstanceUID = "1.2.3.99"
        dataset.save_as(tmp_path / "again.dcm")
    else:
        dataset.ImagePositionPatient[2] += 0.9
        dataset.save_as(paths[2])
    error = refusal(tmp_path)
    assert error.reason == "incomplete_volume"
    assert ".dcm" in error.detail


def test_rounded_positions_are_even_enough(tmp_path: Path) -> None:
    paths = series(tmp_path, phantom(), AFFINE)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient[2] = round(float(dataset.ImagePositionPatient[2]) + 0.012, 1)
        dataset.save_as(path)
    assert one(tmp_path).array.shape == (9, 7, 5)


def test_a_mixed_folder_gives_each_volume(tmp_path: Path) -> None:
    volume = phantom()
    series(tmp_path / "a", volume, AFFINE)
    series(tmp_path / "b", volume + 1, AFFINE, SeriesInstanceUID="1.2.3.5")
    for n, turned in enumerate(((1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1))):  # a localizer in the first series
        write(tmp_path / f"localizer{n}", volume[:, :, 0].T.copy(), place(header(), (0, 0, 0), turned))
    for echo in (1, 2):
        series(tmp_path / f"echo{echo}", volume + 10 * echo, AFFINE, SeriesInstanceUID="1.2.3.6", EchoTime=echo * 10)
    images, refused = dicom.find([p for p in tmp_path.rglob("*") if p.is_file()])
    assert not refused
    found = sorted((image.read() for image in images), key=lambda r: (r.array.shape[2], int(r.array[0, 0, 0])))
    assert [r.array.shape[2] for r in found] == [1, 1, 5, 5, 5, 5]
    for raster, offset in zip(found[2:], (0, 1, 10, 20), strict=True):
        np.testing.assert_array_equal(raster.array, volume + offset)


def test_repeated_acquisitions_are_a_fourth_axis(tmp_path: Path) -> None:
    volume = phantom()
    for time in range(3):
        names = [f"{time}{k}" for k in range(5)]
        series(tmp_path, volume + time, AFFINE, names=names, AcquisitionNumber=3 - time)
    raster = one(tmp_path)
    np.testing.assert_array_equal(raster.array, np.stack([volume + 2, volume + 1, volume], axis=-1))


def test_gantry_tilt_is_a_shear_and_no_voxel_moves(tmp_path: Path) -> None:
    angle = np.radians(18.5)
    volume = phantom((9, 7, 5))
    turned = (1, 0, 0, 0, float(np.cos(angle)), -float(np.sin(angle)))
    for k in range(5):
        write(tmp_path / f"{k}", volume[:, :, k].T.copy(), place(header(number=k), (0, 0, 7.0 * k), turned))
    raster = one(tmp_path)
    np.testing.assert_array_equal(raster.array, volume)
    assert raster.scan is not None
    assert raster.scan.tilt == pytest.approx(18.5, abs=1e-3)
    assert raster.affine is not None
    np.testing.assert_allclose(raster.affine[:3, 2], (0, 0, 7))


def enhanced(path: Path, volume: np.ndarray, order: list[int]) -> Path:
    """Frames in any order; the position of each in its functional group."""
    dataset = header(Modality="MR", SOPClassUID=uid.EnhancedMRImageStorage)
    shared, groups = Dataset(), []
    turned, measures = Dataset(), Dataset()
    turned.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.7], 2.5
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([turned]), Sequence([measures])
    for k in order:
        group, position, scale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-10, -20, -30 + 2.5 * k]
        scale.RescaleSlope, scale.RescaleIntercept = k + 1, 5
        group.PlanePositionSequence, group.PixelValueTransformationSequence = Sequence([position]), Sequence([scale])
        groups.append(group)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return write(path, np.stack([volume[:, :, k].T for k in order]), dataset)


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    volume = phantom(dtype="uint16")
    path = enhanced(tmp_path / "a.dcm", volume, [3, 0, 4, 1, 2])
    raster = formats.read(path)
    np.testing.assert_array_equal(raster.array, volume.astype(int) * np.arange(1, 6) + 5)
    np.testing.assert_allclose(raster.affine, AFFINE * [[1], [1], [1], [1]], atol=1e-9)
    assert raster.scan is not None
    assert [origin.frame for origin in raster.scan.slices] == [1, 3, 4, 0, 2]


@pytest.mark.parametrize(("change", "reason"), [
    ({"Modality": "SEG"}, "unsupported"), ({"Modality": "RTSTRUCT"}, "unsupported"), ({"Rows": 60000}, "unreadable"),
    ({"BitsStored": 40}, "unreadable"), ({"Rows": 0}, "unreadable"), ({"NumberOfFrames": 2**30}, "too_large"),
])  # fmt: skip
def test_what_is_no_image_or_lies(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path = series(tmp_path, phantom((8, 8, 1)), AFFINE)[0]
    dataset = pydicom.dcmread(path)
    for name, value in change.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    with pytest.raises(ItemError) as caught:
        formats.read(path)
    assert caught.value.reason == reason
    assert str(tmp_path) not in caught.value.detail


def test_elements_of_no_known_form(tmp_path: Path) -> None:
    path = series(tmp_path, phantom((8, 8, 1)), AFFINE)[0]
    whole = path.read_bytes()
    assert whole.count(b"\x20\x00\x0e\x00UI") == 1
    path.write_bytes(whole.replace(b"\x20\x00\x0e\x00UI", b"\x20\x00\x0e\x00U\x84"))
    with pytest.raises(ItemError) as caught:
        formats.read(path)
    assert caught.value.reason == "unreadable"


def test_a_damaged_htj2k_stream_is_not_half_an_image(tmp_path: Path) -> None:
    path = series(tmp_path, phantom((64, 64, 1), "uint16"), AFFINE, syntax=uid.HTJ2KLossless)[0]
    dataset = pydicom.dcmread(path)
    data = bytearray(dataset.PixelData)
    data[len(data) // 2 : -60] = bytes(len(data[len(data) // 2 : -60]))
    dataset.PixelData = bytes(data)
    dataset.save_as(path)
    with pytest.raises(ItemError) as caught:
        formats.read(path)
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.JPEGLSLossless, uid.JPEGLosslessSV1],
                         ids=lambda s: s.keyword)
def test_a_stream_larger_than_its_image_is_not_decoded(tmp_path: Path, syntax: uid.UID) -> None:
    path = series(tmp_path, phantom((16, 16, 1), "uint16"), AFFINE, syntax=syntax)[0]
    raw = bytearray(path.read_bytes())
    siz = raw.find(b"\xff\x4f\xff\x51")
    if siz >= 0:
        raw[siz + 8 : siz + 16] = raw[siz + 24 : siz + 32] = struct.pack(">2I", 40000, 40000)
    else:
        frame = max(raw.find(b"\xff\xf7"), raw.find(b"\xff\xc3"))
        raw[frame + 5 : frame + 9] = struct.pack(">2H", 60000, 60000)
    path.write_bytes(bytes(raw))
    with pytest.raises(ItemError, match="in an image of"):
        formats.read(path)


def test_cut_off_files(tmp_path: Path) -> None:
    path = series(tmp_path, phantom((32, 32, 1)), AFFINE)[0]
    whole = path.read_bytes()
    for length in (140, 400, len(whole) - 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ItemError) as caught:
            formats.read(path)
        assert caught.value.reason in ("unreadable", "unsupported")
