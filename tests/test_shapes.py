"""Drawn boxes, polygons, circles and run lengths: which pixels they take, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from etl.errors import ItemError
from etl.pixels import shapes
from etl.pixels.regions import Found

SIZE = (6, 9)  # rows, columns
NAN, INF = math.nan, math.inf


def facts(found: Found) -> tuple[int, ...]:
    return found.value, found.x, found.y, found.width, found.height, found.area


def pixels(found: Found, size: tuple[int, int] = SIZE) -> np.ndarray:
    assert found.rle is not None
    return np.asarray(coco_mask.decode({"size": list(size), "counts": found.rle}), bool)


def mask(*rows: str) -> np.ndarray:
    """A mask drawn with # and dots."""
    return np.array([[letter == "#" for letter in row] for row in rows])


@pytest.mark.parametrize(("corners", "expected"), [
    ((1, 2, 4, 5), (1, 2, 3, 3, 9)),
    ((0, 0, 9, 6), (0, 0, 9, 6, 54)),  # the whole picture
    ((1.2, 2.7, 3.1, 4.2), (1, 2, 3, 3, 9)),  # floored and ceiled
    ((1.9, 2.9, 2.1, 3.1), (1, 2, 2, 2, 4)),
    ((4.25, 1.5, 4.5, 1.75), (4, 1, 1, 1, 1)),  # within one pixel
    ((-3, -2, 2, 1), (0, 0, 2, 1, 2)),  # clipped at the left and the top
    ((7, 5, 20, 30), (7, 5, 2, 1, 2)),  # clipped at the right and the bottom
    ((1.0000004, 2, 3.0000004, 4), (1, 2, 2, 2, 4)),  # noise of float64 at the right edge
    ((0.9999996, 1.9999996, 3, 4), (1, 2, 2, 2, 4)),  # and at the left
    ((0.99999, 2, 3.00001, 4), (0, 2, 4, 2, 8)),  # that is no noise
    ((0.5, 0.5, 0.6, 0.6), (0, 0, 1, 1, 1)),
])  # fmt: skip
def test_a_box_takes_every_pixel_it_touches(corners: tuple[float, ...], expected: tuple[int, ...]) -> None:
    found = shapes.box(*corners, SIZE)  # type: ignore[call-arg, arg-type]
    assert facts(found) == (0, *expected)
    assert found.rle is None


@pytest.mark.parametrize(("corners", "told"), [
    ((NAN, 0, 1, 1), "unreadable: a box whose corners are no numbers"),
    ((0, INF, 1, 1), "unreadable"),
    ((0, 0, INF, 1), "unreadable"),
    ((0, 0, 1, NAN), "unreadable"),
    ((3, 1, 3, 4), "empty_mask: a box without extent"),  # no width
    ((3, 1, 2, 4), "empty_mask"),
    ((1, 4, 3, 4), "empty_mask"),  # no height
    ((1, 4, 3, 3), "empty_mask"),
    ((9, 1, 12, 4), "not_placed: box 9, 1 to 12, 4 is outside the picture 6x9"),  # right of it
    ((-4, 1, 0, 4), "not_placed"),  # left of it
    ((1, 6, 3, 8), "not_placed"),  # below
    ((1, -4, 3, 0), "not_placed"),  # above
    ((9.0000001, 1, 12, 4), "not_placed"),
])  # fmt: skip
def test_boxes_that_are_refused(corners: tuple[float, ...], told: str) -> None:
    with pytest.raises(ItemError, match=told):
        shapes.box(*corners, SIZE)  # type: ignore[call-arg, arg-type]


