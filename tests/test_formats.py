"""Readers: values and affines equal to the reference libraries', and a reason for what cannot be read."""

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from PIL import Image
from program import DATA

from etl import formats
from etl.errors import ItemError


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip("no test data here")
    return DATA / name


def refused(path: Path, **limits: int) -> tuple[str, str]:
    with pytest.raises(ItemError) as caught:
        formats.read(path, **limits)
    assert path.name in caught.value.detail
    assert str(path.parent) not in caught.value.detail
    return caught.value.reason, caught.value.detail


def nifti(path: Path, array: np.ndarray, slope: float = np.nan, inter: float = np.nan) -> Path:
    image = nib.Nifti1Image(array, np.array([[-2, 0, 0, 5], [0, 0, 3, 6], [0, 1, 0, 7], [0, 0, 0, 1.0]]))
    image.header.set_data_dtype(array.dtype)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    return path


VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "hdr"])
def test_nifti_without_scaling_keeps_its_type(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "hdr":
        nib.save(nib.Nifti1Pair(VOXELS, np.diag([2.0, 3, 1, 1])), path)
    else:
        nifti(path, VOXELS)
    raster = formats.read(path)
    assert raster.array.dtype == np.int16
    assert np.array_equal(raster.array, VOXELS)
    assert raster.affine is not None
    assert np.allclose(raster.affine, nib.load(path).affine)
    assert raster.spacing == pytest.approx((2, 1, 3) if suffix != "hdr" else (2, 3, 1))
    assert formats.companions(path) == ([tmp_path / "a.img"] if suffix == "hdr" else [])


def test_nifti_scaled_as_nibabel_does(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    image = nib.Nifti1Image(VOXELS.astype(">i2"), np.eye(4), nib.Nifti1Header(endianness=">"))
    nib.save(image, path)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    order = ">" if raw[:4] == struct.pack(">i", 348) else "<"
    raw[112:120] = struct.pack(f"{order}2f", 0.5, -3)
    path.write_bytes(gzip.compress(bytes(raw)))
    raster = formats.read(path)
    assert raster.array.dtype == np.float32  # the smallest type that has the values
    assert np.array_equal(raster.array, nib.load(path).get_fdata())


def test_a_data_offset_that_is_no_number(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", VOXELS)
    raw = bytearray(path.read_bytes())
    raw[108:112] = struct.pack("<f", float("nan"))
    path.write_bytes(bytes(raw))
    assert refused(path)[0] == "unreadable"


def test_gzip_of_several_members_and_trailing_bytes(tmp_path: Path) -> None:
    raw = nifti(tmp_path / "a.nii", VOXELS).read_bytes()
    path = tmp_path / "a.nii.gz"
    for payload in (gzip.compress(raw[:360]) + gzip.compress(raw[360:]), gzip.compress(raw + bytes(100))):
        path.write_bytes(payload)
        assert np.array_equal(formats.read(path).array, VOXELS)


def test_trailing_axes_of_extent_one_are_dropped(tmp_path: Path) -> None:
    assert formats.read(nifti(tmp_path / "a.nii", VOXELS[..., None, None])).array.shape == (2, 3, 4)
    four = nifti(tmp_path / "b.nii", np.zeros((2, 3, 1, 1, 4), np.uint8))
    assert formats.read(four).array.shape == (2, 3, 1, 4)
    assert formats.read(nifti(tmp_path / "c.nii", np.zeros((2, 3), np.uint8))).array.shape == (2, 3)


def test_damaged_nifti(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    good = nifti(tmp_path / "a.nii.gz", noise).read_bytes()
    path = tmp_path / "bad.nii.gz"
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    for content in (b"", good[:10], good[: len(good) // 2], good[:-4], b"no volume", bytes(flipped)):
        path.write_bytes(content)
        assert refused(path)[0] == "unreadable"
    path.write_bytes(b"")
    assert "empty file" in refused(path)[1]


def test_absurd_dimensions_are_refused_before_decoding(tmp_path: Path) -> None:
    raw = bytearray(nifti(tmp_path / "a.nii", VOXELS).read_bytes())
    path = tmp_path / "big.nii"
    for dims, reason in (((32767,) * 3, "too_large"), ((-5, 3, 4), "unreadable"), ((0, 3, 4), "unreadable")):
        raw[40:48] = struct.pack("<4h", 3, *dims)
        path.write_bytes(raw)
        assert refused(path)[0] == reason
    raw[40:48] = struct.pack("<4h", 3, 1000, 1000, 1000)
    path.write_bytes(gzip.compress(bytes(raw)))
    assert "cannot hold" in refused(path)[1]
    assert refused(tmp_path / "a.nii", limit=10)[0] == "too_large"


@pytest.mark.parametrize("suffix", ["nrrd", "nhdr", "mha", "mhd"])
def test_itk_volume_in_ras(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(VOXELS.T)
    image.SetSpacing((2, 3, 4))
    image.SetOrigin((10, 20, 30))
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(image, path)
    raster = formats.read(path)
    assert np.array_equal(raster.array, VOXELS)
    expected = [[-2, 0, 0, -10], [0, -3, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]]
    assert raster.affine is not None
    assert np.allclose(raster.affine, expected)
    assert raster.spacing == (2, 3, 4)
    assert len(formats.companions(path)) == (suffix in ("nhdr", "mhd"))


@pytest.mark.parametrize("suffix", ["nrrd", "mha", "mhd"])
def test_damaged_itk(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T), path)
    content = tmp_path / "a.raw" if suffix == "mhd" else path
    content.write_bytes(content.read_bytes()[:-20])
    with pytest.raises(ItemError, match="unreadable"):
        formats.read(path)
    content.unlink()
    with pytest.raises(ItemError, match="unreadable"):
        formats.read(path)


def test_itk_vectors_and_data_files_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 3), np.uint8), isVector=True), path)
    assert refused(path)[0] == "unsupported"
    header = "ObjectType = Image\nNDims = 2\nDimSize = 2 2\nElementType = MET_UCHAR\nElementDataFile = {}\n"
    path.write_text(header.format("../b.raw"))
    assert "outside" in refused(path)[1]
    path.write_text(header.replace("2 2", "900000 900000").format("LOCAL"))
    assert refused(path)[0] == "too_large"


PIXELS = np.array([[0, 50, 100], [150, 200, 250]], np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "pgm", "gif"])
def test_grey_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path)
    assert np.array_equal(formats.read(path).array.reshape(2, 3, -1)[..., 0], PIXELS)
    if suffix != "gif":  # a GIF has a palette, and its indices are the labels
        assert np.array_equal(formats.read_indexed(path), PIXELS)
    assert formats.read(path).affine is None


