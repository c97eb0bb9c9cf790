"""Regions of planes and volumes: value, box, area and run lengths, against tables and against counting pixels."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from etl.pixels import geometry
from etl.pixels import regions as module
from etl.pixels.regions import Found, VolumeRegions, least_area, regions

PLANE = np.array(
    [[0, 0, 0, 0, 0, 0],
     [0, 3, 3, 0, 0, 1],
     [0, 3, 0, 0, 1, 0],  # the two 1 of the right touch at a corner
     [1, 0, 0, 0, 0, 0],
     [1, 0, 0, 3, 0, 0]], np.uint8)  # fmt: skip


def on(whole: VolumeRegions, axis: str, index: int) -> list[Found]:
    """The regions of one plane of a volume."""
    found = whole.along(axis)
    rows = zip(found.plane.tolist(), found.value.tolist(), found.box.tolist(), found.rle, strict=True)
    return [Found(value, *box[1:], box[0], code) for plane, value, box, code in rows if plane == index]


def facts(found: Iterator[Found]) -> list[tuple[int, ...]]:
    """(value, x, y, width, height, area) of each region."""
    return [(f.value, f.x, f.y, f.width, f.height, f.area) for f in found]


def pixels(found: Found, shape: tuple[int, int]) -> np.ndarray:
    """The mask of a region."""
    assert found.rle is not None
    return np.asarray(coco_mask.decode({"size": list(shape), "counts": found.rle}), bool)


def parts_of(plane: np.ndarray, value: int) -> list[np.ndarray]:
    """The 8-connected parts of a value by flooding from the first pixel in rows on."""
    left, parts = {tuple(p) for p in np.argwhere(plane == value).tolist()}, []
    while left:
        part, todo = np.zeros(plane.shape, bool), [min(left)]
        while todo:
            row, column = todo.pop()
            if (row, column) in left:
                left.remove((row, column))
                part[row, column] = True
                todo += [(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        parts.append(part)
    return parts


def test_each_value_is_one_region() -> None:
    assert facts(regions(PLANE)) == [
        (1, 0, 1, 6, 4, 4),  # both parts in one box
        (3, 1, 1, 3, 4, 4),
    ]


def test_values_to_split_give_a_region_a_component_by_first_pixel() -> None:
    assert facts(regions(PLANE, frozenset({1}))) == [
        (1, 4, 1, 2, 2, 2),  # its first pixel is in row 1
        (1, 0, 3, 1, 2, 2),
        (3, 1, 1, 3, 4, 4),
    ]
    assert facts(regions(PLANE, frozenset({3, 7}))) == [(1, 0, 1, 6, 4, 4), (3, 1, 1, 2, 2, 3), (3, 3, 4, 1, 1, 1)]


def test_masks_of_regions_and_components() -> None:
    for split in (frozenset[int](), frozenset({1, 3})):
        found = list(regions(PLANE, split))
        for value in (1, 3):
            whole = sum(pixels(f, PLANE.shape).astype(int) for f in found if f.value == value)
            np.testing.assert_array_equal(whole, value == PLANE)


@pytest.mark.parametrize("plane", [np.zeros((4, 5), np.uint8), np.zeros((4, 5), bool), np.zeros((1, 1), np.int64)])
def test_a_plane_of_background_has_no_region(plane: np.ndarray) -> None:
    assert list(regions(plane)) == []


@pytest.mark.parametrize("values", [
    [1, 2], [0, 1023], [1, 1024], [1022, 1023, 1024], [-3, 5], [-2, -1], [0, 70_000], [5, 2**40], [-(2**40), 2**40],
    [65_535, 65_536], [1, 65_536], [-1, 65_535], [-1, 65_534], [255, 0, 256],
])  # fmt: skip
@pytest.mark.parametrize("split", [False, True])
def test_large_and_negative_values_are_regions_of_their_own(values: list[int], split: bool) -> None:
    plane = np.zeros((3, 2 * len(values)), np.int64)
    plane[1, ::2] = values
    chosen = frozenset(values) if split else frozenset[int]()
    expected = sorted((v, 2 * n, 1, 1, 1, 1) for n, v in enumerate(values) if v)
    assert sorted(facts(regions(plane, chosen))) == expected
    volume = np.moveaxis(plane[None], 1, 2)  # one plane (j, k) that a sagittal cut shows turned
    assert sorted({f[0] for f in facts(on(VolumeRegions(volume, chosen), "sagittal", 0))}) == sorted(set(values) - {0})


def test_true_is_the_value_1() -> None:
    assert facts(regions(PLANE == 3)) == [(1, 1, 1, 3, 4, 4)]
    assert facts(on(VolumeRegions((PLANE == 3)[..., None]), "axial", 0))[0][0] == 1


def test_run_lengths_only_from_a_share_on() -> None:
    plane = np.zeros((10, 10), np.uint8)
    plane[0, :2], plane[5, :3] = 1, 2
    assert [f.rle is None for f in regions(plane)] == [False, False]
    assert [f.rle is None for f in regions(plane, rle_from=0.02)] == [False, False]  # just at it
    assert [f.rle is None for f in regions(plane, rle_from=0.021)] == [True, False]
    assert [f.rle is None for f in regions(plane, rle_from=0.04)] == [True, True]
    assert [f.area for f in regions(plane, rle_from=0.04)] == [2, 3]
    split = frozenset({1, 2})
    plane[9, 9] = 2
    assert [f.rle is None for f in regions(plane, split, rle_from=0.02)] == [False, False, True]
    assert [f.rle is None for f in regions(plane, split, rle_from=0.01)] == [False, False, False]


def test_run_lengths_of_volumes_only_from_a_share_on() -> None:
    volume = np.zeros((10, 20, 5), np.uint8)
    volume[:2, 0, 0] = 1  # 2 of 200 pixels of its axial plane, of 50 of its coronal, 1 of 100 of its sagittal
    for axis, share in (("axial", 0.01), ("coronal", 0.04), ("sagittal", 0.01)):
        assert [f.rle is None for f in on(VolumeRegions(volume, rle_from=share), axis, 0)] == [False]
        assert [f.rle is None for f in on(VolumeRegions(volume, rle_from=share * 1.01), axis, 0)] == [True]
        assert [f.rle is None for f in on(VolumeRegions(volume), axis, 0)] == [False]


def test_the_least_area_is_the_share_of_width_times_height_in_this_order() -> None:
    assert least_area(0.5, (3, 4)) == 6
    assert least_area(0, (3, 4)) == 0
    # 0.015 * 241 * 9 and 0.015 * 9 * 241 differ in the last bit of float64
    orders = {0.015 * a * b for a, b in ((9, 241), (241, 9))}
    sizes = [(a, b) for a in range(1, 60) for b in range(1, 60) if 0.015 * a * b != 0.015 * b * a]
    assert sizes or orders
    for rows, columns in sizes:
        assert least_area(0.015, (rows, columns)) == 0.015 * columns * rows


LABELS = hnp.arrays(np.int16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
                    elements=st.sampled_from([0, 0, 0, 1, 2, 1500, -4]))  # fmt: skip


@settings(max_examples=50)
@given(LABELS, st.sets(st.sampled_from([1, 2, 1500, -4, 9])))
def test_regions_are_the_parts_counted_one_by_one(plane: np.ndarray, split: set[int]) -> None:
    expected = []
    for value in sorted(set(plane.ravel().tolist()) - {0}):
        for mask in parts_of(plane, value) if value in split else [plane == value]:
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
            expected.append((value, *map(int, box), int(mask.sum())))
    found = list(regions(plane, frozenset(split)))
    assert sorted(facts(iter(found))) == sorted(expected)
    for region in found:
        mask = pixels(region, plane.shape)
        assert (plane[mask] == region.value).all()
        assert mask.sum() == region.area
        assert mask[region.y : region.y + region.height, region.x : region.x + region.width].sum() == region.area


@settings(max_examples=25)
@given(hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
                  elements=st.sampled_from([0, 0, 0, 1, 2, 1500, -4])),
       st.sets(st.sampled_from([1, 2, 1500, -4, 9])), st.sampled_from([0, 0.1, 0.5]))  # fmt: skip
def test_a_volume_has_the_regions_of_its_planes(volume: np.ndarray, split: set[int], least: float) -> None:
    whole = VolumeRegions(volume, frozenset(split), rle_from=least)
    for axis in geometry.AXES:
        for index in range(geometry.plane_size(volume.shape, axis)[0]):
            plane = geometry.plane(volume, axis, index)
            expected = list(regions(plane, frozenset(split), rle_from=least))
            assert sorted(on(whole, axis, index), key=str) == sorted(expected, key=str)


def test_small_values_are_not_renumbered() -> None:
    """Volumes of small values are not copied: the arrays are large."""
    volume = np.array([[[0, 1, 1023]]], np.int16)
    dense, values = module._dense(volume)
    assert dense is volume
    assert values is None
    dense, values = module._dense(np.array([[[0, 1, 1024]]], np.int16))
    assert values is not None
    assert values.tolist() == [0, 1, 1024]
    assert dense.tolist() == [[[0, 1, 2]]]
    assert dense.dtype == np.int32
    dense, values = module._dense(np.array([[[0, -7, 3]]], np.int16))
    assert values is not None
    assert values[dense].tolist() == [[[0, -7, 3]]]
