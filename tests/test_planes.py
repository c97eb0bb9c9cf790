"""Planes by memory order equal planes cut one by one, for every way a volume may lie in memory."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from etl.pixels import geometry, intensity, planes

WAYS = [(p, f) for p in permutations(range(3)) for f in product((1, -1), repeat=3)]


def view(array: np.ndarray, way: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    """The same volume (i, j, k), lying in memory in another order."""
    order, steps = way
    stored = np.ascontiguousarray(np.transpose(array, order)[tuple(slice(None, None, s) for s in steps)])
    return np.transpose(stored[tuple(slice(None, None, s) for s in steps)], np.argsort(order))


@settings(max_examples=100)
@given(st.sampled_from(WAYS), st.tuples(*[st.integers(1, 40)] * 3), st.integers(0, 9))
def test_extents_are_those_of_each_plane(way: tuple[tuple[int, ...], tuple[int, ...]],
                                         shape: tuple[int, int, int], seed: int) -> None:
    labels = (np.random.default_rng(seed).random(shape) < 0.05) * np.random.default_rng(seed).integers(1, 4, shape)
    volume = view(labels.astype(np.uint8), way)
    tables = planes.extents(planes.in_memory(volume), 4)
    for axis in geometry.AXES:
        for index in range(geometry.plane_size(shape, axis)[0]):
            plane = geometry.plane(volume, axis, index).astype(np.int32)
            for value, box in enumerate(ndimage.find_objects(plane, 3), 1):
                area, x, y, width, height = tables[axis][index, value].tolist()
                assert area == np.count_nonzero(plane == value)
                if box is not None:
                    assert (box[1].start, box[0].start) == (x, y)
                    assert (box[1].stop, box[0].stop) == (x + width, y + height)


@settings(max_examples=60)
@given(st.sampled_from(WAYS), st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
       st.tuples(*[st.integers(1, 40)] * 3), st.booleans())
def test_greys_are_those_of_each_plane(way: tuple[tuple[int, ...], tuple[int, ...]], kind: type,
                                       shape: tuple[int, int, int], wide: bool) -> None:
    values = np.random.default_rng(1).integers(0, 200 if kind is np.uint8 else 70_000 if wide else 900, shape)
    volume = view(values.astype(kind), way)
    bounds = (30.5, 120.25)
    greys = planes.Greys(volume, bounds)
    for axis in geometry.AXES:
        for index in range(geometry.plane_size(shape, axis)[0]):
            expected = intensity.to_uint8(geometry.plane(volume, axis, index), bounds)
            np.testing.assert_array_equal(greys.plane(axis, index), expected)


@pytest.mark.parametrize("way", WAYS)
def test_eight_bits_stay_as_they_are(way: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    volume = view(np.arange(36 * 5 * 7, dtype=np.uint8).reshape(36, 5, 7), way)
    greys = planes.Greys(volume, None)
    for axis in geometry.AXES:
        np.testing.assert_array_equal(greys.plane(axis, 3), geometry.plane(volume, axis, 3))
