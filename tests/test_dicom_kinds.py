"""DICOM SEG, RTSTRUCT and label series: placed by patient coordinates, voxel by voxel as other readers do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program import DATA
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from skimage.measure import points_in_poly

from etl import formats
from etl.dicom import read as dicom
from etl.dicom import rtstruct
from etl.dicom.seg import LABELMAP, SEGMENTATION
from etl.errors import ItemError
from etl.kinds import Grid, Layer, Lost, read_layers
from etl.manifests.manifest import Rule
from etl.pixels import geometry

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (13, 11, 6)  # columns, rows, slices: no multiple of 8 pixels in a frame


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip("no test data here")
    return DATA / name


def oblique() -> np.ndarray:
    """An affine (RAS+ mm) of a series turned about two axes, unequal spacings."""
    a, b = 0.4, -0.25
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array([0.8, 1.1, 2.5])
    affine[:3, 3] = [-31.5, 12.25, 7.0]
    return affine


def phantom(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < 0.3


def read(kind: str, path: Path | Sequence[Path], labels: dict[str, str], grid: Grid, **options: Any) -> list[Any]:
    rule = Rule(image="{case}.dcm", mask="m/{case}", kind=kind, **options)
    paths = [path] if isinstance(path, Path) else path
    return list(read_layers([(rule, p, None) for p in paths], labels, grid))


def voxels(items: Sequence[Any], name: str) -> np.ndarray:
    found = np.zeros(next(item.array.shape for item in items if isinstance(item, Layer)), bool)
    for item in items:
        if isinstance(item, Layer):
            found |= np.isin(item.array, [v for v, raw in item.names.items() if raw == name])
    return found


def lost(items: Sequence[Any]) -> list[tuple[str, str]]:
    return [(item.name, item.reason) for item in items if isinstance(item, Lost)]


def base(sop_class: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[sop_class])
    return dataset


def plane(dataset: Dataset, affine: np.ndarray, k: int, functional: bool = True) -> None:
    """The place of slice k: as functional groups, or as plain attributes."""
    lps = LPS @ affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    place, turn, size = (Dataset(), Dataset(), Dataset()) if functional else (dataset, dataset, dataset)
    place.ImagePositionPatient = (lps @ [0, 0, k, 1])[:3].round(6).tolist()
    turn.ImageOrientationPatient = (lps[:3, :2] / steps[:2]).T.ravel().round(9).tolist()
    size.PixelSpacing = [steps[1], steps[0]]
    if functional:
        dataset.PlanePositionSequence, dataset.PlaneOrientationSequence = [place], [turn]
        dataset.PixelMeasuresSequence = [size]


def seg(path: Path, segments: dict[str, np.ndarray], affine: np.ndarray, order: Sequence[int] = (4, 0, 2, 5, 1, 3),
        kind: str = "BINARY") -> Path:
    """A DICOM SEG of masks [i, j, k] (FRACTIONAL: stored values): frames in a mixed order, empty ones left out."""
    dataset = base(LABELMAP if kind == "LABELMAP" else SEGMENTATION)
    dataset.Modality, dataset.SegmentationType = "SEG", kind
    dataset.Rows, dataset.Columns = SHAPE[1], SHAPE[0]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 1 if kind == "BINARY" else 8
    dataset.HighBit = dataset.BitsAllocated - 1
    if kind == "FRACTIONAL":
        dataset.MaximumFractionalValue, dataset.SegmentationFractionalType = 200, "PROBABILITY"
    dataset.SegmentSequence, dataset.PerFrameFunctionalGroupsSequence, frames = [], [], []
    for number, name in enumerate(segments, 1):
        item = Dataset()
        item.SegmentNumber, item.SegmentLabel = number, name
        dataset.SegmentSequence.append(item)
    for k in order:
        for number, mask in enumerate(segments.values(), 1):
            if mask[:, :, k].any() and (kind != "LABELMAP" or number == 1):
                group, own = Dataset(), Dataset()
                plane(group, affine, k)
                if kind != "LABELMAP":
                    own.ReferencedSegmentNumber = number
                    group.SegmentIdentificationSequence = [own]
                dataset.PerFrameFunctionalGroupsSequence.append(group)
                frames.append(mask[:, :, k].T if kind != "LABELMAP" else sum(
                    n * m[:, :, k].T for n, m in enumerate(segments.values(), 1)))
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    dataset.NumberOfFrames = len(frames)
    flat = np.concatenate([np.asarray(frame).astype(np.uint8).ravel() for frame in frames])
    data = (np.packbits(flat, bitorder="little") if kind == "BINARY" else flat).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("turned", [False, True])
def test_overlapping_segments_in_mixed_sparse_frames(tmp_path: Path, turned: bool) -> None:
    affine = oblique() if turned else LPS @ np.diag([1.0, 2, 3, 1])
    one, two = phantom(1), phantom(2)
    one[:, :, 3] = False
    two[:, :, :2] = False
    path = seg(tmp_path / "s.dcm", {"liver": one, "tumor": two, "": one & two}, affine)
    items = read("dicom_seg", path, {"liver": "Liver", "tumor": "Tumor", "3": "Both"}, Grid("a", SHAPE, affine))
    assert np.array_equal(voxels(items, "Liver"), one)
    assert np.array_equal(voxels(items, "Tumor"), two)
    assert np.array_equal(voxels(items, "Both"), one & two)
    assert not lost(items)


def test_placed_by_coordinates_in_a_flipped_and_swapped_image(tmp_path: Path) -> None:
    affine, mask = oblique(), phantom(3)
    path = seg(tmp_path / "s.dcm", {"liver": mask}, affine)
    turned = np.transpose(mask, (2, 0, 1))[::-1, :, ::-1]
    change = np.zeros((4, 4))
    change[2, 0], change[0, 1], change[1, 2], change[3, 3] = -1, 1, -1, 1
    change[2, 3], change[1, 3] = SHAPE[2] - 1, SHAPE[1] - 1
    items = read("dicom_seg", path, {"liver": "Liver"}, Grid("a", turned.shape, affine @ change))
    assert np.array_equal(voxels(items, "Liver"), turned)


def test_fractional_threshold_and_label_map(tmp_path: Path) -> None:
    affine = oblique()
    values = np.random.default_rng(5).integers(0, 201, SHAPE)
    path = seg(tmp_path / "f.dcm", {"liver": values}, affine, kind="FRACTIONAL")
    grid = Grid("a", SHAPE, affine)
    assert np.array_equal(voxels(read("dicom_seg", path, {"liver": "L"}, grid), "L"), values > 100)
    low = read("dicom_seg", path, {"liver": "L"}, grid, threshold=0.1)
    assert np.array_equal(voxels(low, "L"), values > 20)
    one = phantom(6)
    two = ~one & phantom(7)
    items = read("dicom_seg", seg(tmp_path / "l.dcm", {"a": one, "b": two}, affine, kind="LABELMAP"),
                 {"a": "A", "b": "B"}, grid)  # fmt: skip
    assert np.array_equal(voxels(items, "A"), one)
    assert np.array_equal(voxels(items, "B"), two)


def test_what_lies_outside_the_image_is_reported(tmp_path: Path) -> None:
    affine, mask = oblique(), phantom(8)
    edge = np.zeros(SHAPE, bool)
    edge[3, 4, 5] = True
    path = seg(tmp_path / "s.dcm", {"liver": mask, "edge": edge, "none": mask & False}, affine)
    items = read("dicom_seg", path, {"liver": "Liver"}, Grid("a", (13, 11, 4), affine))
    assert np.array_equal(voxels(items, "Liver"), mask[:, :, :4])
    assert lost(items) == [("Liver", "not_placed"), ("edge", "not_placed"), ("none", "empty_mask")]
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 0] * 50
    with pytest.raises(ItemError, match="not_placed"):
        read("dicom_seg", path, {"liver": "Liver"}, Grid("a", SHAPE, moved))
    for shift in (affine[:3, 0] * 0.3, affine[:3, 2] * 0.4):
        moved = affine.copy()
        moved[:3, 3] += shift
        with pytest.raises(ItemError, match="geometry_mismatch"):
            read("dicom_seg", path, {"liver": "Liver"}, Grid("a", SHAPE, moved))


def test_refused_files(tmp_path: Path) -> None:
    grid = Grid("a", SHAPE, oblique())
    path = seg(tmp_path / "s.dcm", {"liver": phantom()}, oblique())
    whole = path.read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-40])
    (tmp_path / "text.dcm").write_bytes(b"no DICOM")
    for name in ("cut.dcm", "text.dcm"):
        with pytest.raises(ItemError, match="unreadable"):
            read("dicom_seg", tmp_path / name, {"liver": "L"}, grid)
    with pytest.raises(ItemError, match="not an RT Structure Set"):
        read("rtstruct", path, {"liver": "L"}, grid)
    with pytest.raises(ItemError, match="without a place in space"):
        read("dicom_seg", path, {"liver": "L"}, Grid("a.png", (11, 13)))
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    dataset.save_as(path)
    with pytest.raises(ItemError, match="ImagePositionPatient"):
        read("dicom_seg", path, {"liver": "L"}, grid)


def test_label_series_one_file_a_slice_in_any_order(tmp_path: Path) -> None:
    affine = oblique()
    values = np.random.default_rng(9).integers(0, 4, SHAPE)
    paths = []
    for n, k in enumerate((3, 0, 5, 1, 4, 2)):
        dataset = base("1.2.840.10008.5.1.4.1.1.2")
        plane(dataset, affine, k, functional=False)
        dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.BitsStored = SHAPE[1], SHAPE[0], 16, 16
        dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.RescaleSlope, dataset.RescaleIntercept = "2", "0"
        dataset.PixelData = values[:, :, k].T.astype("<u2").tobytes()
        paths.append(tmp_path / f"{n}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    items = read("dicom_label", paths, {"2": "two", "6": "six"}, Grid("a", SHAPE, affine))
    assert np.array_equal(voxels(items, "two"), values == 1)
    assert np.array_equal(voxels(items, "six"), values == 3)
    cut = read("dicom_label", paths, {"2": "two", "6": "six"}, Grid("a", (13, 11, 5), affine))
    assert ("two", "not_placed") in lost(cut)


def structures(path: Path, rois: dict[str, list[tuple[str, np.ndarray]]], affine: np.ndarray) -> Path:
    """An RTSTRUCT of contours (type, points in voxels)."""
    dataset = base(rtstruct.RT_STRUCTURE_SET)
    dataset.Modality, dataset.StructureSetROISequence, dataset.ROIContourSequence = "RTSTRUCT", [], []
    for number, (name, contours) in enumerate(rois.items(), 5):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, drawn.ReferencedROINumber, drawn.ContourSequence = number, name, number, []
        for kind, points in contours:
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
            world = (LPS @ affine @ np.c_[points, np.ones(len(points))].T)[:3].T
            item.ContourData = [f"{v:.4f}" for v in world.ravel()]
            drawn.ContourSequence.append(item)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
    dataset.save_as(path, enforce_file_format=True)
    return path


def rectangle(x0: float, y0: float, x1: float, y1: float, k: float) -> tuple[str, np.ndarray]:
    return "CLOSED_PLANAR", np.array([[x0, y0, k], [x1, y0, k], [x1, y1, k], [x0, y1, k]])


@pytest.mark.parametrize("turned", [False, True])
def test_a_ring_keeps_its_hole_and_parts_stay_apart(tmp_path: Path, turned: bool) -> None:
    affine = oblique() if turned else LPS @ np.diag([1.0, 2, 3, 1])
    ring = [rectangle(1.5, 1.5, 8.5, 8.5, 2), rectangle(3.5, 3.5, 6.5, 6.5, 2), rectangle(4.5, 4.5, 5.5, 5.5, 2),
            rectangle(9.5, 0.5, 11.5, 2.5, 2), rectangle(1.5, 1.5, 8.5, 8.5, 2)]  # fmt: skip
    path = structures(tmp_path / "r.dcm", {"ring": ring, "solid": ring[:1]}, affine)
    items = read("rtstruct", path, {"ring": "Ring", "solid": "Solid"}, Grid("a", SHAPE, affine))
    expected = np.zeros(SHAPE, bool)
    expected[2:9, 2:9, 2] = True
    assert np.array_equal(voxels(items, "Solid"), expected)
    expected[4:7, 4:7, 2] = False
    expected[5, 5, 2] = expected[10:12, 1:3, 2] = True
    assert np.array_equal(voxels(items, "Ring"), expected)
    assert not lost(items)


def test_contours_between_slices_outside_slanted_and_of_other_types(tmp_path: Path) -> None:
    affine = oblique()
    slanted = np.array([[1, 1, 0.0], [9, 1, 3], [9, 9, 3], [1, 9, 0]])
    path = structures(tmp_path / "r.dcm", {
        "near": [rectangle(1.5, 1.5, 3.5, 3.5, 2.4), rectangle(1.5, 1.5, 3.5, 3.5, 3.6)],
        "fine": [rectangle(1.5, 1.5, 6.5, 6.5, 2.0), rectangle(2.5, 2.5, 4.5, 4.5, 2.3)],
        "partly": [rectangle(1.5, 1.5, 3.5, 3.5, 5.4), rectangle(1.5, 1.5, 3.5, 3.5, 5.6)],
        "gone": [rectangle(20, 20, 30, 30, 1)],
        "slanted": [("CLOSED_PLANAR", slanted)],
        "dots": [("POINT", np.array([[1.0, 1, 1]])), ("OPEN_PLANAR", slanted)],
        "nothing": [],
    }, affine)  # fmt: skip
    items = read("rtstruct", path, {"near": "Near", "fine": "Fine", "partly": "Partly"}, Grid("a", SHAPE, affine))
    assert np.argwhere(voxels(items, "Near")).min(axis=0).tolist() == [2, 2, 2]
    assert np.argwhere(voxels(items, "Near")).max(axis=0).tolist() == [3, 3, 4]
    assert voxels(items, "Near").sum() == 8
    assert voxels(items, "Fine").sum() == 25  # two planes of one slice are united, not a ring
    assert np.argwhere(voxels(items, "Partly"))[:, 2].tolist() == [5] * 4
    assert lost(items) == [("Partly", "not_placed"), ("gone", "not_placed"), ("slanted", "empty_mask"),
                           ("slanted", "not_placed"), ("dots", "empty_mask"), ("dots", "unsupported"),
                           ("dots", "unsupported"), ("nothing", "empty_mask")]  # fmt: skip
    with pytest.raises(ItemError, match="not_placed"):
        read("rtstruct", path, {"near": "Near"}, Grid("a", SHAPE, affine + np.eye(4, k=3) * 999))


def test_structures_in_an_image_stored_another_way(tmp_path: Path) -> None:
    """Contours drawn on the series' slices fit the same image with its axes swapped."""
    affine = oblique()
    path = structures(tmp_path / "r.dcm", {"a": [rectangle(1.5, 1.5, 8.5, 6.5, k) for k in (1, 2)]}, affine)
    swapped = affine[:, [2, 0, 1, 3]]
    items = read("rtstruct", path, {"a": "A"}, Grid("a", (SHAPE[2], SHAPE[0], SHAPE[1]), swapped))
    expected = np.zeros(SHAPE, bool)
    expected[2:9, 2:7, 1:3] = True
    assert np.array_equal(voxels(items, "A"), np.transpose(expected, (2, 0, 1)))