def test_depth_alpha_palette_and_bits(tmp_path: Path) -> None:
    deep, path = PIXELS.astype(np.uint16) * 257, tmp_path / "a.png"
    Image.fromarray(deep).save(path)
    assert formats.read(path).array.dtype == np.uint16
    assert np.array_equal(formats.read(path).array, deep)
    Image.merge("RGBA", [Image.fromarray(PIXELS)] * 3 + [Image.new("L", (3, 2), 7)]).save(path)
    assert np.array_equal(formats.read(path).array, np.dstack([PIXELS] * 3))
    assert np.array_equal(formats.read_indexed(path), PIXELS)
    palette = Image.fromarray(PIXELS // 50).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9, 8, 8, 8])
    palette.save(path)
    assert np.array_equal(formats.read_indexed(path), PIXELS // 50)
    assert formats.read(path).array[0, 1].tolist() == [255, 0, 0]
    assert formats.read_colors(path)[0, 2].tolist() == [0, 255, 0]
    Image.fromarray(PIXELS > 100).save(path)
    assert np.array_equal(formats.read(path).array, (PIXELS > 100) * 255)
    assert np.array_equal(formats.read_indexed(path), PIXELS > 100)
    Image.new("CMYK", (3, 2)).save(tmp_path / "c.jpg")
    assert formats.read(tmp_path / "c.jpg").array.shape == (2, 3, 3)


def test_exif_orientation(tmp_path: Path) -> None:
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)
    assert np.array_equal(formats.read(path).array, np.rot90(PIXELS, -1))


def test_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([PIXELS, PIXELS + 1]), photometric="minisblack")
    assert [page.tolist() for page in formats.read_pages(path)] == [PIXELS.tolist(), (PIXELS + 1).tolist()]
    assert refused(path)[0] == "unsupported"
    tifffile.imwrite(path, PIXELS.astype(np.float64) / 3)
    assert np.allclose(formats.read(path).array, PIXELS / 3)


def test_damaged_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    assert refused(path)[0] == "unreadable"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "LFS" in refused(path)[1]
    unknown = tmp_path / "a.xyz"
    unknown.write_text("hello")
    assert refused(unknown)[0] == "unsupported"
    path.write_bytes(b"P5 90000 90000 255\n")
    assert refused(path)[0] == "too_large"
    assert refused(tmp_path / "none.png")[0] == "unreadable"


@pytest.mark.parametrize("path", sorted(DATA.glob("**/*.nii*"))[:60], ids=lambda path: path.name)
def test_real_nifti_equals_nibabel(path: Path) -> None:
    raster, image = formats.read(path), nib.load(path)
    expected = image.get_fdata()
    assert np.array_equal(raster.array.reshape(expected.shape), expected, equal_nan=True)
    assert raster.affine is not None
    assert np.array_equal(raster.affine, image.affine)


@pytest.mark.parametrize("path", sorted(p for s in ("nrrd", "mha", "mhd") for p in DATA.glob(f"**/*.{s}")), ids=str)
def test_real_itk_equals_simpleitk(path: Path) -> None:
    raster, image = formats.read(path), sitk.ReadImage(str(path))
    assert np.array_equal(raster.array.T, sitk.GetArrayFromImage(image))
    assert raster.affine is not None
    last = [extent - 1 for extent in raster.array.shape]
    point = raster.affine @ [*last, *[0] * (3 - len(last)), 1]
    expected = image.TransformIndexToPhysicalPoint(last)
    assert np.allclose(point[: len(last)], np.array(expected) * [-1, -1, 1][: len(last)])


def test_real_png_named_jpg() -> None:
    assert formats.read(real("EAD2019/imgs/0000600.jpg")).array.shape == (512, 512, 3)


def test_real_one_bit_mask() -> None:
    assert np.unique(formats.read(real("CHASEDB1/Image_01L_1stHO.png")).array).tolist() == [0, 255]
