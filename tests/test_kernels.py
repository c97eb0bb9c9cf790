"""The compiled kernels equal their plain twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from etl import kernels_numpy as plain

fast = pytest.importorskip("etl.kernels_numba", reason="numba is not installed")
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9)
LABELS = st.sampled_from([np.uint8, np.int16, np.uint16, np.int32])


@settings(max_examples=80)
@given(st.data(), LABELS, SHAPES)
def test_extents(data: st.DataObject, kind: type, shape: tuple[int, ...]) -> None:
    labels = data.draw(hnp.arrays(kind, shape, elements=st.integers(0, 4)))
    for one, other in zip(fast.extents(labels, 5), plain.extents(labels, 5), strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=80)
@given(st.data(), hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
def test_rle_is_that_of_pycocotools(data: st.DataObject, shape: tuple[int, int]) -> None:
    part = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2)))
    part = part[:: data.draw(st.sampled_from([1, -1])), :: data.draw(st.sampled_from([1, -1]))]
    before, after = (data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) for _ in range(2))
    size = (before[0] + shape[0] + after[0], before[1] + shape[1] + after[1])
    assert fast.rle(part, 2, before, size) == plain.rle(part, 2, before, size)


def test_rle_of_long_runs() -> None:
    part = np.zeros((2990, 1990), np.int16)
    part[5:2980, 7:1980] = 1
    part[100:2000, 300:900] = 0
    part[:, 1000:1003] = 1
    assert fast.rle(part, 1, (0, 9), (2990, 2000)) == plain.rle(part, 1, (0, 9), (2990, 2000))


@settings(max_examples=60)
@given(hnp.arrays(st.sampled_from([np.float32, np.float64]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)),
       st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_scaled(plane: np.ndarray, lower: float, width: float) -> None:
    with np.errstate(all="ignore"):
        one, other = (kernels.scaled(plane, lower, lower + width) for kernels in (fast, plain))
    np.testing.assert_array_equal(one, other)


@settings(max_examples=300)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1)))
def test_connected(part: np.ndarray) -> None:
    assert fast.connected(part, 1) == plain.connected(part, 1)


@given(hnp.arrays(st.sampled_from([np.int16, np.uint8]), st.integers(1, 50), elements=st.integers(0, 90)))
def test_histogram(values: np.ndarray) -> None:
    np.testing.assert_array_equal(fast.histogram(values, -5, 100), plain.histogram(values, -5, 100))


@settings(max_examples=40)
@given(hnp.arrays(np.int16, SHAPES, elements=st.integers(-50, 50)), st.data())
def test_look_ups(volume: np.ndarray, data: st.DataObject) -> None:
    table = np.random.default_rng(0).integers(0, 256, 101).astype(np.uint8)
    start = data.draw(st.integers(0, volume.shape[2] - 1))
    stop = data.draw(st.integers(start + 1, volume.shape[2]))
    one, other = (k.looked_up_across(volume, table, -50, start, stop) for k in (fast, plain))
    np.testing.assert_array_equal(one, other)
    plane = volume[:, ::-1, start]
    np.testing.assert_array_equal(fast.looked_up(plane, table, -50), plain.looked_up(plane, table, -50))