@given(st.lists(st.tuples(st.floats(-2, 14), st.floats(-2, 12)), min_size=3, max_size=9), st.booleans())
@settings(max_examples=80, deadline=None)
def test_even_odd_agrees_with_scikit_image(corners: list[tuple[float, float]], closed: bool) -> None:
    ring = np.array(corners) + np.array([0.0123, 0.0377])
    grid = np.stack(np.meshgrid(np.arange(13), np.arange(11), indexing="ij"), -1).reshape(-1, 2)
    expected = points_in_poly(grid, ring).reshape(13, 11)
    found = rtstruct.even_odd([np.vstack([ring, ring[:1]]) if closed else ring], (13, 11))
    edges = np.abs(np.roll(ring, -1, 0) - ring).max(axis=1)
    if edges.min() > 1e-2:
        assert np.array_equal(found, expected)


def nrrd_on(path: Path, grid: Grid) -> np.ndarray:
    """A label volume on the image's stored grid, checked to be the same grid."""
    raster = formats.read(path)
    assert raster.affine is not None
    assert grid.affine is not None
    to, own = geometry.orientation(grid.affine), geometry.orientation(raster.affine)
    turned = geometry.canonical(raster.array, own)
    affine = geometry.canonical_affine(raster.affine, raster.array.shape, own)
    wanted = geometry.canonical_affine(grid.affine, grid.shape, to)
    geometry.require_same_grid(turned.shape, wanted, turned.shape, affine)
    stored = np.zeros(grid.shape, raster.array.dtype)
    geometry.canonical(stored, to)[...] = turned
    return stored


