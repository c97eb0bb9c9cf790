"""Which detection finds which box: by tables of boxes, and against what pycocotools says of each detection."""

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_evaluate import Rows, problems

from etl.evaluation import matching
from etl.evaluation.detections import Detections, Truth
from etl.evaluation.matching import Matches, match

ALL = (1 << 10) - 1  # found at every threshold
SQUARE = [0.0, 0, 10, 10]
Lines = list[tuple[Any, ...]]


def truth(*boxes: tuple[Any, ...], images: int = 2, categories: int = 2, **lists: list[int]) -> Truth:
    """Boxes of (image, category, box[, area[, crowd]]); the lists are cells."""
    rows = sorted([(*b, *(b[2][2] * b[2][3], False)[len(b) - 3 :]) for b in boxes], key=lambda b: b[:2])
    image, category, box, area, crowd = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    known = {key: np.array(lists[key]) if key in lists else None for key in ("negative", "not_exhaustive")}
    return Truth("t", "", [{"id": n} for n in range(images)], [{"id": n} for n in range(categories)], {},
                 np.array(image, np.int64), np.array(category, np.int64), np.array(box, float).reshape(-1, 4),
                 np.array(area, float), np.array(crowd, bool), **known)  # fmt: skip


def found(*rows: tuple[int, int, list[float]]) -> Detections:
    """Detections of (image, category, box), by falling score within image and category."""
    rows = tuple(sorted(rows, key=lambda r: r[:2]))
    rank, before = [], None
    for n, r in enumerate(rows):
        rank.append(rank[-1] + 1 if n and r[:2] == before else 0)
        before = r[:2]
    image, category, box = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections("d", "", np.array(image, np.int64), np.array(category, np.int64),
                      np.array(box, float).reshape(-1, 4), np.ones(len(rows)), np.array(rank, np.int64), 0)  # fmt: skip


def one(boxes: Lines, detections: list[list[float]]) -> Matches:
    """The matches on one image and category; boxes are (box[, area[, crowd]])."""
    return match(truth(*((0, 0, *b) for b in boxes)), found(*((0, 0, d) for d in detections)), False)


@pytest.mark.parametrize(("box", "bits"), [
    (SQUARE, ALL),
    ([0, 0, 10, 9.6], ALL),
    ([0, 0, 10, 9.4], ALL >> 1),  # an overlap of 0.94: not at 0.95
    ([0, 0, 10, 7.2], 0b11111),  # 0.5 to 0.7
    ([0, 0, 10, 5], 1),  # just at 0.5
    ([0, 0, 10, 4.9], 0),
    ([0, 0, 20, 10], 1),  # twice as wide: 100 of 200
    ([0, 0, 20, 10.5], 0),
    ([0, 0, 12, 12], 0b1111),  # 100 of 144
    ([2, 0, 10, 10], 0b1111),  # 80 of 120
    ([-2, 0, 10, 10], 0b1111), ([0, 2, 10, 10], 0b1111), ([0, -2, 10, 10], 0b1111),
    ([10, 0, 10, 10], 0), ([0, 10, 10, 10], 0),  # side by side
    ([11, 11, 10, 10], 0),  # both gaps are negative, their product is not
    ([-30, -30, 10, 10], 0),
    ([0, 0, 0, 0], 0),
])  # fmt: skip
def test_overlap_by_threshold(box: list[float], bits: int) -> None:
    matches = one([(SQUARE,)], [box])
    assert matches.good[0].tolist() == [bits]
    assert matches.bad[0].tolist() == [ALL - bits]
    assert matches.taken.tolist() == [bits]


@pytest.mark.parametrize("box", [[0.0, 0, 1, 10], [0.0, 0, 10, 1], [5.0, 5, 0.5, 0.25]])
def test_narrow_boxes_overlap(box: list[float]) -> None:
    assert one([(box,)], [box]).good[0].tolist() == [ALL]


