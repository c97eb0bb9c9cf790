"""The plain kernels against tables and loops: what each one means; the compiled ones equal them in test_kernels.py."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from etl.kernels import plain

PLANE = np.array([[0, 1, 1, 0],
                  [2, 0, 1, 0],
                  [0, 2, 0, 3]], np.uint8)  # fmt: skip


def test_extents_of_one_plane() -> None:
    across, _, _ = plain.extents(PLANE[None], 5)
    assert across.shape == (1, 5, 5)
    assert across[0].tolist() == [
        [0, 0, 0, 0, 0],  # background is not counted
        [3, 0, 1, 1, 2],  # 1: rows 0 to 1, columns 1 to 2
        [2, 1, 2, 0, 1],
        [1, 2, 2, 3, 3],
        [0, 0, 0, 0, 0],  # 4 is not there
    ]


@settings(max_examples=50)
@given(hnp.arrays(st.sampled_from([np.uint8, np.int16]), hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
                  elements=st.integers(0, 4)))  # fmt: skip
def test_extents_of_each_plane_across_each_axis(labels: np.ndarray) -> None:
    tables = plain.extents(labels, 5)
    assert [table.shape for table in tables] == [(n, 5, 5) for n in labels.shape]
    assert {table.dtype for table in tables} == {np.dtype(np.int32)}
    for axis, value in product(range(3), range(1, 5)):
        for index, plane in enumerate(np.moveaxis(labels, axis, 0)):
            slow, fast = np.nonzero(plane == value)
            expected = [slow.size, slow.min(), slow.max(), fast.min(), fast.max()] if slow.size else [0] * 5
            assert tables[axis][index, value].tolist() == expected


def test_a_look_up_table_starts_at_its_first_value() -> None:
    table = np.array([10, 20, 30, 40], np.uint8)
    plane = np.array([[-2, 1], [0, -1]], np.int16)
    found = plain.looked_up(plane.T, table, -2)
    assert found.tolist() == [[10, 30], [40, 20]]
    assert found.flags.c_contiguous
    assert plain.looked_up(np.array([[130, 131]], np.uint8), table, 130).tolist() == [[10, 20]]


@pytest.mark.parametrize("axis", [1, 2])
def test_planes_across_lines_are_those_planes_one_by_one(axis: int) -> None:
    volume = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    lower, scale = np.float32(2), np.float32(9)
    for turned in ((False, False), (True, False), (False, True), (True, True)):
        found = plain.straight_across(volume, (axis, 1, 3), lower, scale, turned)
        assert found.shape == (2, 2, volume.shape[3 - axis])
        for n, plane in enumerate(found, 1):
            assert plane.tolist() == plain.straight(volume.take(n, axis), lower, scale, turned).tolist()


@pytest.mark.parametrize(("turned", "expected"), [
    ((False, False), [[0, 0, 2], [100, 255, 255]]),
    ((True, False), [[100, 255, 255], [0, 0, 2]]),  # rows in reverse
    ((False, True), [[2, 0, 0], [255, 255, 100]]),  # columns in reverse
    ((True, True), [[255, 255, 100], [2, 0, 0]]),
])  # fmt: skip
def test_straight_greys(turned: tuple[bool, bool], expected: list[list[int]]) -> None:
    plane = np.array([[-50, 11, 13], [210, 520, 9000]], np.int16)  # 11: 0.5 to the even 0; 13: 1.5 to the even 2
    found = plain.straight(plane, np.float32(10), np.float32(0.5), turned)
    assert found.tolist() == expected
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous


def test_straight_is_in_float32() -> None:
    plane, lower, scale = np.array([[1000]], np.int16), np.float32(-160), np.float32(255 / 400)
    for value in range(-160, 241):
        plane[0, 0] = value
        expected = np.rint((np.float32(value) - lower) * scale)
        assert plain.straight(plane, lower, scale, (False, False)).tolist() == [[expected]]


@pytest.mark.parametrize("corner", [(0, 0), (2, 1), (0, 3), (4, 0)])
def test_rle_is_set_where_the_part_has_the_value(corner: tuple[int, int]) -> None:
    size = (3 + 4, 4 + 3)
    expected = np.zeros(size, bool)
    expected[corner[0] : corner[0] + 3, corner[1] : corner[1] + 4] = PLANE == 2
    decoded = coco_mask.decode({"size": list(size), "counts": plain.rle(PLANE, 2, corner, size)})
    np.testing.assert_array_equal(np.asarray(decoded, bool), expected)


@pytest.mark.parametrize(("rows", "one"), [
    (["##", "##"], True),
    (["#.", ".#"], True),  # at a corner
    (["#..", "..#"], False),
    (["#.#"], False),
    (["#", ".", "#"], False),
    (["...", "..."], True),  # none at all
    (["#.#", "#.#", ".#."], True),
])  # fmt: skip
def test_connected_over_eight_neighbours(rows: list[str], one: bool) -> None:
    part = np.array([[5 if letter == "#" else 4 for letter in row] for row in rows], np.uint8)
    assert plain.connected(part, 5) is one


SPLIT = np.array([[1, 0, 2, 0],
                  [1, 0, 0, 0],
                  [0, 0, 2, 3]], np.uint8)  # fmt: skip


@pytest.mark.parametrize(("split", "least", "whole", "coded"), [
    ([False, False, False], 0, [True, True, True], [True, True, True]),
    ([True, True, True], 0, [True, False, True], [True, False, True]),  # 2 has two parts
    ([True, False, True], 0, [True, True, True], [True, True, True]),  # not to be split
    ([False, False, False], 2, [True, True, True], [True, True, False]),  # 3 has one pixel
    ([False, False, False], 2.5, [True, True, True], [False, False, False]),
    ([True, True, False], 1, [True, False, True], [True, False, True]),
])  # fmt: skip
def test_measured(split: list[bool], least: float, whole: list[bool], coded: list[bool]) -> None:
    boxes = np.array([[2, 0, 0, 1, 2], [2, 2, 0, 1, 3], [1, 3, 2, 1, 1]], np.int32)
    planes = np.stack([np.full_like(SPLIT, 9), SPLIT])
    found, codes = plain.measured(planes, np.ones(3, int), np.array([1, 2, 3]), boxes, np.array(split), least)
    assert found.tolist() == whole
    assert [code is not None for code in codes] == coded
    for value, code in enumerate(codes, 1):
        if code is not None:
            decoded = coco_mask.decode({"size": list(SPLIT.shape), "counts": code})
            np.testing.assert_array_equal(np.asarray(decoded, bool), value == SPLIT)


@pytest.mark.parametrize(("value", "grey"), [
    (-1000, 0), (-160, 0), (240, 255), (3000, 255), (40, 128),  # 127.5 to the even 128
    (-159, 1), (-159.5, 0), (239, 254), (np.nan, 0), (np.inf, 0), (-np.inf, 0), (np.float64(1e308), 255),
])  # fmt: skip
def test_scaled_between_two_bounds(value: float, grey: int) -> None:
    with np.errstate(all="ignore"):
        found = plain.scaled(np.array([[value, -160.0]]), -160, 240)
    assert found.tolist() == [[grey, 0]]
    assert found.dtype == np.uint8


def test_scaled_is_in_float64_and_in_c_order() -> None:
    plane = np.arange(6, dtype=np.float32).reshape(2, 3).T + np.float32(0.1)
    found = plain.scaled(plane, 0.1, 7.3)
    assert found.flags.c_contiguous
    assert found.tolist() == np.rint(255 * ((plane.astype(np.float64) - 0.1) / (7.3 - 0.1)).clip(0, 1)).tolist()


def test_histogram_of_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.array([[-3, 0, 2], [2, 2, -3]], np.int16)
    assert plain.histogram(np.empty(0, np.int16), 0, 3).tolist() == [0, 0, 0]
    assert plain.histogram(np.array([200, 255], np.uint8), 200, 56).nonzero()[0].tolist() == [0, 55]
    for chunk in (1, 2, 5, 1 << 22):
        monkeypatch.setattr(plain, "CHUNK", chunk)
        assert plain.histogram(values, -3, 6).tolist() == [2, 0, 0, 1, 0, 3]
        assert plain.histogram(values.T, -4, 8).tolist() == [0, 2, 0, 0, 1, 0, 3, 0]


@settings(max_examples=30)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)), st.sampled_from([1, 2, 3, 8]))
def test_block_sums_are_those_of_a_picture_enlarged(plane: np.ndarray, grid: int) -> None:
    """With each pixel drawn `grid` times along each side, every part holds whole pixels."""
    large = np.kron(plane.astype(np.int64), np.ones((grid, grid), np.int64))
    rows, columns = plane.shape
    expected = large.reshape(grid, rows, grid, columns).sum(axis=(1, 3))
    found = plain.block_sums(plane, grid)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def mixed(x: int) -> int:
    """The hash of one number in plain integers."""
    x = (x + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 % 2**64
    x ^= x >> 31
    x = x * 0x9E3779B97F4A7C15 % 2**64
    return x ^ x >> 29


@given(st.binary(max_size=40))
def test_digest_word_by_word(data: bytes) -> None:
    padded = data + bytes(-len(data) % 8)
    one = two = 0
    for place in range(1, len(padded) // 8 + 1):
        word = int.from_bytes(padded[8 * place - 8 : 8 * place], "little")
        value = mixed((word + place * 0xBF58476D1CE4E5B9) % 2**64)
        one, two = (one + value) % 2**64, (two + value * (2 * place + 1)) % 2**64
    assert plain.digest(np.frombuffer(data, np.uint8)) == (one, two)


def test_a_digest_sees_every_pixel_and_its_place() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8)
    found = {plain.digest(image)}
    for place in np.ndindex(image.shape):
        changed = image.copy()
        changed[place] ^= 128
        found.add(plain.digest(changed))
    assert len(found) == image.size + 1
    assert plain.digest(image[:, ::-1]) != plain.digest(image)


def test_repeats_across_each_axis() -> None:
    one, other = np.array([[1, 2, 3, 5]]), np.array([[1, 2, 3, 4]])
    assert plain.repeats(np.stack([one, one, other, other, other, one])) == (3, 0, 0)
    assert plain.repeats(np.stack([one, one, other], axis=1))[1] == 1
    assert plain.repeats(np.stack([one, one, one], axis=2))[2] == 2
    assert plain.repeats(np.zeros((4, 4, 4), np.int16)) == (0, 0, 0)  # of one value: background
    assert plain.repeats(np.full((2, 3, 3), 7, np.int16)) == (0, 0, 0)
    edge = np.zeros((2, 2, 2), np.int16)
    edge[:, 1, 1] = 1  # across the first axis both planes are equal, and not of one value
    assert plain.repeats(edge) == (1, 0, 0)


@pytest.mark.parametrize(("dimensions", "sizes", "furthest"), [
    (2, [4, 4, 4, 8], 5),  # beside, corners, two away, a knight's move; not the far corners
    (3, [6, 12, 8], 3),  # faces, edges, corners
])  # fmt: skip
def test_neighbours_by_distance(dimensions: int, sizes: list[int], furthest: int) -> None:
    rings = plain.neighbours(dimensions)
    assert [len(ring) for ring in rings] == sizes
    distances = [{sum(o * o for o in offset) for offset in ring} for ring in rings]
    assert all(len(d) == 1 for d in distances)
    assert distances == sorted(distances, key=min)
    assert max(distances[-1]) == furthest
    assert (0,) * dimensions not in {offset for ring in rings for offset in ring}


def slow_fingerprints(codes: np.ndarray, bound: int) -> list[int]:
    """The same place by place in plain integers."""
    reach, rings, found = (1 if codes.ndim == 3 else 2), plain.neighbours(codes.ndim), []
    for place in product(*(range(reach, n - reach) for n in codes.shape)):
        around = [[int(codes[tuple(np.add(place, offset))]) for offset in ring] for ring in rings]
        center, near = int(codes[place]), sum(around[0]) % 2**32
        local = (near * 0x85EBCA6B % 2**32 ^ center) * 0xC2B2AE35 % 2**32
        if local >> 26 or near == center * len(around[0]) % 2**32:
            continue
        code = mixed(center)
        for ring in around:
            code = mixed(code ^ sum(map(mixed, ring)) % 2**64)
        if code <= bound:
            found.append(code)
    return sorted(found)


@pytest.mark.parametrize("shape", [(23, 31), (9, 10, 11), (4, 40), (5, 5), (3, 3, 3), (2, 9, 9)])
@pytest.mark.parametrize(("values", "bound"), [(3, 2**64 - 1), (1000, 2**64 - 1), (1000, 2**63)])
def test_fingerprints_place_by_place(shape: tuple[int, ...], values: int, bound: int) -> None:
    codes = np.random.default_rng(2).integers(0, values, shape).astype(np.float32).view(np.uint32)
    assert sorted(plain.fingerprints(codes, bound).tolist()) == slow_fingerprints(codes, bound)


def test_some_places_have_fingerprints() -> None:
    """One neighbourhood in 64, and none where all is alike."""
    codes = np.random.default_rng(4).integers(0, 2**20, (80, 80), np.uint32)
    assert 40 < plain.fingerprints(codes, 2**64 - 1).size < 150
    for value, shape in product(range(300), ((5, 5), (3, 3, 3))):
        assert plain.fingerprints(np.full(shape, value, np.uint32), 2**64 - 1).size == 0
    first = plain.fingerprints(codes, 2**64 - 1)
    bound = int(np.sort(first)[10])
    assert sorted(plain.fingerprints(codes, bound).tolist()) == sorted(first[first <= bound].tolist())
    assert len(plain.fingerprints(codes, bound)) == 11  # the bound itself is in


def test_equal_volumes_have_equal_fingerprints_wherever_they_lie() -> None:
    rng = np.random.default_rng(5)
    part = rng.integers(0, 2**20, (12, 12, 12), np.uint32)
    large = rng.integers(0, 2**20, (20, 20, 20), np.uint32)
    large[3:15, 5:17, 1:13] = part
    own, theirs = (set(plain.fingerprints(v, 2**64 - 1).tolist()) for v in (part, large))
    assert own
    assert own <= theirs
    assert set(plain.fingerprints(part[:, ::-1], 2**64 - 1).tolist()) == own  # mirrored ones too