@given(*[st.floats(-20, 30)] * 4)
def test_a_box_lies_in_the_picture_and_holds_what_is_given(x0: float, y0: float, x1: float, y1: float) -> None:
    try:
        found = shapes.box(x0, y0, x1, y1, SIZE)
    except ItemError as error:
        reason = error.reason
    else:
        reason = ""
    if reason:
        outside = x1 <= 1e-6 or y1 <= 1e-6 or x0 >= 9 - 1e-6 or y0 >= 6 - 1e-6
        assert reason == "empty_mask" if x1 <= x0 or y1 <= y0 else outside or min(x1 - x0, y1 - y0) < 1e-5
        return
    assert 0 <= found.x < found.x + found.width <= 9
    assert 0 <= found.y < found.y + found.height <= 6
    assert found.area == found.width * found.height
    assert found.x <= max(x0, 0) + 1e-5
    assert found.x > x0 - 1 - 1e-5
    assert found.x + found.width >= min(x1, 9) - 1e-5
    assert found.x + found.width < x1 + 1 + 1e-5


def test_a_polygon_fills_what_pycocotools_fills() -> None:
    square = [1, 1, 4, 1, 4, 4, 1, 4]
    assert facts(shapes.polygons([square], SIZE)) == (0, 1, 1, 3, 3, 9)
    two = shapes.polygons([square, [6, 0, 9, 0, 9, 2, 6, 2]], SIZE)
    assert facts(two) == (0, 1, 0, 8, 4, 15)
    np.testing.assert_array_equal(pixels(two), mask(
        "......###", ".###..###", ".###.....", ".###.....", ".........", ".........",
    ))  # fmt: skip
    overlap = shapes.polygons([square, [2, 2, 6, 2, 6, 5, 2, 5]], SIZE)
    assert facts(overlap) == (0, 1, 1, 5, 4, 17)  # a pixel of both counts once


@pytest.mark.parametrize(("parts", "told"), [
    ([], "empty_mask: a polygon without corners"),
    ([[1, 1, 4, 4]], "unreadable: a polygon of 4 numbers; it needs three corners"),
    ([[]], "a polygon of 0 numbers"),
    ([[1, 1, 4, 1, 4, 4, 1]], "a polygon of 7 numbers"),  # odd
    ([[1, 1, 4, 1, 4, 4], [1, 2]], "a polygon of 2 numbers"),  # the second one
    ([[1, 1, NAN, 1, 4, 4]], "unreadable: a polygon with corners that are no numbers, or far outside"),
    ([[1, 1, INF, 1, 4, 4]], "unreadable"),
    ([[1, 1, -72.5, 1, 4, 4]], "unreadable"),  # further than 8 of its longer sides to the left
    ([[1, 1, 4, 81.5, 4, 4]], "unreadable"),  # and below
    ([[10, 1, 14, 1, 14, 4]], "not_placed: its polygon is outside the picture 6x9"),  # right
    ([[9, 1, 14, 1, 14, 4]], "not_placed"),  # at its edge
    ([[1, 6, 4, 6, 4, 9]], "not_placed"),  # below
    ([[-5, 1, -1, 1, -1, 4]], "not_placed"),  # left
    ([[-5, 1, 0, 1, 0, 4]], "not_placed"),
    ([[1, -5, 4, -5, 4, 0]], "not_placed"),  # above
    ([[2, 2, 2, 2, 2, 2]], "empty_mask: no pixel is inside it"),  # inside, without area
    ([[7, 2, 7, 2, 7, 2]], "empty_mask"),  # further right than the picture is high
    ([[0.5, 5.5, 0.5, 5.5, 0.5, 5.5]], "empty_mask"),
    ([[0, 2, 0, 2, 0, 2]], "not_placed"),  # on the very edge
    ([[2, 0, 2, 0, 2, 0]], "not_placed"), ([[9, 2, 9, 2, 9, 2]], "not_placed"), ([[2, 6, 2, 6, 2, 6]], "not_placed"),
    ([[10, 1, 14, 1, 14, 4], [2, 2, 2, 2, 2, 2]], "empty_mask"),  # one of them inside
])  # fmt: skip
def test_polygons_that_are_refused(parts: list[list[float]], told: str) -> None:
    with pytest.raises(ItemError, match=told):
        shapes.polygons(parts, SIZE)


