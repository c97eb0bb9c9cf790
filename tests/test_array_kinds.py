"""Arrays (MAT, npy, npz), bit fields, stacks of 2D masks, and segmentations of several layers."""

import gzip
import tempfile
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import io, sparse

from etl import formats
from etl.errors import ItemError
from etl.formats import arrays
from etl.kinds import Grid, Layer, read_layers
from etl.manifests.manifest import Rule
from etl.pixels.raster import STACK_AFFINE, Origin

VALUES = np.array([[0, 1, 2], [3, 0, 1]], np.uint8)
GRID = Grid("a.png", VALUES.shape)
BITS = Path(tempfile.mkdtemp()) / "bits.npy"


def read(kind: str, paths: Path | list[Path], labels: dict[str, str], grid: Grid = GRID, **options: Any) -> Any:
    rule = Rule(image="{case}.png", mask="m/{case}", kind=kind, **options)
    return read_layers([(rule, p, None) for p in ([paths] if isinstance(paths, Path) else paths)], labels, grid)


def pixels(layers: Any, name: str) -> np.ndarray:
    found = np.zeros(layers[0].array.shape, bool)
    for layer in layers:
        found |= np.isin(layer.array, [v for v, raw in layer.names.items() if raw == name])
    return found


def undefined(layers: list[Layer]) -> list[str]:
    return sorted(text for layer in layers for text in layer.undefined.values())


