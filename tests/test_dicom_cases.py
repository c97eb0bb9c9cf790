"""DICOM in a build: a series is one case, equal to the same volume in NIfTI, and its slices are found again."""

import json
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from dicom_writer import header, series, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program import DATA, PROGRAM, write_source

from etl.errors import UsageError
from etl.manifests.load import load_manifests
from etl.manifests.manifest import Manifest
from etl.sources import inventory
from stages import cut
from stages import slice as slicing

REAL = Path(__file__).parent / "real"
LETTER = ["1111", "1000", "1110", "1000", "1000"]  # an F: no flip or turn brings it onto itself


def manifest(folder: Path, slug: str, modality: str, image: str) -> Manifest:
    write_source(folder, slug, modality, image, labels={1: "liver", 2: "spleen"})
    return load_manifests(folder / "manifests")[slug]


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """An image [i, j, k] with a raised F on three faces, and its mask."""
    letter = np.array([[c == "1" for c in row] for row in LETTER])
    mask = np.zeros((22, 18, 14), np.uint8)
    mask[3:8, 2:6, 4:9] = letter[:, :, None]
    mask[12:17, 9, 5:9] = 2 * letter
    mask[14, 11:16, 2:6] = 2 * letter
    noise = np.random.default_rng(5).integers(-100, 100, mask.shape)
    return (noise + 90 * (mask > 0)).astype(np.int16), mask


def pose(order: tuple[int, ...], signs: tuple[int, ...], turn: float) -> np.ndarray:
    """A voxel to RAS+ affine: axes permuted, flipped, turned a little about the left-right axis."""
    linear = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        linear[world, axis] = sign * (0.7, 0.8, 2.5)[axis]
    c, s = np.cos(turn), np.sin(turn)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ linear
    affine[:3, 3] = (12, -7, 30)
    return affine


def sliced(folder: Path, found: Manifest) -> tuple[list[object], list[object]]:
    """PNGs and regions of a source's cases, without the names of the cases' files."""
    cases = inventory.inventory(found, folder / "raw" / found.slug).cases
    params = slicing.SliceParams(min_side=4)
    units = tuple(slicing.units(cases, found, folder / "raw" / found.slug, params))
    batch = slicing.Batch(units, found, folder / "raw" / found.slug, folder / "out" / found.slug, params, 0.0)
    cut.run(batch, {})
    tables = [next(batch.folder.glob(f"*.{kind}.parquet")) for kind in ("images", "regions")]
    images, regions = (pq.read_table(table).to_pylist() for table in tables)
    return images, regions


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations([0, 1, 2]), signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    turn=st.sampled_from([0.0, 0.2]), shuffle=st.permutations(range(14)), modality=st.sampled_from(["ct", "mri"]),
)  # fmt: skip
def test_a_series_gives_the_images_and_boxes_of_its_volume(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], signs: tuple[int, ...], turn: float,
    shuffle: list[int], modality: str,
) -> None:
    folder = tmp_path_factory.mktemp("pose")
    image, mask = phantom()
    affine = pose(tuple(order), signs, turn)
    names = [f"im{shuffle[k]:03d}" for k in range(14)]
    series(folder / "raw" / "dcm" / "images" / "a", image, affine, names=names, numbers=shuffle[::-1], Modality="MR")
    for slug in ("dcm", "nii"):
        (folder / "raw" / slug / "labels").mkdir(parents=True)
        nib.save(nib.Nifti1Image(mask, affine), folder / "raw" / slug / "labels" / "a.nii.gz")
    (folder / "raw" / "nii" / "images").mkdir()
    nib.save(nib.Nifti1Image(image, affine), folder / "raw" / "nii" / "images" / "a.nii.gz")
    series_images, series_regions = sliced(folder, manifest(folder, "dcm", modality, "images/{case}/"))
    images, regions = sliced(folder, manifest(folder, "nii", modality, "images/{case}.nii.gz"))
    assert len(images) > 20
    assert series_images == images
    assert series_regions == regions