def test_a_polygon_may_reach_far_out_of_the_picture() -> None:
    wide = [-72, 1, 81, 1, 81, 4, -72, 4]  # 8 sides of 9 pixels to each side
    assert facts(shapes.polygons([wide], SIZE)) == (0, 0, 1, 9, 3, 27)
    three = [1, 1, 5, 1, 5, 5]  # three corners are enough
    assert shapes.polygons([three], SIZE).area > 0


def test_a_circle_is_a_disc_around_its_centre() -> None:
    size = (60, 80)
    found = shapes.circle((40, 30), (50, 30), size)
    assert found.area == pytest.approx(math.pi * 100, rel=0.02)
    assert (found.x, found.y, found.width, found.height) == (30, 20, 20, 20)
    rows, columns = np.mgrid[:60, :80] + 0.5
    distance = np.hypot(columns - 40, rows - 30)
    drawn = pixels(found, size)
    assert drawn[distance < 9].all()
    assert not drawn[distance > 11].any()
    slanted = shapes.circle((40, 30), (46, 38), size)  # a point on the edge in any direction: 6, 8, 10
    assert slanted.area == found.area
    moved = shapes.circle((20, 30), (20, 20), size)
    assert (moved.x, moved.y, moved.area) == (10, 20, found.area)


def test_a_large_circle_is_round() -> None:
    found = shapes.circle((1000, 1000), (1900, 1000), (2000, 2000))
    assert found.area == pytest.approx(math.pi * 900**2, rel=2e-3)
    assert (found.x, found.y) == (100, 100)
    turns = np.radians(np.arange(360))
    corners = np.stack([1000 + 900 * np.cos(turns), 1000 + 900 * np.sin(turns)], axis=1)  # one a degree
    assert found == shapes.polygons([corners.ravel().tolist()], (2000, 2000))
    assert {found.width, found.height} <= {1799, 1800, 1801}


@pytest.mark.parametrize(("counts", "expected"), [
    ([7, 2, 45], (1, 1, 1, 2, 2)),  # column 1, rows 1 and 2
    ([0, 54], (0, 0, 9, 6, 54)),  # all of it
    ([0, 1, 53], (0, 0, 1, 1, 1)),  # the first pixel
    ([53, 1], (8, 5, 1, 1, 1)),  # the last
    ([5, 2, 47], (0, 0, 2, 6, 2)),  # over the end of a column
    ([1, 2, 3, 4, 44], (0, 0, 2, 4, 6)),  # rows 1 and 2, then the four from the top
    ([1, 0, 3, 4, 46], (0, 0, 2, 6, 4)),  # a run of nothing
    ([6, 3, 0, 3, 42], (1, 0, 1, 6, 6)),  # two runs that touch
])  # fmt: skip
def test_run_lengths_of_coco(counts: list[int], expected: tuple[int, ...]) -> None:
    flat = np.repeat([n % 2 == 1 for n in range(len(counts))], counts)
    drawn = flat.reshape(SIZE, order="F")
    packed = coco_mask.frPyObjects({"size": list(SIZE), "counts": counts}, *SIZE)["counts"].decode()
    for given_counts in (counts, packed):
        found = shapes.rle({"size": list(SIZE), "counts": given_counts}, SIZE)
        assert facts(found) == (0, *expected)
        np.testing.assert_array_equal(pixels(found), drawn)


