"""A lettered phantom looks the same from every orientation; voxels can be found again."""

from itertools import permutations, product

import numpy as np
import pytest

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