def ct_grid(folder: Path) -> Grid:
    ((image,), _) = dicom.find(sorted((folder / "ct-3slice").glob("*.dcm")))
    raster = image.read()
    return Grid("ct", raster.array.shape, raster.affine)


def test_dcmqi_segmentations_agree_with_their_label_volumes() -> None:
    folder = real("dcmqi") / "data/segmentations"
    grid = ct_grid(folder)
    items = read("dicom_seg", folder / "liver.dcm", {"Liver": "liver"}, grid)
    liver = nrrd_on(folder / "liver_seg.nrrd", grid) == 1
    assert liver.any()
    assert np.array_equal(voxels(items, "liver"), liver)
    names = ["GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE"]
    items = read("dicom_seg", folder / "partial_overlaps.dcm", dict(zip(names, names, strict=True)), grid)
    volumes = [nrrd_on(folder / f"partial_overlaps-{n}.nrrd", grid) for n in (1, 2, 3)]
    for name, (volume, value) in zip(names, OVERLAPS, strict=True):
        expected = volumes[volume] == value
        assert expected.any()
        assert np.array_equal(voxels(items, name), expected), name


def test_dcmqi_segmentations_agree_with_highdicom() -> None:
    highdicom = pytest.importorskip("highdicom")
    folder = real("dcmqi") / "data/segmentations"
    grid = ct_grid(folder)
    for name in ("liver", "partial_overlaps"):
        path = folder / f"{name}.dcm"
        file = highdicom.seg.segread(path)
        for number in file.segment_numbers:
            volume = file.get_volume(segment_numbers=[number], combine_segments=False, rescale_fractional=False)
            label = file.get_segment_description(number).segment_label
            ours = voxels(read("dicom_seg", path, {label: label}, grid), label)
            theirs = np.argwhere(volume.array[..., 0] > 0)
            world = (LPS @ volume.affine @ np.c_[theirs, np.ones(len(theirs))].T)[:3]
            mine = (grid.affine @ np.c_[np.argwhere(ours), np.ones(int(ours.sum()))].T)[:3]
            assert sorted(map(tuple, world.T.round(2))) == sorted(map(tuple, mine.T.round(2)))


def test_dicompyler_body_is_on_the_one_slice_that_is_here() -> None:
    folder = real("dicompyler-core") / "example_data"
    raster = formats.read(folder / "ct.0.dcm")
    grid = Grid("ct", raster.array.shape, raster.affine)
    items = read("rtstruct", folder / "rtss.dcm", {"BODY": "BODY"}, grid)
    body = voxels(items, "BODY")
    assert body[:, :, 0].sum() > 30_000
    assert {name for name, reason in lost(items) if reason == "not_placed"} >= {"BODY", "Heart", "Lt Lung"}
    contours = next(roi for roi in rtstruct.read(folder / "rtss.dcm") if roi.name == "BODY").contours
    top = [(np.linalg.inv(raster.affine) @ np.c_[c, np.ones(len(c))].T)[:2].T for c in contours if c[0, 2] > 168]
    odd = sum(points_in_poly(np.argwhere(np.ones(body.shape[:2])), ring).astype(int) for ring in top) % 2
    assert (odd.reshape(body.shape[:2]) != body[:, :, 0]).sum() <= 5  # centres on an edge


OVERLAPS = [(0, 1), (1, 2), (2, 3), (0, 4), (0, 5)]
"""For each segment the label volume that holds it, and its value there."""
