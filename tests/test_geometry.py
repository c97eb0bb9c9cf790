"""A lettered phantom looks the same from every orientation; voxels can be found again."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import ItemError
from etl.pixels import geometry

SHAPE = (7, 5, 4)
PHANTOM = np.arange(np.prod(SHAPE)).reshape(SHAPE)
AFFINE = np.array([[2.0, 0, 0, -10], [0, 3.0, 0, 5], [0, 0, 4.0, 7], [0, 0, 0, 1]])
ORIENTATIONS = [(p, f) for p in permutations(range(3)) for f in product((False, True), repeat=3)]


def stored(order: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The phantom as a file of another orientation would hold it, with its affine."""
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for axis, world in enumerate(order):
        change[world, axis] = -1 if flips[axis] else 1
        change[world, 3] = SHAPE[world] - 1 if flips[axis] else 0
    array = np.transpose(PHANTOM, order)
    return array[tuple(slice(None, None, -1) if f else slice(None) for f in flips)], AFFINE @ change


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_all_48_orientations_come_back(order: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    array, affine = stored(order, flips)
    to = geometry.orientation(affine)
    np.testing.assert_array_equal(geometry.canonical(array, to), PHANTOM)
    np.testing.assert_allclose(geometry.canonical_affine(affine, array.shape, to), AFFINE)
    assert to.angle == pytest.approx(0)


def test_display_orientation() -> None:
    axial = geometry.plane(PHANTOM, "axial", 1)
    assert axial.shape == (5, 7)
    assert axial[0, 0] == PHANTOM[6, 4, 1]  # anterior on top, the patient's right on the left
    coronal = geometry.plane(PHANTOM, "coronal", 1)
    assert coronal[0, 0] == PHANTOM[6, 1, 3]
    sagittal = geometry.plane(PHANTOM, "sagittal", 1)
    assert sagittal[0, 0] == PHANTOM[1, 4, 3]


@pytest.mark.parametrize("axis", geometry.AXES)
def test_every_pixel_leads_back_to_its_voxel(axis: str) -> None:
    count, height, width = geometry.plane_size(SHAPE, axis)
    for index in range(count):
        plane = geometry.plane(PHANTOM, axis, index)
        assert plane.shape == (height, width)
        for row in range(height):
            for column in range(width):
                assert plane[row, column] == PHANTOM[geometry.voxel_of(SHAPE, axis, index, row, column)]


def test_grids() -> None:
    geometry.require_same_grid(SHAPE, AFFINE, SHAPE, AFFINE + 1e-7)
    with pytest.raises(ItemError, match="shape_mismatch"):
        geometry.require_same_grid(SHAPE, AFFINE, (7, 5, 3), AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] += 0.01
    with pytest.raises(ItemError, match="geometry_mismatch"):
        geometry.require_same_grid(SHAPE, AFFINE, SHAPE, moved)


def test_singular_affine_is_refused() -> None:
    with pytest.raises(ItemError, match="singular"):
        geometry.orientation(np.zeros((4, 4)))


def test_nearest_takes_the_closest_voxel_in_patient_space() -> None:
    coarse = np.zeros((4, 3, 2), np.uint8)
    coarse[1, 2, 1] = 7
    fine_affine = np.diag([0.5, 1, 1, 1.0])
    fine_affine[0, 3] = -0.25  # two fine voxels in each coarse one
    fine = geometry.nearest(coarse, np.eye(4), (8, 3, 2), fine_affine)
    assert np.argwhere(fine).tolist() == [[2, 2, 1], [3, 2, 1]]
    beside = fine_affine.copy()
    beside[0, 3] = 100
    assert not geometry.nearest(coarse, np.eye(4), (8, 3, 2), beside).any()


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_nearest_on_the_same_grid_is_the_mask(order: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    array, affine = stored(order, flips)
    np.testing.assert_array_equal(geometry.nearest(array, affine, SHAPE, AFFINE), PHANTOM)


def turned(degrees: float, across: tuple[int, int] = (0, 1)) -> np.ndarray:
    """AFFINE with its voxel directions turned in one plane."""
    angle, rotation = np.radians(degrees), np.eye(4)
    a, b = across
    rotation[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return rotation @ AFFINE


@pytest.mark.parametrize(("degrees", "order", "flip", "angle"), [
    (0, (0, 1, 2), (False, False, False), 0),
    (10, (0, 1, 2), (False, False, False), 10),
    (-44, (0, 1, 2), (False, False, False), 44),
    (46, (1, 0, 2), (True, False, False), 44),  # j now runs to the left, i to the front
    (45, (0, 1, 2), (False, False, False), 45),  # a tie goes to the axes as stored
    (135, (0, 1, 2), (True, True, False), 45),
    (180, (0, 1, 2), (True, True, False), 0),
    (270, (1, 0, 2), (False, True, False), 0),
])  # fmt: skip
def test_a_turned_grid_takes_the_nearest_axes_and_tells_the_angle(
    degrees: float, order: tuple[int, ...], flip: tuple[bool, ...], angle: float
) -> None:
    found = geometry.orientation(turned(degrees))
    assert (found.order, found.flip) == (order, flip)
    assert found.angle == pytest.approx(angle, abs=1e-5)


@pytest.mark.parametrize(("beyond", "order"), [
    (1e-10, (0, 1, 2)),  # noise: still a tie, to the axes as stored
    (2.5e-9, (1, 0, 2)),  # more than noise
])  # fmt: skip
def test_a_tie_is_a_tie_within_the_noise_of_float64(beyond: float, order: tuple[int, ...]) -> None:
    """`beyond` is how much more the cosines of the turned axes sum up to."""
    assert geometry.orientation(turned(45 + np.degrees(beyond / np.sqrt(2)))).order == order


def test_a_float32_affine_tells_small_angles() -> None:
    assert geometry.orientation(turned(0.01).astype(np.float32)).angle == pytest.approx(0.01, abs=1e-4)
    assert geometry.spacing(AFFINE.astype(np.float32) * np.float32(0.1)) == pytest.approx((0.2, 0.3, 0.4), abs=1e-7)
    assert geometry.orientation(AFFINE.astype(int)) == geometry.orientation(AFFINE)


def test_the_angle_is_that_of_the_worst_axis() -> None:
    sheared = np.eye(4)
    sheared[0, 2] = 1  # k leans to the right by 45 degrees, i and j are straight
    assert geometry.orientation(sheared).angle == pytest.approx(45)
    sheared[:3, :3] = sheared[:3, [2, 1, 0]]  # the same, stored in reverse
    found = geometry.orientation(sheared)
    assert (found.order, found.angle) == ((2, 1, 0), pytest.approx(45))


def test_the_assignment_is_the_best_of_all_axes_together() -> None:
    # the first stored axis is nearest to right, but the second one has nowhere else to go
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = (0.8, 0.6, 0), (0.999, 0.02, 0)
    assert geometry.orientation(affine).order == (1, 0, 2)


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 3), (3, 3)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_affine_that_is_not_finite_is_refused(place: tuple[int, int], value: float) -> None:
    affine = AFFINE.copy()
    affine[place] = value
    with pytest.raises(ItemError, match="geometry_mismatch: the affine is singular or not finite"):
        geometry.orientation(affine)


@pytest.mark.parametrize(("height", "usable"), [(1e-3, True), (2e-6, True), (5e-7, False), (0, False)])
def test_axes_that_lie_in_one_plane_are_refused(height: float, usable: bool) -> None:
    affine = np.diag([2.0, 3, 4, 1])
    affine[:3, 2] = (4, 0, 4 * height)  # k along i but for `height`
    if usable:
        assert geometry.orientation(affine).order == (0, 1, 2)
    else:
        with pytest.raises(ItemError, match="singular"):
            geometry.orientation(affine)


def test_small_voxels_are_no_singular_affine() -> None:
    assert geometry.orientation(np.diag([1e-4, 1e-4, 1e-4, 1])).order == (0, 1, 2)


def test_a_column_of_zeros_is_refused_without_a_warning() -> None:
    with pytest.raises(ItemError, match="singular"), np.errstate(all="raise"):
        geometry.orientation(np.diag([1.0, 0, 1, 1]))


def test_further_axes_stay_where_they_are() -> None:
    array = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    to = geometry.Orientation((2, 0, 1), (False, True, False), 0)
    found = geometry.canonical(array, to)
    assert found.shape == (4, 2, 3, 5, 6)
    assert found.base is not None
    np.testing.assert_array_equal(found[1, 0, 2], array[1, 2, 1])


@given(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.tuples(*[st.integers(1, 6)] * 3),
       st.floats(-30, 30))  # fmt: skip
def test_a_voxel_keeps_its_place_in_the_patient(
    order: list[int], flip: tuple[bool, bool, bool], shape: tuple[int, int, int], degrees: float
) -> None:
    to = geometry.Orientation((order[0], order[1], order[2]), flip, 0)
    array = np.arange(np.prod(shape)).reshape(shape)
    affine = turned(degrees, (1, 2))
    moved, moved_affine = geometry.canonical(array, to), geometry.canonical_affine(affine, shape, to)
    here = np.stack([*np.indices(shape).reshape(3, -1), np.ones(array.size)])
    there = np.stack([*np.unravel_index(np.argsort(moved, axis=None), moved.shape), np.ones(array.size)])
    np.testing.assert_allclose(moved_affine @ there, affine @ here, atol=1e-9)


def test_spacing_is_the_length_of_each_axis() -> None:
    assert geometry.spacing(turned(30)) == pytest.approx((2, 3, 4))
    assert geometry.spacing(turned(77, (0, 2))) == pytest.approx((2, 3, 4))


@pytest.mark.parametrize(("axis", "size", "sides"), [
    ("axial", (4, 5, 7), (3.0, 2.0)),  # rows along j, columns along i
    ("coronal", (5, 4, 7), (4.0, 2.0)),  # rows along k, columns along i
    ("sagittal", (7, 4, 5), (4.0, 3.0)),  # rows along k, columns along j
])  # fmt: skip
def test_size_and_spacing_of_planes(axis: str, size: tuple[int, ...], sides: tuple[float, float]) -> None:
    assert geometry.plane_size(SHAPE, axis) == size
    assert geometry.plane_size((*SHAPE, 9), axis) == size
    assert geometry.plane_spacing((2.0, 3.0, 4.0), axis) == sides


@pytest.mark.parametrize(("axis", "top_left", "bottom_right"), [
    ("axial", (6, 4, 2), (0, 0, 2)),  # right and anterior, to left and posterior
    ("coronal", (6, 2, 3), (0, 2, 0)),  # right and superior, to left and inferior
    ("sagittal", (2, 4, 3), (2, 0, 0)),  # anterior and superior, to posterior and inferior
])  # fmt: skip
def test_corners_of_planes(axis: str, top_left: tuple[int, ...], bottom_right: tuple[int, ...]) -> None:
    plane = geometry.plane(PHANTOM, axis, 2)
    assert (plane[0, 0], plane[-1, -1]) == (PHANTOM[top_left], PHANTOM[bottom_right])
    assert geometry.voxel_of((*SHAPE, 9), axis, 2, 0, 0) == top_left


@pytest.mark.parametrize(("shape", "axis"), [
    ((9, 8, 1), "axial"), ((9, 1, 7), "coronal"), ((1, 8, 7), "sagittal"),
    ((9, 8, 7), None), ((2, 2, 2), None),
    ((1, 1, 1), "axial"), ((9, 1, 1), "axial"), ((1, 8, 1), "axial"), ((1, 1, 7), "coronal"),  # the first that fits
    ((9, 8, 7, 1), None),  # a fourth axis is none of space
])  # fmt: skip
def test_a_flat_volume_is_seen_along_its_flat_axis(shape: tuple[int, ...], axis: str | None) -> None:
    assert geometry.flat_axis(shape) == axis


@pytest.mark.parametrize(("shift", "taken"), [
    (0, [1, 2, 3]), (0.4, [1, 2, 3]), (0.6, [2, 3, 0]), (-0.4, [1, 2, 3]), (-0.6, [0, 1, 2]),
    (0.5, [2, 3, 0]),  # halfway: the higher one
    (3, [0, 0, 0]), (-3, [0, 0, 0]),
])  # fmt: skip
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nearest_along_each_axis(axis: int, shift: float, taken: list[int]) -> None:
    shape = tuple(3 if a == axis else 1 for a in range(3))
    affine = np.eye(4)
    affine[axis, 3] = shift
    mask = np.arange(1, 4, dtype=np.int16).reshape(shape)
    found = geometry.nearest(mask, np.eye(4), shape, affine)
    assert found.ravel().tolist() == taken
    assert found.dtype == np.int16


def test_nearest_of_a_turned_grid() -> None:
    """Each voxel has the value of the mask's voxel whose centre is nearest to it."""
    rng = np.random.default_rng(3)
    mask, mask_affine = rng.integers(1, 99, (6, 5, 4)), turned(20) + np.array([[0, 0, 0, 3]] * 3 + [[0] * 4])
    shape = (5, 6, 3)
    found = geometry.nearest(mask, mask_affine, (*shape, 2), AFFINE)
    assert found.shape == shape
    assert 0 < np.count_nonzero(found) < found.size
    for voxel in np.ndindex(shape):
        at = np.linalg.solve(mask_affine, AFFINE @ [*voxel, 1])[:3]
        place = tuple(np.floor(at + 0.5).astype(int))
        inside = all(0 <= p < n for p, n in zip(place, mask.shape, strict=True))
        assert found[voxel] == (mask[place] if inside else 0)


def moved(axis: int, by: float) -> np.ndarray:
    """AFFINE with its origin moved by a share of a voxel."""
    affine = AFFINE.copy()
    affine[axis, 3] += by * AFFINE[axis, axis]
    return affine


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("by", "same"), [(0, True), (9e-4, True), (-9e-4, True), (1.1e-3, False), (-1.1e-3, False)])
def test_an_origin_may_be_off_by_a_thousandth_of_a_voxel(axis: int, by: float, same: bool) -> None:
    if same:
        geometry.require_same_grid(SHAPE, AFFINE, SHAPE, moved(axis, by))
    else:
        with pytest.raises(ItemError, match=r"geometry_mismatch: .* off by 0 and its origin by 0\.0011 of a voxel"):
            geometry.require_same_grid(SHAPE, AFFINE, SHAPE, moved(axis, by))


@pytest.mark.parametrize(("stretch", "same"), [(9e-4, True), (-9e-4, True), (1.1e-3, False), (-1.1e-3, False)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_spacing_may_be_off_by_a_thousandth(axis: int, stretch: float, same: bool) -> None:
    affine = AFFINE.copy()
    affine[axis, axis] *= 1 + stretch
    if same:
        geometry.require_same_grid(SHAPE, AFFINE, SHAPE, affine)
    else:
        with pytest.raises(ItemError, match=r"direction is off by 0\.0011 and its origin by 0 of"):
            geometry.require_same_grid(SHAPE, AFFINE, SHAPE, affine)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_origin_is_compared_at_the_corner_where_the_grids_meet_best(axis: int) -> None:
    """A mask written from its last slice on has the error of its spacing at the first one."""
    affine, long = AFFINE.copy(), tuple(40 if a == axis else n for a, n in enumerate(SHAPE))
    affine[axis, axis] *= 1 + 9e-4
    affine[axis, 3] -= 39 * AFFINE[axis, axis] * 9e-4  # equal at the last slice, off by 0.035 voxels at the first
    geometry.require_same_grid(long, AFFINE, long, affine)
    affine[axis, 3] -= 2e-3 * AFFINE[axis, axis]  # now nowhere equal
    with pytest.raises(ItemError, match="geometry_mismatch"):
        geometry.require_same_grid(long, AFFINE, long, affine)


def test_just_a_thousandth_is_within_it() -> None:
    beside = np.eye(4)
    beside[0, 3] = 1e-3
    geometry.require_same_grid((1, 1, 1), np.eye(4), (1, 1, 1), beside)


def test_an_axis_of_the_mask_that_runs_the_other_way_is_another_grid() -> None:
    flipped = AFFINE.copy()
    flipped[1, 1] *= -1
    with pytest.raises(ItemError, match="geometry_mismatch"):
        geometry.require_same_grid(SHAPE, AFFINE, SHAPE, flipped)


@pytest.mark.parametrize(("mask_shape", "scale", "reason"), [
    ((14, 10, 8), (0.5, 0.5, 0.5), "geometry_mismatch"),  # the same space, twice as fine
    ((7, 5, 8), (1, 1, 0.5), "geometry_mismatch"),  # finer along one axis only
    ((7, 5, 3), (1, 1, 1), "shape_mismatch"),  # the same voxels, fewer of them
    ((7, 5, 8), (1, 1, 1), "shape_mismatch"),  # the same voxels, more of them
    ((14, 10, 80), (0.5, 0.5, 0.5), "shape_mismatch"),  # finer, but ten times as long
    ((14, 9, 8), (0.5, 0.5, 0.5), "shape_mismatch"),  # a tenth shorter: no longer about the same space
    ((15, 10, 8), (0.5, 0.5, 0.5), "geometry_mismatch"),  # half a voxel more at an end, 7 %
    ((8, 5, 4), (0.995, 1, 1), "shape_mismatch"),  # a spacing that is off by half a percent is no other grid
])  # fmt: skip
def test_grids_of_another_shape(mask_shape: tuple[int, ...], scale: tuple[float, ...], reason: str) -> None:
    told = f"{reason}: image grid 7x5x4, mask grid {'x'.join(map(str, mask_shape))} "
    with pytest.raises(ItemError, match=told):
        geometry.require_same_grid((*SHAPE, 2), AFFINE, mask_shape, AFFINE @ np.diag([*scale, 1]))


def test_some_slices_more_of_the_same_voxels_are_no_grid_of_its_own() -> None:
    with pytest.raises(ItemError, match="shape_mismatch: image grid 40x40x40, mask grid 40x40x41"):
        geometry.require_same_grid((40, 40, 40), AFFINE, (40, 40, 41), AFFINE)
    finer = AFFINE @ np.diag([1, 1, 40 / 41, 1])  # over the same space they are
    with pytest.raises(ItemError, match="geometry_mismatch"):
        geometry.require_same_grid((40, 40, 40), AFFINE, (40, 40, 41), finer)


def test_a_fourth_axis_is_no_part_of_the_grid() -> None:
    geometry.require_same_grid((*SHAPE, 2), AFFINE, (*SHAPE, 9), AFFINE)