@pytest.mark.parametrize(("coded", "told"), [
    ({"counts": [54]}, "unreadable: a run-length encoding without valid size and counts"),
    ({"size": [6, 9]}, "unreadable"),
    ({"size": None, "counts": [54]}, "unreadable"),
    ({"size": [6, "x"], "counts": [54]}, "unreadable"),
    ({"size": [6, 9], "counts": 5}, "unreadable"),
    ({"size": [9, 6], "counts": [0, 54]}, "shape_mismatch: run lengths for 9x6 on a picture 6x9"),
    ({"size": [6, 9], "counts": [0, 53]}, "unreadable: run lengths of 53 pixels for a picture 6x9"),
    ({"size": [6, 9], "counts": [0, 55]}, "unreadable: run lengths of 55 pixels"),
    ({"size": [6, 9], "counts": [-1, 55]}, "unreadable: run lengths of 54 pixels"),
    ({"size": [6, 9], "counts": [0, 5, -1, 50]}, "unreadable: run lengths of 54 pixels"),
    ({"size": [6, 9], "counts": [10, -5, 49]}, "unreadable"),
    ({"size": [6, 9], "counts": []}, "unreadable: run lengths of 0 pixels"),
    ({"size": [6, 9], "counts": [54]}, "empty_mask"),
    ({"size": [6, 9], "counts": [20, 0, 34]}, "empty_mask"),
    ({"size": [6, 9], "counts": "P"}, "counts end inside a number"),  # 'P' - '0' = 32: more follows
    ({"size": [6, 9], "counts": "0/"}, "'/' in counts"),  # a letter before '0'
    ({"size": [6, 9], "counts": "0p"}, "'p' in counts"),  # 64 above '0'
    ({"size": [6, 9], "counts": "PPPPPPPP0"}, "counts end inside a number"),  # more than 35 bits
])  # fmt: skip
def test_run_lengths_that_are_refused(coded: dict[str, Any], told: str) -> None:
    with pytest.raises(ItemError, match=told):
        shapes.rle(coded, SIZE)


def test_no_counts_of_an_empty_picture() -> None:
    with pytest.raises(ItemError, match="empty_mask"):
        shapes.rle({"size": [0, 0], "counts": []}, (0, 0))


@pytest.mark.parametrize(("text", "counts"), [
    ("", []), ("0", [0]), ("7", [7]), ("?", [15]), ("O", [-1]),
    ("123", [1, 2, 3]),  # the first three as they are
    ("1234", [1, 2, 3, 6]), ("12345", [1, 2, 3, 6, 8]),  # then differences to the one two before
    ("123O", [1, 2, 3, 1]),  # 'O' - '0' = 31: 5 bits with the sign set, -1
    ("PP1", [1024]), ("PPPPPP1", [1 << 30]),
])  # fmt: skip
def test_compressed_counts(text: str, counts: list[int]) -> None:
    assert shapes._uncompressed(text) == counts


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40_000), max_size=9))
def test_compressed_counts_are_read_back(counts: list[int]) -> None:
    size = (sum(counts), 1)
    if counts:
        coded = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)
        assert shapes._uncompressed(coded["counts"].decode()) == counts


@pytest.mark.parametrize(("starts", "lengths", "set_pixels"), [
    ([0], [1], {0}),
    ([53], [1], {53}),
    ([3, 10], [2, 1], {3, 4, 10}),
    ([10, 3], [1, 2], {3, 4, 10}),  # in any order
    ([3, 5], [2, 2], {3, 4, 5, 6}),  # that touch
    ([3, 4], [3, 1], {3, 4, 5}),  # one within the other
    ([3, 4, 8], [9, 1, 1], set(range(3, 12))),  # and a third, behind the end of the second
    ([3, 3], [2, 4], {3, 4, 5, 6}),
    ([3, 20, 30], [2, 0, 1], {3, 4, 30}),  # one of nothing
    ([0], [54], set(range(54))),
    ([54, 0], [0, 2], {0, 1}),  # of nothing, just behind the picture
])  # fmt: skip
def test_runs_down_the_columns_and_along_the_rows(starts: list[int], lengths: list[int], set_pixels: set[int]) -> None:
    flat = np.isin(np.arange(54), list(set_pixels))
    for read, order in ((shapes.runs, "F"), (shapes.row_runs, "C")):
        found = read(starts, lengths, SIZE)
        drawn = flat.reshape(SIZE, order=order)  # type: ignore[call-overload]
        np.testing.assert_array_equal(pixels(found), drawn)
        rows, columns = np.nonzero(drawn)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert facts(found) == (0, *map(int, box), len(set_pixels))
        assert found.rle == shapes.bitmap(drawn, (0, 0), SIZE).rle  # the shortest encoding: equal masks, equal bytes