def test_files_of_one_case_name_are_a_series_only_if_all_are_dicom(tmp_path: Path) -> None:
    image, mask = phantom()
    root = tmp_path / "raw" / "ct"
    series(root / "images" / "a", image, np.eye(4))
    (root / "labels").mkdir()
    nib.save(nib.Nifti1Image(mask, np.eye(4)), root / "labels" / "a.nii.gz")
    by_files = manifest(tmp_path, "ct", "ct", "images/{case}/*")
    by_folder = manifest(tmp_path, "ct2", "ct", "images/{case}/")
    (case,) = inventory.inventory(by_files, root).cases
    assert len(case.files) == 14
    assert case.image == case.files[0]
    (root / "images" / "a" / "notes.txt").write_text("not an image")
    with pytest.raises(UsageError, match=r"two images have the case name 'a'.*notes\.txt"):
        inventory.inventory(by_files, root)
    found = inventory.inventory(by_folder, root)
    assert (len(found.cases[0].files), found.unexpected) == (14, ["images/a/notes.txt"])


def build(folder: Path, *more: object) -> pd.DataFrame:
    command = [PROGRAM, "build", "--raw", folder / "raw", "--manifests", folder / "manifests", "--label-maps",
               folder / "label_maps", "--out", folder / "out", "--min-side", "4", "--profile", "all", *more]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return pd.concat(pd.read_parquet(p) for p in sorted((folder / "out" / "quarantine").iterdir()))


def test_the_series_that_fits_is_used_and_its_slices_are_located(tmp_path: Path) -> None:
    image, mask = phantom()
    affine = pose((0, 1, 2), (-1, 1, -1), 0.0)
    root = tmp_path / "raw" / "ct"
    files = series(root / "images" / "a", image, affine)
    series(root / "images" / "a" / "thick", image[:, :, ::2], affine @ np.diag([1, 1, 2, 1]), SeriesInstanceUID="1.2.9")
    series(root / "images" / "a" / "gap", image[:, :, [0, 1, 2, 5]], affine, SeriesInstanceUID="1.2.8")
    for path in sorted((root / "images" / "a" / "gap").iterdir())[-1:]:
        path.unlink()
    series(root / "images" / "a" / "two", image[:, :, :2], affine, SeriesInstanceUID="1.2.7")
    write(root / "images" / "a" / "report", image[:, :, 0].T.copy(), header(Modality="SR"))
    (root / "labels").mkdir()
    nib.save(nib.Nifti1Image(mask, affine), root / "labels" / "a.nii.gz")
    manifest(tmp_path, "ct", "ct", "images/{case}/**")
    rows = build(tmp_path)
    unused = rows[rows["stage"] == "decode"]
    assert sorted(unused["reason"]) == ["geometry_mismatch", "shape_mismatch", "shape_mismatch", "unsupported"]
    assert unused["case"].is_unique
    assert "a" not in set(unused["case"])
    shards = pd.read_parquet(tmp_path / "out" / "dataset" / "shards").explode("regions")
    assert set(shards["case"]) == {"a"}
    for axis in ("axial", "sagittal"):
        region = shards[shards["axis"] == axis].iloc[0]
        done = subprocess.run([PROGRAM, "locate", tmp_path / "out", str(region["regions"]["region_id"])],
                              capture_output=True, text=True, check=True)
        place = json.loads(done.stdout)
        low, high = (corner[2] for corner in place["voxel_box"])
        expected = [str(path) for path in files[::-1][low : high + 1]]  # stored from superior to inferior
        assert [item["file"] for item in place["files"]] == expected
        assert place["file"] == expected[0]


@pytest.mark.slow
def test_real_dicom_sources_build(tmp_path: Path) -> None:
    if not (DATA / "TotalSegmentator_tests").exists():
        pytest.skip("no test data here")
    sources = ("totalsegmentator_dicom", "dcmqi_nrrd")
    command = [PROGRAM, "build", "--raw", DATA, "--manifests", REAL / "manifests", "--label-maps", REAL / "label_maps",
               "--out", tmp_path, *(word for source in sources for word in ("--source", source))]
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    images = pd.read_parquet(tmp_path / "dataset" / "shards")
    assert images.groupby("source").size().to_dict() == {"dcmqi_nrrd": 3, "totalsegmentator_dicom": 20}
    mask = nib.as_closest_canonical(nib.load(DATA / "TotalSegmentator_tests" / "example_seg_dicom.nii.gz"))
    labels = np.asanyarray(mask.dataobj)
    for row in images[images["source"] == "totalsegmentator_dicom"].itertuples():
        for region in row.regions:
            if region["raw_label"] == "liver":
                assert region["area"] == (labels[:, :, row.slice_index] == 5).sum()
