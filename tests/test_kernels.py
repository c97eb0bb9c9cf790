"""The compiled kernels equal their plain twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from etl.kernels import plain

fast = pytest.importorskip("etl.kernels.compiled", reason="numba is not installed")
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


@given(hnp.arrays(st.sampled_from([np.int16, np.uint8]), st.integers(1, 50), elements=st.integers(0, 90)))
def test_histogram(values: np.ndarray) -> None:
    np.testing.assert_array_equal(fast.histogram(values, -5, 100), plain.histogram(values, -5, 100))


@settings(max_examples=40)
@given(hnp.arrays(np.int16, SHAPES, elements=st.integers(-50, 50)), st.sampled_from([1, 2]), st.booleans(),
       st.booleans(), st.data())  # fmt: skip
def test_look_ups(volume: np.ndarray, axis: int, rows: bool, columns: bool, data: st.DataObject) -> None:
    table = np.random.default_rng(0).integers(0, 256, 101).astype(np.uint8)
    start = data.draw(st.integers(0, volume.shape[axis] - 1))
    stop = data.draw(st.integers(start + 1, volume.shape[axis]))
    line, turned = (np.float32(-30), np.float32(2.5)), (rows, columns)
    one, other = (k.straight_across(volume, (axis, start, stop), *line, turned) for k in (fast, plain))
    np.testing.assert_array_equal(one, other)
    plane = volume[:, ::-1, 0]
    np.testing.assert_array_equal(fast.looked_up(plane, table, -50), plain.looked_up(plane, table, -50))


@settings(max_examples=60)
@given(hnp.arrays(st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=90)),
       st.sampled_from([1, 4, 32]))
def test_block_sums(plane: np.ndarray, grid: int) -> None:
    one, other = (k.block_sums(plane, grid) for k in (fast, plain))
    np.testing.assert_array_equal(one, other)
    assert one.sum() == int(plane.sum(dtype=np.int64)) * grid * grid
    np.testing.assert_array_equal(fast.block_sums(plane[:, ::-1], grid), one[:, ::-1])


@settings(max_examples=60)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_digest(image: np.ndarray) -> None:
    assert fast.digest(image) == plain.digest(image)
    changed = image.copy()
    changed.flat[-1] ^= 1
    assert fast.digest(changed)[0] != fast.digest(image)[0]
    assert fast.digest(changed)[1] != fast.digest(image)[1]


def test_digests_of_moved_words_differ() -> None:
    rows = np.random.default_rng(0).integers(0, 2, (40, 64), np.uint8)
    found = {fast.digest(np.roll(rows, n, axis=0)) for n in range(40)}
    assert len(found) == 40


@settings(max_examples=100)
@given(st.data(), st.sampled_from([np.uint8, np.int16, np.float32]), SHAPES)
def test_repeats(data: st.DataObject, kind: type, shape: tuple[int, ...]) -> None:
    volume = data.draw(hnp.arrays(kind, shape, elements=st.integers(0, 1)))
    for axis in range(3):
        places = data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=12))
        volume = np.ascontiguousarray(np.take(volume, places, axis))
        shape = volume.shape
    assert fast.repeats(volume) == plain.repeats(volume)


def test_not_a_number_is_not_repeated() -> None:
    volume = np.zeros((3, 4, 5), np.float32)
    volume[:, 2, 2] = np.nan
    assert fast.repeats(volume) == plain.repeats(volume) == (0, 0, 0)


@settings(max_examples=40)
@given(st.integers(2, 3), st.integers(0, 2**32 - 1), st.sampled_from([3, 10**6]), st.sampled_from([2**62, 2**64 - 1]))
def test_fingerprints(dimensions: int, seed: int, values: int, bound: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, values, rng.integers(5, 24, dimensions)).astype(np.float32).view(np.uint32)
    found = [np.sort(k.fingerprints(codes, bound)) for k in (fast, plain)]
    np.testing.assert_array_equal(*found)


@settings(max_examples=300)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(0, 2)),
       st.lists(st.booleans(), min_size=4, max_size=4), st.integers(0, 9))  # fmt: skip
def test_measured(planes: np.ndarray, split: list[bool], least: int) -> None:
    tables = plain.extents(planes, 4)[0]
    where, numbers = np.nonzero(tables[..., 0])
    area, low, high, left, right = tables[where, numbers].T
    there = np.stack([area, left, low, right - left + 1, high - low + 1], axis=1).astype(np.int32)
    wanted = np.array(split)[numbers]
    one, other = (k.measured(planes, where, numbers, there, wanted, least) for k in (fast, plain))
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]


@settings(max_examples=60)
@given(hnp.arrays(np.int16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)), st.integers(-2000, 2000),
       st.integers(1, 8000), st.tuples(st.booleans(), st.booleans()))  # fmt: skip
def test_straight(plane: np.ndarray, lower: int, width: int, turned: tuple[bool, bool]) -> None:
    one, other = (k.straight(plane, np.float32(lower), np.float32(255 / width), turned) for k in (fast, plain))
    np.testing.assert_array_equal(one, other)