@pytest.mark.parametrize(("starts", "lengths", "told"), [
    ([-1], [3], "unreadable: runs outside the picture 6x9"),
    ([3], [-1], "unreadable"),
    ([53], [2], "unreadable"),
    ([54], [1], "unreadable"),
    ([0, 55], [3, 0], "unreadable"),
    ([2**62], [2**62], "unreadable"),  # their sum is no 64-bit number
    ([], [], "empty_mask: no pixel is inside it"),
    ([4, 7], [0, 0], "empty_mask"),
])  # fmt: skip
def test_runs_that_are_refused(starts: list[int], lengths: list[int], told: str) -> None:
    for read in (shapes.runs, shapes.row_runs):
        with pytest.raises(ItemError, match=told):
            read(starts, lengths, SIZE)


@given(hnp.arrays(bool, SIZE))
def test_a_bitmap_is_its_pixels(drawn: np.ndarray) -> None:
    if not drawn.any():
        with pytest.raises(ItemError, match="empty_mask: no pixel is inside it"):
            shapes.bitmap(drawn, (0, 0), SIZE)
        return
    np.testing.assert_array_equal(pixels(shapes.bitmap(drawn, (0, 0), SIZE)), drawn)


@pytest.mark.parametrize("corner", [(0, 0), (3, 6), (1, 0), (0, 5)])
def test_a_bitmap_lies_at_its_corner(corner: tuple[int, int]) -> None:
    part = mask("##.", "..#", ".#.")
    expected = np.zeros(SIZE, bool)
    expected[corner[0] : corner[0] + 3, corner[1] : corner[1] + 3] = part
    found = shapes.bitmap(part, corner, SIZE)
    np.testing.assert_array_equal(pixels(found), expected)
    assert facts(found) == (0, corner[1], corner[0], 3, 3, 4)


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1), (4, 0), (0, 7), (99, 99)])
def test_a_bitmap_that_leaves_the_picture_is_refused(corner: tuple[int, int]) -> None:
    with pytest.raises(ItemError, match=f"not_placed: a mask 3x3 at {corner[0]}, {corner[1]} leaves the picture 6x9"):
        shapes.bitmap(np.ones((3, 3), bool), corner, SIZE)


def test_united_masks_are_one_mask() -> None:
    one, other = (shapes.bitmap(np.ones((2, 3), bool), corner, SIZE) for corner in ((0, 0), (1, 1)))
    found = shapes.united([one, other], SIZE)
    np.testing.assert_array_equal(pixels(found), mask(
        "###......", "####.....", ".###.....", ".........", ".........", ".........",
    ))  # fmt: skip
    assert facts(found) == (0, 0, 0, 4, 3, 10)
    assert shapes.united([one], SIZE) == one


def test_a_mask_and_a_given_box_are_the_box_around_both() -> None:
    drawn = shapes.bitmap(np.ones((2, 3), bool), (1, 1), SIZE)
    for parts in ([drawn, shapes.box(5, 3, 7, 4, SIZE)], [shapes.box(5, 3, 7, 4, SIZE), drawn]):
        found = shapes.united(parts, SIZE)
        assert facts(found) == (0, 1, 1, 6, 3, 18)  # columns 1 to 6, rows 1 to 3
        assert found.rle is None
    assert facts(shapes.united([shapes.box(0, 0, 9, 6, SIZE), drawn], SIZE)) == (0, 0, 0, 9, 6, 54)


def test_measured_gives_the_tight_box_and_the_area() -> None:
    coded = coco_mask.encode(np.asfortranarray(mask("....", ".#..", "...#"), np.uint8))
    found = shapes.measured(coded)
    assert facts(found) == (0, 1, 1, 3, 2, 2)
    assert found.rle == coded["counts"]