@pytest.mark.parametrize("box", [[5.0, 5, 0, 0], [5.0, 5, 0, 3], [5.0, 5, 3, 0]])
def test_what_has_no_extent_overlaps_nothing_not_even_itself(box: list[float]) -> None:
    assert one([(box,)], [box]).good[0].tolist() == [0]


@pytest.mark.parametrize(("boxes", "detections", "good", "taken"), [
    # each detection takes one box, each box is taken once: the second find of a box is wrong
    ([SQUARE], [SQUARE, SQUARE], [ALL, 0], [ALL]),
    ([SQUARE, SQUARE], [SQUARE, SQUARE], [ALL, ALL], [ALL, ALL]),
    ([SQUARE, [50, 0, 10, 10]], [[50, 0, 10, 10], SQUARE], [ALL, ALL], [ALL, ALL]),
    # the first detection takes the box of largest overlap, whatever that leaves for the next
    ([[0, 0, 10, 10], [3, 0, 10, 10]], [[1, 0, 10, 10], [-1, 0, 10, 10]], [0b1111111, 0], [0b1111111, 0]),
    # of equal overlaps the later box
    ([[0, 0, 10, 10], [2, 0, 10, 10]], [[1, 0, 10, 10]], [0b1111111], [0, 0b1111111]),
    ([], [SQUARE], [0], []),
    ([SQUARE], [], [], [0]),
])  # fmt: skip
def test_each_box_is_taken_once(boxes: Lines, detections: Lines, good: list[int], taken: list[int]) -> None:
    matches = one([(b,) for b in boxes], detections)  # type: ignore[arg-type]
    assert matches.good[0].tolist() == good
    assert matches.bad[0].tolist() == [ALL - g for g in good]
    assert matches.taken.tolist() == taken


@pytest.mark.parametrize(("area", "counted"), [
    (0, "all small"), (100, "all small"), (1023, "all small"),
    (1024, "all small medium"),  # both bounds are in
    (1025, "all medium"), (9215, "all medium"), (9216, "all medium large"), (9217, "all large"), (1e10, "all large"),
    (1.1e10, ""),
])  # fmt: skip
def test_boxes_count_by_their_area(area: float, counted: str) -> None:
    matches = one([(SQUARE, area)], [SQUARE])
    names = ("all", "small", "medium", "large")
    assert [bool(c) for c in matches.counted[:, 0]] == [name in counted.split() for name in names]
    # a find of a box that does not count is neither right nor wrong
    assert matches.good[:, 0].tolist() == [ALL * (name in counted.split()) for name in names]
    assert not matches.bad.any()
    assert matches.taken.tolist() == [ALL]


@pytest.mark.parametrize(("side", "wrong"), [
    (10, "all small"), (32, "all small medium"), (33, "all medium"), (96, "all medium large"), (97, "all large"),
])  # fmt: skip
def test_a_wrong_find_counts_by_its_own_size(side: float, wrong: str) -> None:
    matches = one([(SQUARE,)], [[500, 500, side, side]])
    names = ("all", "small", "medium", "large")
    assert matches.bad[:, 0].tolist() == [ALL * (name in wrong.split()) for name in names]
    flat = one([(SQUARE,)], [[500, 500, side / 2, side * 2]])  # width times height
    assert flat.bad.tolist() == matches.bad.tolist()


def test_a_box_that_counts_goes_before_one_that_does_not() -> None:
    """The second box overlaps more, but is large: it counts for no small detection."""
    boxes: Lines = [([0, 0, 10, 10], 100), ([0, 0, 10, 12], 5000)]
    matches = one(boxes, [[0, 0, 10, 12]])
    small, medium = 1, 2
    assert matches.good[small, 0] == 0b1111111  # the first one, at an overlap of 10 of 12
    assert matches.bad[small, 0] == 0  # above, it took the other one: ignored
    assert matches.good[medium, 0] == ALL
    assert matches.good[0, 0] == ALL
    assert matches.taken.tolist() == [0, ALL]


