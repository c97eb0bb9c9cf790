"""Kinds whose files hold numbers: which pixels get which raw label, key by key and file by file."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from test_array_kinds import seg_nrrd

from etl.errors import ItemError, UsageError
from etl.kinds import values
from etl.kinds.layers import Grid, Layer, Mask
from etl.manifests.manifest import Rule
from etl.pixels.raster import Raster

GRID = Grid("a.png", (2, 3))
ROWS = np.array([[0, 1, 2], [12, 2, 200]], np.uint8)


def rule(kind: str = "label_map", **more: Any) -> Rule:
    return Rule(image="{case}.png", mask="{case}_{label}.png", kind=kind, **more)


def png(path: Path, array: Any) -> Path:
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def nifti(path: Path, array: Any, affine: Any = None) -> Path:
    nib.save(nib.Nifti1Image(np.asarray(array), np.eye(4) if affine is None else affine), path)
    return path


def meaning(layers: list[Layer]) -> dict[str, list[list[int]]]:
    """Of each raw label, and of each undefined text with a ?, the pixels (index in C order) of each value it has."""
    found: dict[str, list[list[int]]] = {}
    for layer in layers:
        texts = {**layer.names, **{value: f"?{text}" for value, text in layer.undefined.items()}}
        for value in np.unique(layer.array).tolist():
            if value or 0 in texts:
                places = np.flatnonzero(layer.array.ravel() == value).tolist()
                found.setdefault(texts.get(value, f"?{value}"), []).append(places)
    return found


@pytest.mark.parametrize(("array", "dtype"), [
    (np.array([True, False]), np.uint8),
    (np.array([3, -3], np.int16), np.int16),  # integers stay as they are
    (np.array([2**40], np.uint64), np.uint64),
    (np.array([0.0, 255.0]), np.uint8),
    (np.array([0.0, 256.0], np.float32), np.int16),
    (np.array([-1.0]), np.int16),
    (np.array([1.0009, 0.9991]), np.uint8),  # within a thousandth
])  # fmt: skip
def test_integral_values(array: np.ndarray, dtype: type) -> None:
    found = values.integral(array)
    assert found.dtype == dtype
    assert found.tolist() == np.rint(array.astype(float)).tolist()
    assert (found is array) == (array.dtype.kind in "iu")


def test_integral_keeps_the_places_in_any_order_of_memory() -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    for one in (array, np.asfortranarray(array), array[::-1, :, ::2]):
        np.testing.assert_array_equal(values.integral(one), one)


@pytest.mark.parametrize(("array", "told"), [
    ([0, 1.5, 2], "unreadable: a.png: label value 1.5 is not an integer"),
    ([0, 1.002], "label value 1.002 is not"),
    ([0.1, 0.3, 0.4, 1], "label value 0.4 is not"),  # the worst one
    ([0.1, 0.6, 1], "label value 0.6 is not"),
    ([0, np.nan], "unreadable: a.png: label values that are not finite"),
    ([np.inf, 0.5], "not finite"),
    ([0, -np.inf], "not finite"),
])  # fmt: skip
def test_values_that_are_no_integers(array: list[float], told: str) -> None:
    with pytest.raises(ItemError, match=told):
        values.integral(np.array(array), "a.png")
    with pytest.raises(ItemError, match="mask: label value"):
        values.integral(np.array([0.5]))


def test_ignored_values_are_background() -> None:
    assert values.meant(rule(ignore=(2, 200)), ROWS).tolist() == [[0, 1, 0], [12, 0, 0]]
    assert values.meant(rule(ignore=(2,)), ROWS).dtype == np.uint8
    assert values.meant(rule(), ROWS) is ROWS


@pytest.mark.parametrize(("labels", "expected"), [
    ({"1": "a"}, {"a": [[1]], "?2": [[2, 4]], "?12": [[3]], "?200": [[5]]}),
    ({"1": "a", "2": "b", "12": "c", "200": "d"}, {"a": [[1]], "b": [[2, 4]], "c": [[3]], "d": [[5]]}),
    ({"2": "a", "12": "a", "1": "b"}, {"a": [[2, 3, 4]], "b": [[1]], "?200": [[5]]}),  # two values of one label
    ({"200": "a", "1": "a", "2": "a"}, {"a": [[1, 2, 4, 5]], "?12": [[3]]}),  # three
    ({"1-2": "t"}, {"t": [[1], [2, 4]], "?12": [[3]], "?200": [[5]]}),  # instances
    ({"1-12": "t", "200": "d"}, {"t": [[1], [2, 4], [3]], "d": [[5]]}),
    ({"2-5": "t"}, {"?1": [[1]], "t": [[2, 4]], "?12": [[3]], "?200": [[5]]}),
    ({"150-999999999999": "t"}, {"?1": [[1]], "?2": [[2, 4]], "?12": [[3]], "t": [[5]]}),  # cut at the largest value
    ({">0": "all"}, {"all": [[1, 2, 3, 4, 5]]}),
    ({">1": "all"}, {"all": [[2, 3, 4, 5]], "?1": [[1]]}),
    ({">12": "all"}, {"all": [[5]], "?1": [[1]], "?2": [[2, 4]], "?12": [[3]]}),
    ({">0": "all", "2": "b"}, {"all": [[1, 2, 3, 4, 5]], "b": [[2, 4]]}),  # overlapping
    ({">2": "high", ">0": "all"}, {"high": [[3, 5]], "all": [[1, 2, 3, 4, 5]]}),
    ({">2": "high", ">11": "higher"}, {"high": [[3, 5]], "higher": [[3, 5]], "?1": [[1]], "?2": [[2, 4]]}),
    ({">255": "none", "1": "a"}, {"a": [[1]], "?2": [[2, 4]], "?12": [[3]], "?200": [[5]]}),
    ({"0": "ground", "1": "a"}, {"ground": [[0]], "a": [[1]], "?2": [[2, 4]], "?12": [[3]], "?200": [[5]]}),
    ({"0": "ground", "1": "ground"}, {"ground": [[0, 1]], "?2": [[2, 4]], "?12": [[3]], "?200": [[5]]}),
    ({"1": "a", "0": "a"}, {"a": [[0, 1]], "?2": [[2, 4]], "?12": [[3]], "?200": [[5]]}),
    ({"#ff0000": "red", "liver": "liver", "1": "a"}, {"a": [[1]], "?2": [[2, 4]], "?12": [[3]], "?200": [[5]]}),
    ({"300": "far", "1": "a"}, {"a": [[1]], "?2": [[2, 4]], "?12": [[3]], "?200": [[5]]}),
    ({"300": "a", "1": "a"}, {"a": [[1]], "?2": [[2, 4]], "?12": [[3]], "?200": [[5]]}),  # no byte is 300
    ({"1": "a", "300": "a"}, {"a": [[1]], "?2": [[2, 4]], "?12": [[3]], "?200": [[5]]}),
    ({"-5": "a", "1": "b"}, {"b": [[1]], "?2": [[2, 4]], "?12": [[3]], "?200": [[5]]}),
    ({"255": "a", "200": "a"}, {"a": [[5]], "?1": [[1]], "?2": [[2, 4]], "?12": [[3]]}),
])  # fmt: skip
def test_keys_name_pixels(labels: dict[str, str], expected: dict[str, list[list[int]]]) -> None:
    before = ROWS.copy()
    for kind in (np.uint8, np.int16, np.int64):
        assert meaning(values.name_values(ROWS.astype(kind), labels)) == expected
    np.testing.assert_array_equal(ROWS, before)


def test_negative_values_have_names_too() -> None:
    array = np.array([[-3, 0, 5]], np.int8)
    assert meaning(values.name_values(array, {"-3": "a", "5": "b"})) == {"a": [[0]], "b": [[2]]}
    assert meaning(values.name_values(array, {"-3": "a", "5": "a"})) == {"a": [[0, 2]]}
    assert meaning(values.name_values(array, {"-300": "a", "5": "a"})) == {"?-3": [[0]], "a": [[2]]}
    assert meaning(values.name_values(array, {"0": "g"})) == {"?-3": [[0]], "g": [[1]], "?5": [[2]]}
    assert meaning(values.name_values(array, {">0": "all"})) == {"?-3": [[0]], "all": [[2]]}


@pytest.mark.parametrize(("labels", "told"), [
    ({"1": "a", "1-3": "b"}, r"label key '1-3' \(b\): value 1 is a already"),
    ({"1-3": "a", "2": "b"}, r"label key '2' \(b\): value 2 is a already"),
    ({"1-2": "a", "2-3": "b"}, "value 2 is a already"),
    ({"1": "a", "01": "a"}, "value 1 is a already"),
])  # fmt: skip
def test_a_value_of_two_names_is_refused(labels: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        values.name_values(ROWS, labels)


def test_spans_end_at_the_largest_value_but_have_one_at_least() -> None:
    (layer,) = values.name_values(np.array([[0, 7]], np.uint8), {"3-100": "t"})
    assert layer.names == dict.fromkeys((3, 4, 5, 6, 7), "t")
    (layer,) = values.name_values(np.array([[0, 7]], np.uint8), {"30-100": "t"})
    assert layer.names == {30: "t"}


def test_types_that_can_hold_what_is_named() -> None:
    (layer,) = values.name_values(np.array([[0, 255]], np.uint8), {"0": "g", "255": "a"})
    assert layer.array.tolist() == [[256, 255]]  # a value of its own, above all others
    assert layer.names == {256: "g", 255: "a"}
    assert layer.array.dtype == np.int16
    (layer,) = values.name_values(np.array([[0, 32767]], np.int16), {"0": "g"})
    assert (layer.array.tolist(), layer.array.dtype) == ([[32768, 32767]], np.int32)
    (layer,) = values.name_values(np.array([[0, 5]], np.uint8), {"0": "g", "40000": "far"})
    assert layer.array.tolist() == [[40001, 5]]
    (layer,) = values.name_values(np.array([[0, 2**31 - 1]], np.int32), {"0": "g"})
    assert (layer.array.tolist(), layer.array.dtype) == ([[2**31, 2**31 - 1]], np.int64)
    (layer,) = values.name_values(np.array([[0, -40_000]], np.int32), {"0": "g"})
    assert layer.array.tolist() == [[1, -40_000]]
    with pytest.raises(ItemError, match=r"unreadable: label value 9\.22e\+18 is too large"):
        values.name_values(np.array([[0, 2**63 - 1]], np.int64), {"0": "g"})


@pytest.mark.parametrize(("labels", "expected"), [
    ({"0": "g", "5": "a"}, {"g": [[0, 3]], "a": [[1]], "?7": [[2]]}),
    ({"-1": "a", "5": "a"}, {"a": [[1]], "?7": [[2]]}),
    ({"300": "a", "5": "a"}, {"a": [[1]], "?7": [[2]]}),
])  # fmt: skip
def test_64_bits_without_a_sign_stay_integers(labels: dict[str, str], expected: dict[str, list[list[int]]]) -> None:
    """No signed type holds all of uint64: NumPy would take float64, which no kernel counts."""
    layers = values.name_values(np.array([[0, 5], [7, 0]], np.uint64), labels)
    assert meaning(layers) == expected
    assert all(layer.array.dtype.kind in "iu" for layer in layers)


def test_no_layer_is_lost_and_none_is_made_for_nothing() -> None:
    empty = np.zeros((2, 2), np.uint8)
    affine = np.diag([2.0, 2, 2, 1])
    (layer,) = values.name_values(empty, {}, affine)  # looked at, nothing there
    assert (layer.names, layer.affine is affine) == ({}, True)
    (layer,) = values.name_values(empty, {">0": "all"}, affine)
    assert (layer.names, layer.affine is affine) == ({1: "all"}, True)
    assert [layer.names for layer in values.name_values(empty, {"3": "a", ">0": "all"})] == [{3: "a"}, {1: "all"}]
    both = values.name_values(np.array([[1, 9]], np.uint8), {">1": "all"})
    assert [layer.names for layer in both] == [{}, {1: "all"}]  # the 1 is left, undefined


def test_no_pixel_at_all() -> None:
    (layer,) = values.name_values(np.zeros((0, 3), np.int16), {"0": "g", "1-4": "t", "-2": "n"})
    assert layer.array.shape == (0, 3)


@given(hnp.arrays(np.int16, (3, 4), elements=st.integers(-3, 6)),
       st.dictionaries(st.sampled_from(["-2", "0", "1", "2", "3", "6"]), st.sampled_from("abc")))  # fmt: skip
def test_each_pixel_has_the_label_of_its_value(array: np.ndarray, labels: dict[str, str]) -> None:
    named = meaning(values.name_values(array, labels))
    for place, value in enumerate(array.ravel().tolist()):
        name = labels.get(str(value), f"?{value}" if value else None)
        holders = {text for text, groups in named.items() if any(place in group for group in groups)}
        assert holders == ({name} if name else set())
    assert all(len(groups) == 1 for groups in named.values())


def test_label_map_files(tmp_path: Path) -> None:
    masks = [Mask(png(tmp_path / "a.png", ROWS)), Mask(png(tmp_path / "b.png", [[5, 0, 0], [0, 0, 0]]))]
    layers = values.label_map(rule(ignore=(12,)), masks, {"1": "one", "5": "five"}, GRID)
    assert meaning(layers) == {"one": [[1]], "?2": [[2, 4]], "?200": [[5]], "five": [[0]]}
    assert [layer.affine for layer in layers] == [None, None]
    affine = np.diag([-2.0, -2, 3, 1])
    volume = nifti(tmp_path / "v.nii.gz", np.array([[[0.0, 1.0004, 2]]], np.float32), affine)
    (layer,) = values.label_map(rule(), [Mask(volume)], {"1": "one"}, Grid("v", (1, 1, 3), affine))
    assert meaning([layer]) == {"one": [[1]], "?2": [[2]]}
    assert np.array_equal(layer.affine, affine)  # type: ignore[arg-type]


def test_label_map_of_a_palette_reads_the_indices(tmp_path: Path) -> None:
    image = Image.fromarray(ROWS).convert("P")
    image.putpalette([n // 3 * 7 % 256 for n in range(768)])
    image.putdata(ROWS.ravel().tolist())
    image.save(tmp_path / "p.png")
    (layer,) = values.label_map(rule(), [Mask(tmp_path / "p.png")], {"12": "twelve"}, GRID)
    assert layer.array.tolist() == ROWS.tolist()


def test_a_label_map_that_is_no_label_map_names_its_file(tmp_path: Path) -> None:
    path = nifti(tmp_path / "x.nii", np.array([[[0, 0.4]]], np.float32))
    for kind in (values.label_map, values.bitfield):
        with pytest.raises(ItemError, match=r"unreadable: x\.nii: label value 0\.4 is not an integer"):
            kind(rule(), [Mask(path)], {"1": "a"}, GRID)


def test_segments_by_name_or_value(tmp_path: Path) -> None:
    one = np.array([[[[0, 1, 2]]]])
    path = seg_nrrd(tmp_path / "one.seg.nrrd", one, [("Liver", 0, 1), ("Spleen", 0, 2)])
    found = values.label_map(rule(), [Mask(path)], {"Liver": "liver"}, GRID)
    assert meaning(found) == {"liver": [[1]], "?Spleen": [[2]]}
    found = values.label_map(rule(), [Mask(path)], {"2": "spleen"}, GRID)  # by value: a plain label map
    assert meaning(found) == {"?1": [[1]], "spleen": [[2]]}


def test_segments_of_layers_that_overlap(tmp_path: Path) -> None:
    two = np.array([[[[1, 1, 2]]], [[[0, 1, 1]]]])
    path = seg_nrrd(tmp_path / "two.seg.nrrd", two, [("Liver", 0, 1), ("", 0, 2), ("Tumor", 1, 1)])
    affine = [[-1, 0, 0, -5], [0, -2, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]]
    found = values.label_map(rule(), [Mask(path)], {"Liver": "liver", "Tumor": "tumor"}, GRID)
    assert meaning(found) == {"liver": [[0, 1]], "?2": [[2]], "tumor": [[1, 2]]}  # without a name: by its value
    assert all(layer.affine is not None and layer.affine.tolist() == affine for layer in found)
    joined = values.label_map(rule(), [Mask(path)], {"Liver": "both", "Tumor": "both"}, GRID)
    assert meaning(joined) == {"both": [[0, 1, 2]], "?2": [[2]]}
    with pytest.raises(ItemError, match=r"two\.seg\.nrrd: segments of different layers have one value"):
        values.label_map(rule(), [Mask(path)], {"1": "liver"}, GRID)
    apart = seg_nrrd(tmp_path / "apart.seg.nrrd", two, [("Liver", 0, 1), ("Spleen", 0, 2), ("Tumor", 1, 3)])
    found = values.label_map(rule(), [Mask(apart)], {"1": "liver"}, GRID)
    assert meaning(found) == {"liver": [[0, 1]], "?Spleen": [[2]]}


@pytest.mark.parametrize(("kind", "array", "threshold", "expected"), [
    ("png", [[0, 1, 2]], None, [1, 2]),  # above 0
    ("png", [[0, 1, 2]], 1, [2]),
    ("png", [[0, 1, 2]], 1.5, [2]),
    ("png", [[0, 1, 2]], 0, [1, 2]),
    ("jpg", [[0, 255, 0]], 200, [1]),
    ("nii", [[[-1.5, 0, 0.25]]], None, [2]),
    ("nii", [[[-1.5, 0, 0.25]]], -2, [0, 1, 2]),
    ("nii", [[[-1.5, 0, 0.25]]], 0.25, []),
])  # fmt: skip
def test_foreground(tmp_path: Path, kind: str, array: Any, threshold: float | None, expected: list[int]) -> None:
    path = tmp_path / f"m.{kind}"
    if kind == "nii":
        nifti(path, np.array(array, np.float32))
    elif kind == "jpg":
        Image.fromarray(np.repeat(np.repeat(np.array(array, np.uint8), 16, 0), 16, 1)).save(path, quality=100)
    else:
        png(path, array)
    raster = values.foreground(rule("binary", threshold=threshold), path)
    assert raster.array.dtype == bool
    drawn = raster.array[8::16, 8::16] if kind == "jpg" else raster.array
    assert np.flatnonzero(drawn.ravel()).tolist() == expected
    assert (raster.affine is None) == (kind != "nii")


def test_a_jpeg_is_cut_at_its_middle(tmp_path: Path) -> None:
    for grey, there in ((0, False), (127, False), (128, True), (255, True)):
        Image.fromarray(np.full((16, 16), grey, np.uint8)).save(tmp_path / "m.jpg", quality=100)
        assert values.foreground(rule("binary"), tmp_path / "m.jpg").array.all() == there
        png(tmp_path / "m.png", np.full((16, 16), grey))
        assert values.foreground(rule("binary"), tmp_path / "m.png").array.all() == (grey > 0)
    Image.fromarray(np.full((16, 16), 100, np.uint8)).save(tmp_path / "m.jpg", quality=100)
    assert values.foreground(rule("binary", threshold=0), tmp_path / "m.jpg").array.all()  # as the rule says


def test_binary_unites_its_files(tmp_path: Path) -> None:
    masks = [Mask(png(tmp_path / "a.png", [[9, 0, 0]])), Mask(png(tmp_path / "b.png", [[0, 0, 1]]))]
    assert meaning(values.binary(rule("binary"), masks, {"1": "polyp", "2": "x"}, GRID)) == {"polyp": [[0, 2]]}
    assert meaning(values.binary(rule("binary"), masks, {"2": "x"}, GRID)) == {"?1": [[0, 2]]}


def test_a_file_for_each_label(tmp_path: Path) -> None:
    named = {"a": "liver", "b": "liver", "c": "odd", "d": "odd", "e": "odder", "f": None, "g": "L"}
    masks = [Mask(png(tmp_path / f"{stem}.png", np.eye(1, 7, n)), named[stem]) for n, stem in enumerate(named)]
    found = values.file_per_label(rule("file_per_label"), masks, {"liver": "Liver", "L": "Liver"}, GRID)
    assert meaning(found) == {"Liver": [[0, 1, 6]], "?odd": [[2, 3]], "?odder": [[4]], "?": [[5]]}
    thick = values.file_per_label(rule("file_per_label", threshold=1), masks[:1], {"liver": "Liver"}, GRID)
    assert meaning(thick) == {}
    assert thick[0].names == {1: "Liver"}


BITS = [[0, 1, 2, 3, 4, 8, 128]]


@pytest.mark.parametrize(("labels", "expected"), [
    ({"0": "a", "1": "b"}, {"a": [[1, 3]], "b": [[2, 3]], "?bit 2": [[4]], "?bit 3": [[5]], "?bit 7": [[6]]}),
    ({"0-1": "ab"}, {"ab": [[1, 2, 3]], "?bit 2": [[4]], "?bit 3": [[5]], "?bit 7": [[6]]}),
    ({"1-3": "x", "0": "a", "7": "top"}, {"x": [[2, 3, 4, 5]], "a": [[1, 3]], "top": [[6]]}),
    ({"0": "a", "7": "a"}, {"a": [[1, 3, 6]], "?bit 1": [[2, 3]], "?bit 2": [[4]], "?bit 3": [[5]]}),  # united
    ({"2-99": "x"}, {"x": [[4, 5, 6]], "?bit 0": [[1, 3]], "?bit 1": [[2, 3]]}),
    ({"9": "x", "0-7": "y", "name": "z"}, {"y": [[1, 2, 3, 4, 5, 6]]}),
])  # fmt: skip
def test_bits(tmp_path: Path, labels: dict[str, str], expected: dict[str, list[list[int]]]) -> None:
    found = values.bitfield(rule("bitfield"), [Mask(png(tmp_path / "a.png", BITS))], labels, GRID)
    assert meaning(found) == expected
    assert {name for layer in found for name in layer.names.values()} == {
        name for key, name in labels.items() if key != "name"
    }  # also what is not there


def test_bits_of_several_files_and_of_wide_integers(tmp_path: Path) -> None:
    masks = [Mask(png(tmp_path / "a.png", [[1, 0, 4]])), Mask(png(tmp_path / "b.png", [[0, 1, 8]]))]
    found = values.bitfield(rule("bitfield"), masks, {"0": "a"}, GRID)
    assert meaning(found) == {"a": [[0, 1]], "?bit 2": [[2]], "?bit 3": [[2]]}
    np.save(tmp_path / "w.npy", np.array([[2**63, 2**40, -(2**63) + 2**64 - 1]], np.uint64))
    found = values.bitfield(rule("bitfield"), [Mask(tmp_path / "w.npy")], {"63": "top", "1-40": "x"}, GRID)
    named = meaning(found)
    assert (named["top"], named["x"], named["?bit 41"]) == ([[0]], [[1, 2]], [[2]])
    np.save(tmp_path / "n.npy", np.array([[-(2**15), 5]], np.int16))  # the sign is a bit like the others
    found = values.bitfield(rule("bitfield"), [Mask(tmp_path / "n.npy")], {"15": "top", "0-2": "low"}, GRID)
    assert meaning(found) == {"top": [[0]], "low": [[1]]}


def test_bits_keep_the_grid(tmp_path: Path) -> None:
    affine = np.diag([2.0, 3, 4, 1])
    path = nifti(tmp_path / "v.nii.gz", np.array([[[0, 1, 2]]], np.float32), affine)
    found = values.bitfield(rule("bitfield"), [Mask(path)], {"0": "a", "1": "b"}, GRID)
    assert meaning(found) == {"a": [[1]], "b": [[2]]}
    assert all(np.array_equal(layer.affine, affine) for layer in found)  # type: ignore[arg-type]
    assert isinstance(values.foreground(rule("binary"), path), Raster)
