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


@settings(max_examples=80, deadline=None)
@given(st.data(), LABELS, SHAPES)
def test_extents(data: st.DataObject, kind: type, shape: tuple[int, ...]) -> None:
    labels = data.draw(hnp.arrays(kind, shape, elements=st.integers(0, 4)))
    for one, other in zip(fast.extents(labels, 5), plain.extents(labels, 5), strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=80, deadline=None)
@given(st.data(), hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
def test_rle_is_that_of_pycocotools(data: st.DataObject, shape: tuple[int, int]) -> None:
    plane = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2)))
    plane = plane[:: data.draw(st.sampled_from([1, -1])), :: data.draw(st.sampled_from([1, -1]))]
    rows, columns = np.nonzero(plane == 2)
    if rows.size:
        box = (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max()))
        assert fast.rle(plane, 2, box) == plain.rle(plane, 2, box)


def test_rle_of_long_runs() -> None:
    plane = np.zeros((3000, 2000), np.int16)
    plane[5:2990, 7:1990] = 1
    plane[100:2000, 300:900] = 0
    plane[:, 1000:1003] = 1
    box = (0, 2999, 7, 1989)
    assert fast.rle(plane, 1, box) == plain.rle(plane, 1, box)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int16, SHAPES, elements=st.integers(-50, 50)), st.data())
def test_look_ups(volume: np.ndarray, data: st.DataObject) -> None:
    table = np.random.default_rng(0).integers(0, 256, 101).astype(np.uint8)
    start = data.draw(st.integers(0, volume.shape[2] - 1))
    stop = data.draw(st.integers(start + 1, volume.shape[2]))
    one, other = (k.looked_up_across(volume, table, -50, start, stop) for k in (fast, plain))
    np.testing.assert_array_equal(one, other)
    plane = volume[:, ::-1, start]
    np.testing.assert_array_equal(fast.looked_up(plane, table, -50), plain.looked_up(plane, table, -50))