def test_a_crowd_takes_any_number_and_is_measured_by_the_detection() -> None:
    crowd = ([0.0, 0, 100, 100], 10_000, True)
    matches = one([crowd], [[0, 0, 10, 10], [5, 5, 10, 10], [95, 0, 10, 10], [98, 0, 10, 10]])
    assert not matches.counted.any()
    assert not matches.good.any()
    assert matches.bad[0].tolist() == [0, 0, ALL - 1, ALL]  # half of the third lies in it, a fifth of the fourth
    assert matches.taken.tolist() == [ALL]
    free = one([(SQUARE,), crowd], [SQUARE, SQUARE])  # the box first, then the crowd around it
    assert free.good[0].tolist() == [ALL, 0]
    assert free.bad[0].tolist() == [0, 0]


def test_a_taken_box_is_passed_over_and_a_better_one_found() -> None:
    boxes = [([0.0, 0, 10, 10],), ([0.0, 0, 10, 8],), ([40.0, 0, 10, 10],)]
    matches = one(boxes, [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [40, 0, 10, 10]])
    assert matches.good[0].tolist() == [ALL, 0b111_1111, 0, ALL]
    assert matches.taken.tolist() == [ALL, 0b111_1111, ALL]


def test_images_and_categories_are_apart() -> None:
    boxes: Lines = [(0, 0, SQUARE), (0, 1, SQUARE), (1, 1, SQUARE)]
    matches = match(truth(*boxes), found((0, 0, SQUARE), (0, 1, SQUARE), (0, 1, SQUARE), (1, 0, SQUARE)), False)
    assert matches.good[0].tolist() == [ALL, ALL, 0, 0]
    assert matches.bad[0].tolist() == [0, 0, ALL, ALL]
    assert matches.taken.tolist() == [ALL, ALL, 0]
    wide = match(truth((0, 1, SQUARE), categories=3, images=3), found((1, 0, SQUARE), (2, 2, SQUARE)), False)
    assert not wide.good.any()


def test_a_hundred_detections_count() -> None:
    flood = [(0, 0, [500.0, 500, 1, 1])] * 99 + [(0, 0, SQUARE)] * 2 + [(1, 0, SQUARE)]
    matches = match(truth((0, 0, SQUARE)), found(*flood), False)
    assert matches.found.rank.tolist() == [*range(100), 0]
    assert matches.good.shape == matches.bad.shape == (4, 101)
    assert matches.good[0, 99] == ALL
    assert matches.unknown == 0
    late = match(truth((0, 0, SQUARE)), found(*[(0, 0, [500.0, 500, 1, 1])] * 100, (0, 0, SQUARE)), False)
    assert not late.good.any()


def test_federated_leaves_out_what_is_not_known() -> None:
    known = truth((0, 0, SQUARE), negative=[3], not_exhaustive=[])  # image 0 shows 0, image 1 does not show 1
    rows = [(i, c, SQUARE) for i in (0, 1) for c in (0, 1)]
    plain, federated = (match(known, found(*rows), f) for f in (False, True))
    assert (plain.unknown, len(plain.found.image)) == (0, 4)
    assert federated.unknown == 2
    assert list(zip(federated.found.image.tolist(), federated.found.category.tolist(), strict=True)) == [(0, 0), (1, 1)]
    assert federated.good[0].tolist() == [ALL, 0]
    assert federated.bad[0].tolist() == [0, ALL]
    many = match(known, found(*[(0, 1, SQUARE)] * 103), True)
    assert many.unknown == 100  # of those that count
    assert match(truth((0, 0, SQUARE)), found(*rows), True).unknown == 3  # without lists: where it has boxes


