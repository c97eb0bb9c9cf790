"""The same anatomy, however it is stored, gives the same images and regions."""

from itertools import permutations, product
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.manifests.manifest import Manifest, Rule
from etl.results import committed, open_part, read
from etl.sources.inventory import Case, MaskFile
from stages import slice as slicing

SHAPE = (36, 41, 33)
AFFINE = np.array([[0.8, 0, 0, -14], [0, 0.9, 0, 22], [0, 0, 2.5, -300], [0, 0, 0, 1.0]])
ORIENTATIONS = [(p, f) for p in permutations(range(3)) for f in product((False, True), repeat=3)]
FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
Way = tuple[tuple[int, ...], tuple[bool, ...]]
Volume = npt.NDArray[np.int16]


def letters() -> tuple[Volume, Volume]:
    """A volume whose every side looks different, and an F of label 1 with a block of label 2 in it."""
    rng = np.random.default_rng(5)
    image = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 700 - 300 + rng.integers(0, 40, SHAPE)).astype(np.int16)
    mask = np.zeros(SHAPE, np.int16)
    mask[8:13, 6:30, 4:28] = 1
    mask[13:27, 24:30, 4:28] = 1
    mask[13:21, 14:19, 4:20] = 1
    mask[9:12, 8:20, 6:18] = 2
    return image, mask


def turned(array: Volume, way: Way) -> tuple[Volume, npt.NDArray[np.float64]]:
    """The array as a file of another axis order and direction holds it, with its affine."""
    order, flips = way
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for axis, world in enumerate(order):
        change[world, axis] = -1 if flips[axis] else 1
        change[world, 3] = SHAPE[world] - 1 if flips[axis] else 0
    stored = np.transpose(array, order)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    return np.ascontiguousarray(stored), AFFINE @ change


def write(path: Path, array: Volume, affine: npt.NDArray[np.float64]) -> None:
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, affine), path)
        return
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))


def sliced(image_way: Way, mask_way: Way, image_format: str, mask_format: str) -> list[dict[str, object]]:
    """Every region and encoded slice of the letters, stored in these ways."""
    image, mask = letters()
    manifest = Manifest(slug="letters", modality="ct", labels={"1": "frame", "2": "core"},
                        files=(Rule(image=f"{{case}}{image_format}", mask=f"{{case}}_m{mask_format}",
                                    kind="label_map"),))
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / f"a{image_format}", *turned(image, image_way))
        write(root / f"a_m{mask_format}", *turned(mask, mask_way))
        case = Case("letters", "a", "a", None, f"a{image_format}", (MaskFile(0, f"a_m{mask_format}"),))
        units = slicing.units([case], manifest, root, slicing.SliceParams())
        slicing.run(slicing.Batch(tuple(units), manifest, root, root / "out", slicing.SliceParams(), 0.0))
        (result,) = read([committed(root / "out", 0.0)[units[0].key]])
        assert result.rejected == []
        assert np.allclose(result.images[0]["affine"], AFFINE, atol=1e-4)
        parts = (open_part(result.batch, kind).read() for kind in ("regions", "images"))
        return [row for part in parts for row in part.to_pylist()]


@pytest.fixture(scope="module")
def plain() -> list[dict[str, object]]:
    rows = sliced(ORIENTATIONS[0], ORIENTATIONS[0], ".nii", ".nii")
    assert {r["axis"] for r in rows} == {"axial", "coronal", "sagittal"}
    return rows


@pytest.mark.parametrize("way", ORIENTATIONS)
def test_all_48_orientations_give_the_same_images_and_boxes(way: Way, plain: list[dict[str, object]]) -> None:
    assert sliced(way, way, ".nii", ".nii") == plain


@settings(max_examples=30)
@given(st.sampled_from(ORIENTATIONS), st.sampled_from(ORIENTATIONS), st.sampled_from(FORMATS),
       st.sampled_from(FORMATS))
def test_image_and_mask_may_be_stored_in_different_ways(
    plain: list[dict[str, object]], image_way: Way, mask_way: Way, image_format: str, mask_format: str
) -> None:
    assert sliced(image_way, mask_way, image_format, mask_format) == plain