def hdf5(path: Path, **values: np.ndarray) -> Path:
    """A MAT file of v7.3: HDF5 behind a header of 512 bytes, axes in reverse order."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in values.items():
            file["/".join(name.split("__"))] = np.asarray(value).T
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .".ljust(126) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "mat", "hdf5", "nested", "hdf5 nested"])
def test_values_in_each_format(tmp_path: Path, kind: str) -> None:
    path, variable = tmp_path / f"a.{kind[:3] if kind != 'hdf5' else 'mat'}", None
    if kind == "npy":
        np.save(path, VALUES.astype(float))
    elif kind == "npz":
        np.savez_compressed(path, image=VALUES * 9, seg=VALUES[..., None])
        variable = "seg"
    elif kind == "mat":
        io.savemat(path, {"seg": VALUES})
    elif kind == "nested":
        path, variable = tmp_path / "a.mat", "data.mask"
        io.savemat(path, {"data": {"mask": VALUES, "age": 3}, "x": VALUES})
    else:
        path, variable = hdf5(tmp_path / "a.mat", **{"data__mask": VALUES, "x": VALUES * 2}), "data.mask"
        if kind == "hdf5":
            path, variable = hdf5(tmp_path / "b.mat", seg=VALUES), None
    layers = read("npy", path, {"1": "one", "2": "two"}, variable=variable)
    assert pixels(layers, "one").tolist() == (VALUES == 1).tolist()
    assert pixels(layers, "two").tolist() == (VALUES == 2).tolist()
    assert 3 in layers[0].array


def test_variables_are_named_in_the_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=VALUES, seg=VALUES)
    with pytest.raises(ItemError, match=r"variable: ….*image, seg"):
        read("npy", tmp_path / "a.npz", {"1": "one"})
    with pytest.raises(ItemError, match="no variable 'mask'; it has image, seg"):
        read("npy", tmp_path / "a.npz", {"1": "one"}, variable="mask")
    io.savemat(tmp_path / "a.mat", {"s": {"x": VALUES}})
    with pytest.raises(ItemError, match="no field 'y'; it has x"):
        read("mat", tmp_path / "a.mat", {"1": "one"}, variable="s.y")


def test_pickles_links_and_bombs_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", np.array([{"a": 1}], object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ItemError, match=r"unsupported: .*pickled"):
            formats.read(tmp_path / name)
    with h5py.File(tmp_path / "b.h5", "w") as other:
        other["x"] = VALUES
    path = hdf5(tmp_path / "b.mat", y=VALUES)
    with h5py.File(path, "r+") as file:
        file["out"] = h5py.ExternalLink("b.h5", "x")
    with pytest.raises(ItemError, match="inside the file"):
        arrays.read(path, "hdf5", "out")
    with (tmp_path / "big.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    with pytest.raises(ItemError, match="too_large"):
        formats.read(tmp_path / "big.npy")
    sparse.save_npz(tmp_path / "big.npz", sparse.csr_matrix((10**7, 10**6), dtype=np.uint8))
    with pytest.raises(ItemError, match="too_large"):
        formats.read(tmp_path / "big.npz")


@pytest.mark.parametrize("cut", [1, 20, 90, 130])
def test_damaged_files_are_unreadable(tmp_path: Path, cut: int) -> None:
    np.savez(tmp_path / "a.npz", seg=VALUES)
    np.save(tmp_path / "a.npy", VALUES)
    io.savemat(tmp_path / "a.mat", {"seg": VALUES})
    hdf5(tmp_path / "b.mat", seg=VALUES)
    for name in ("a.npz", "a.npy", "a.mat", "b.mat"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ItemError):
            formats.read(path)


def test_one_mask_a_channel(tmp_path: Path) -> None:
    masks = np.stack([VALUES == 1, VALUES > 0, VALUES == 3, VALUES < 0])
    np.save(tmp_path / "first.npy", masks)
    np.save(tmp_path / "last.npy", np.moveaxis(masks, 0, -1).astype(float))
    sparse.save_npz(tmp_path / "rows.npz", sparse.csr_matrix(masks.reshape(4, -1).astype(np.int32)))
    for name in ("first.npy", "last.npy", "rows.npz"):
        layers = read("npy", tmp_path / name, {"0": "one", "1": "any", "3": "none"})
        assert pixels(layers, "one").tolist() == (VALUES == 1).tolist()
        assert pixels(layers, "any").tolist() == (VALUES > 0).tolist()
        assert undefined(layers) == ["channel 2"]


def test_arrays_are_images_too(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", VALUES.astype(np.int16))
    np.save(tmp_path / "color.npy", np.zeros((4, 5, 3), np.uint8))
    np.save(tmp_path / "stack.npy", np.zeros((4, 5, 3), np.int16))
    np.savez(tmp_path / "both.npz", image=VALUES, mask=VALUES > 0)
    assert formats.read(tmp_path / "grey.npy").array.tolist() == VALUES.tolist()
    assert formats.read(tmp_path / "color.npy").affine is None
    stack = formats.read(tmp_path / "stack.npy")
    assert np.array_equal(stack.affine, STACK_AFFINE)
    assert stack.spacing is None
    assert formats.read(tmp_path / "both.npz", variable="mask").array.max() == 255


def test_an_array_on_a_volume_has_the_volume_s_grid(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2, 3, 1])
    np.save(tmp_path / "a.npy", np.ones((4, 3, 2), np.uint8))
    (layer,) = read("npy", tmp_path / "a.npy", {"1": "x"}, Grid("a.nii", (4, 3, 2), affine))
    assert np.array_equal(layer.affine, affine)


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=6, max_size=6))
def test_bits(values: list[int]) -> None:
    array = np.array(values, np.int16).reshape(2, 3)
    path = BITS
    np.save(path, array)
    layers = read("bitfield", path, {"0": "a", "3-5": "b", "15": "sign", "20": "never"})
    if not layers:
        assert not array.any()
        return
    assert np.array_equal(pixels(layers, "a"), array & 1 != 0)
    assert np.array_equal(pixels(layers, "b"), array & 0b111000 != 0)
    assert np.array_equal(pixels(layers, "sign"), array < 0)
    rest = [bit for bit in (1, 2, *range(6, 15)) if (array & 1 << bit).any()]
    assert undefined(layers) == sorted(f"bit {bit}" for bit in rest)


def stack(tmp_path: Path, count: int) -> tuple[list[Path], np.ndarray]:
    """Masks of (3 rows, 4 columns) whose first pixel in slice order is k + 1; file names do not sort as text."""
    planes = np.zeros((4, 3, count), np.uint8)
    paths = []
    for k in range(count):
        planes[0, 0, k], planes[3, 1, k] = k + 1, 9
        paths.append(tmp_path / f"m{k + 8}.png")
        Image.fromarray(planes[:, :, k].T).save(paths[-1])
    return paths[::-1], planes


def test_stacks_of_masks(tmp_path: Path) -> None:
    paths, planes = stack(tmp_path, 5)
    origins = tuple(Origin(Path(f"s{n}.dcm"), 0, None, number) for n, number in zip((3, 20, 1, 4, 5), (5, 1, 4, 2, 3),
                                                                                strict=True))  # fmt: skip
    grid = Grid("a", planes.shape, np.diag([1.0, 1, 2, 1]), origins)

    def order(name: str) -> list[int]:
        (layer,) = read("image_stack", paths, {"1-8": "x", "9": "y"}, grid, order=name)
        assert (layer.array[3, 1] == 9).all()
        return [int(v) for v in layer.array[0, 0]]

    assert order("position") == [1, 2, 3, 4, 5]
    assert order("reversed") == [5, 4, 3, 2, 1]
    assert order("filename") == [2, 5, 1, 3, 4]
    assert order("instance_number") == [5, 1, 4, 2, 3]


def test_stacks_that_do_not_fit(tmp_path: Path) -> None:
    paths, planes = stack(tmp_path, 3)
    affine = np.diag([1.0, 1, 2, 1])
    for grid, order, message in (
        (Grid("a", (4, 3, 4), affine), "position", "3 masks for 4 slices"),
        (Grid("a", (3, 4, 3), affine), "position", "shape_mismatch"),
        (Grid("a", planes.shape, affine), "filename", "one file a slice"),
        (Grid("a", (3, 4)), "position", "for volumes"),
    ):
        with pytest.raises(ItemError, match=message):
            read("image_stack", paths, {"1": "x"}, grid, order=order)


def seg_nrrd(path: Path, layers: np.ndarray, segments: list[tuple[str, int, int]]) -> Path:
    """A `.seg.nrrd` of 3D Slicer: array (layer, i, j, k), segments as (name, layer, value)."""
    head = ["NRRD0004", "type: unsigned char", "dimension: 4", "space: left-posterior-superior",
            "sizes: " + " ".join(map(str, layers.shape)), "space directions: none (1,0,0) (0,2,0) (0,0,3)",
            "kinds: list domain domain domain", "encoding: gzip", "space origin: (5,6,7)"]  # fmt: skip
    for n, (name, layer, value) in enumerate(segments):
        head += [f"Segment{n}_Name:={name}", f"Segment{n}_LabelValue:={value}", f"Segment{n}_Layer:={layer}"]
    path.write_bytes("\n".join([*head, "", ""]).encode() + gzip.compress(layers.astype(np.uint8).tobytes("F")))
    return path


def test_segments_of_several_layers_overlap(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    layers = random.integers(0, 3, (2, 4, 5, 6))
    segments = [("liver", 0, 1), ("spleen", 0, 2), ("tumor", 1, 1), ("odd", 1, 2)]
    path = seg_nrrd(tmp_path / "a.seg.nrrd", layers, segments)
    found = read("label_map", path, {"liver": "Liver", "spleen": "Spleen", "tumor": "Tumor"})
    for name, (_, layer, value) in zip(("Liver", "Spleen", "Tumor"), segments, strict=False):
        assert np.array_equal(pixels(found, name), layers[layer] == value)
    assert undefined(found) == ["odd"]
    assert found[0].affine.tolist() == [[-1, 0, 0, -5], [0, -2, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]]
    with pytest.raises(ItemError, match="write their names"):
        read("label_map", path, {"1": "Liver"})
    path = seg_nrrd(tmp_path / "b.seg.nrrd", layers * [[[[1]]], [[[3]]]], [("a", 0, 1), ("b", 0, 2), ("c", 1, 3)])
    found = read("label_map", path, {"1": "A", "3": "C"})
    assert np.array_equal(pixels(found, "C"), layers[1] == 1)
    assert np.array_equal(pixels(found, "A"), layers[0] == 1)


def test_a_volume_of_two_dimensions_and_time_reads_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6, 2), np.uint8), np.eye(4)), path)
    (layer,) = read("label_map", path, {"1": "x"}, Grid("i.nii.gz", (4, 5, 6, 2), np.eye(4)))
    assert layer.array.shape == (4, 5, 6, 2)


def test_planes_of_an_array_over_a_series_go_by_order(tmp_path: Path) -> None:
    planes = np.zeros((4, 3, 3), np.uint8)  # columns, rows, slices
    planes[0, 0], planes[3, 1] = (1, 2, 3), 9
    origins = tuple(Origin(Path(f"s{n}.dcm")) for n in (3, 20, 1))
    grid = Grid("a", planes.shape, np.diag([1.0, 1, 2, 1]), origins)
    for array in (planes.transpose(1, 0, 2), planes.transpose(2, 1, 0)):
        io.savemat(tmp_path / "a.mat", {"Mask": array})
        for order, expected in (("position", [1, 2, 3]), ("reversed", [3, 2, 1]), ("filename", [2, 3, 1])):
            (layer,) = read("mat", tmp_path / "a.mat", {"1-8": "x", "9": "y"}, grid, variable="Mask", order=order)
            assert layer.array[0, 0].tolist() == expected
            assert (layer.array[3, 1] == 9).all()
    with pytest.raises(ItemError, match="shape_mismatch"):
        read("mat", tmp_path / "a.mat", {"1": "x"}, Grid("a", (3, 5, 3), grid.affine, origins))