def test_federated_forgives_where_a_category_is_not_exhaustive() -> None:
    known = truth((0, 0, SQUARE), (0, 1, SQUARE), negative=[], not_exhaustive=[0])
    rows = [(0, c, box) for c in (0, 1) for box in (SQUARE, [500.0, 500, 9, 9], [0.0, 0, 10, 6.2])]
    federated, plain = (match(known, found(*rows), f) for f in (True, False))
    assert federated.good[0].tolist() == plain.good[0].tolist() == [ALL, 0, 0] * 2
    assert federated.bad[0].tolist() == [0, 0, 0, 0, ALL, ALL]
    assert plain.bad[0].tolist() == [0, ALL, ALL] * 2
    assert (federated.forgiven, plain.forgiven) == (2, 0)
    half = match(truth((0, 0, SQUARE), negative=[], not_exhaustive=[0]), found((0, 0, [0.0, 0, 10, 6.2])), True)
    assert half.forgiven == 0  # found at the least threshold
    just = match(truth((0, 0, SQUARE), negative=[], not_exhaustive=[0]), found((0, 0, [0.0, 0, 10, 5.2])), True)
    assert (just.forgiven, just.good[0].tolist()) == (0, [1])
    assert half.good[0].tolist() == [0b111]
    assert half.bad[0].tolist() == [0]
    assert match(truth((0, 0, SQUARE), negative=[]), found((0, 0, [99.0, 9, 9, 9])), True).bad[0].tolist() == [ALL]


def test_nothing_at_all() -> None:
    for federated in (False, True):
        matches = match(truth(negative=[], not_exhaustive=[]), found(), federated)
        assert (matches.good.shape, matches.taken.shape, matches.counted.shape) == ((4, 0), (0,), (4, 0))
        assert (matches.unknown, matches.forgiven) == (0, 0)


def test_the_thresholds_and_areas_of_coco() -> None:
    params = COCOeval(iouType="bbox").params
    np.testing.assert_allclose(matching.THRESHOLDS, params.iouThrs)
    np.testing.assert_array_equal(matching.AREAS, params.areaRng)
    assert params.maxDets[-1] == matching.MOST


def judged(document: dict[str, Any], results: Rows) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(document)
        coco.createIndex()
        done = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        done.evaluate()
    return done


def read(document: dict[str, Any], results: Rows) -> tuple[Truth, Detections]:
    """The same as arrays, images and categories by rank of their ids."""
    images, categories = (sorted(row["id"] for row in document[key]) for key in ("images", "categories"))
    place = [(images.index(a["image_id"]), categories.index(a["category_id"])) for a in document["annotations"]]
    annotations = zip(place, document["annotations"], strict=True)
    boxes = [(*at, a["bbox"], a["area"], bool(a["iscrowd"])) for at, a in annotations]
    falling = sorted(results, key=lambda r: -r["score"])  # stable: ties stay as in the file
    rows = [(images.index(r["image_id"]), categories.index(r["category_id"]), r["bbox"]) for r in falling]
    return truth(*boxes, images=len(images), categories=len(categories)), found(*rows)


@settings(max_examples=25)
@given(problems())
def test_each_detection_as_pycocotools_says(problem: tuple[dict[str, Any], Rows]) -> None:
    document, results = problem
    if not results:
        return
    known, detections = read(document, results)
    matches = match(known, detections, False)
    weights = 1 << np.arange(10)
    done = judged(document, results)
    per = len(document["images"])
    ids = sorted(c["id"] for c in document["categories"]), sorted(i["id"] for i in document["images"])
    for c, category in enumerate(ids[0]):
        for i, _ in enumerate(ids[1]):
            inside = (detections.image == i) & (detections.category == c)
            for area in range(4):
                theirs = done.evalImgs[(c * 4 + area) * per + i]
                if theirs is None:
                    assert not inside.any()
                    continue
                assert theirs["category_id"] == category
                hit, ignored = theirs["dtMatches"] > 0, np.asarray(theirs["dtIgnore"], bool)
                assert matches.good[area, inside].tolist() == (weights @ (hit & ~ignored)).tolist()
                assert matches.bad[area, inside].tolist() == (weights @ (~hit & ~ignored)).tolist()
                assert int(matches.counted[area, (known.image == i) & (known.category == c)].sum()) == int(
                    (np.asarray(theirs["gtIgnore"]) == 0).sum()
                )
