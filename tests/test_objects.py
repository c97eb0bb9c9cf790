"""Drawn objects: boxes, polygons and run lengths of COCO, VOC, YOLO, LabelMe and CSV files."""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from etl.errors import ItemError, UsageError
from etl.kinds import Grid, Lost, Objects, listings, read_layers
from etl.manifests.load import load_manifest
from etl.manifests.manifest import Rule
from etl.pixels import shapes
from etl.pixels.regions import Found
from etl.sources import listed
from etl.sources.inventory import Inventory, inventory

SIZE = (20, 30)
GRID = Grid("images/a.png", SIZE)
floats = st.floats(-15, 45, allow_nan=False, width=32)


def pixels(found: Found, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.asarray(coco_mask.decode({"size": list(size), "counts": found.rle}))


def check_tight(found: Found, mask: np.ndarray) -> None:
    rows, columns = np.nonzero(mask)
    assert found.area == mask.sum()
    assert (found.x, found.y) == (columns.min(), rows.min())
    assert (found.width, found.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)


def read(kind: str, path: Path, labels: dict[str, str], grid: Grid = GRID, **options: Any) -> list[Any]:
    rule = Rule(image="images/{case}.png", mask="m/{case}", kind=kind, **options)
    return list(read_layers([(rule, path, None)], labels, grid))


def objects(items: list[Any]) -> list[tuple[Any, ...]]:
    return [
        (o.name, o.region.x, o.region.y, o.region.width, o.region.height, o.region.area, o.region.rle is None)
        for item in items if isinstance(item, Objects) for o in item.found
    ]  # fmt: skip


def lost(items: list[Any]) -> list[tuple[str, str]]:
    return [(item.name, item.reason) for item in items if isinstance(item, Lost)]


@given(st.lists(st.lists(floats, min_size=6, max_size=14).filter(lambda v: len(v) % 2 == 0), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_polygons_are_those_of_pycocotools(rings: list[list[float]]) -> None:
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, *SIZE)))
    if not expected.any():
        with pytest.raises(ItemError):
            shapes.polygons(rings, SIZE)
        return
    found = shapes.polygons(rings, SIZE)
    assert np.array_equal(pixels(found), expected)
    check_tight(found, expected)


masks = st.tuples(st.integers(0, 2**31), st.floats(0.02, 0.9)).map(
    lambda p: np.random.default_rng(p[0]).random(SIZE) < p[1]
)


@given(masks)
@settings(max_examples=60, deadline=None)
def test_run_lengths_in_every_form(mask: np.ndarray) -> None:
    flat = mask.T.ravel().astype(np.int8)
    if not flat.any():
        return
    starts = np.flatnonzero(np.diff(flat, prepend=0) == 1)
    ends = np.flatnonzero(np.diff(flat, append=0) == -1) + 1
    counts = np.diff(np.stack([starts, ends], 1).ravel(), prepend=0, append=flat.size).tolist()
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    one_by_one = np.flatnonzero(flat)
    for found in (
        shapes.rle({"size": list(SIZE), "counts": counts}, SIZE),
        shapes.rle({"size": list(SIZE), "counts": packed.decode()}, SIZE),
        shapes.runs(starts, ends - starts, SIZE),
        shapes.runs(one_by_one[::-1], np.ones_like(one_by_one), SIZE),
        shapes.bitmap(mask, (0, 0), SIZE),
    ):
        assert found.rle == packed
        check_tight(found, mask)


@given(floats, floats, floats, floats)
def test_boxes_are_the_whole_pixels_around(x0: float, y0: float, x1: float, y1: float) -> None:
    columns = [c for c in range(SIZE[1]) if x0 < x1 and c + 1 > x0 + 1e-6 and c < x1 - 1e-6]
    rows = [r for r in range(SIZE[0]) if y0 < y1 and r + 1 > y0 + 1e-6 and r < y1 - 1e-6]
    try:
        found = shapes.box(x0, y0, x1, y1, SIZE)
    except ItemError as error:
        reason = error.reason
        found = None
    if found is None:
        assert reason == ("empty_mask" if x1 <= x0 or y1 <= y0 else "not_placed")
        assert not columns or not rows
        return
    if columns and rows:
        assert (found.x, found.y, found.width, found.height) == (columns[0], rows[0], len(columns), len(rows))
    assert found.area == found.width * found.height
    assert found.rle is None


@pytest.mark.parametrize(
    ("coded", "reason"),
    [
        ({"size": [20, 30], "counts": [5, 5]}, "unreadable"),
        ({"size": [20, 30], "counts": [600]}, "empty_mask"),
        ({"size": [20, 30], "counts": [0, 601]}, "unreadable"),
        ({"size": [20, 30], "counts": [-5, 605]}, "unreadable"),
        ({"size": [30, 20], "counts": [0, 600]}, "shape_mismatch"),
        ({"size": [20, 30], "counts": "P" * 40}, "unreadable"),
        ({"size": [20, 30], "counts": "~~"}, "unreadable"),
        ({"counts": [600]}, "unreadable"),
    ],
)
def test_damaged_run_lengths_are_refused(coded: Any, reason: str) -> None:
    with pytest.raises(ItemError) as error:
        shapes.rle(coded, SIZE)
    assert error.value.reason == reason


def test_a_polygon_far_away_or_not_finite_is_refused_and_costs_nothing() -> None:
    for ring in ([0, 0, 1e12, 0, 5, 5], [0, 0, math.nan, 0, 5, 5], [1, 2, 3, 4]):
        with pytest.raises(ItemError, match="unreadable"):
            shapes.polygons([ring], SIZE)
    with pytest.raises(ItemError, match="not_placed"):
        shapes.polygons([[40, 1, 45, 1, 45, 9]], SIZE)


def coco_file(path: Path, annotations: list[dict[str, Any]], names: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    images = [{"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for n, name in enumerate(names)]
    categories = [{"id": 0, "name": "lung"}, {"id": 5, "name": "heart"}]
    annotations = [{"image_id": 0, "category_id": 0, **item} for item in annotations]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return path


def test_coco(tmp_path: Path) -> None:
    path = coco_file(tmp_path / "c.json", [
        {"bbox": [1.5, 2, 3, 4.2]},
        {"bbox": [1.5, 2, 3, 4.2], "segmentation": []},
        {"bbox": [0, 0, 9, 9], "segmentation": [[2, 2, 8, 2, 8, 6, 2, 6]], "category_id": 5},
        {"segmentation": {"size": [20, 30], "counts": [0, 20, 580]}, "iscrowd": 1},
        {"bbox": [50, 2, 3, 4]},
        {"bbox": [1, 1, 2, 2], "category_id": 9},
        {"bbox": None},
        {"bbox": [1, 1, 2, 2], "image_id": 1},
    ])  # fmt: skip
    items = read("coco", path, {"lung": "Lung", "heart": "Heart"})
    assert objects(items) == [
        ("Lung", 1, 2, 4, 5, 20, True), ("Lung", 1, 2, 4, 5, 20, True), ("Heart", 2, 2, 6, 4, 24, False),
        ("Lung", 0, 0, 1, 20, 20, False), ("category 9", 1, 1, 2, 2, 4, True),
    ]  # fmt: skip
    assert lost(items) == [("Lung", "not_placed"), ("Lung", "unreadable")]
    assert [o.defined for o in items[0].found] == [True] * 4 + [False]


def test_a_listed_image_without_an_object_is_background_and_another_is_not_annotated(tmp_path: Path) -> None:
    path = coco_file(tmp_path / "c.json", [{"bbox": [1, 1, 2, 2]}])
    assert read("coco", path, {"lung": "x"}, Grid("images/b.png", SIZE)) == [Objects(SIZE, ())]
    with pytest.raises(ItemError, match="no_mask"):
        read("coco", path, {"lung": "x"}, Grid("images/c.png", SIZE))
    with pytest.raises(ItemError, match="shape_mismatch"):
        read("coco", path, {"lung": "x"}, Grid("images/a.png", (21, 30)))
    with pytest.raises(ItemError, match="unsupported"):
        read("coco", path, {"lung": "x"}, Grid("images/a.png", (20, 30, 4), np.eye(4)))


def test_the_inventory_knows_the_kinds_that_list_images() -> None:
    assert set(listings.LISTINGS) == listed.LISTINGS


def test_a_shared_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = coco_file(tmp_path / "c.json", [{"bbox": [1, 1, 2, 2]}])
    parsed = []
    original = listings.LISTINGS["coco"]
    monkeypatch.setitem(listings.LISTINGS, "coco", lambda *a: parsed.append(a) or original(*a))
    for name in ("a", "b", "a"):
        read("coco", path, {"lung": "x"}, Grid(f"images/{name}.png", SIZE))
    assert len(parsed) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 3, "categories": []}', '{"images": [{"id": 1}]}'])
def test_what_is_no_coco_is_unreadable(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ItemError, match=r"unreadable: c\.json"):
        read("coco", tmp_path / "c.json", {"lung": "x"})


@pytest.mark.parametrize(
    ("listed", "path", "found"),
    [
        (["a.png"], "x/a.png", "a.png"), (["x/a.png", "y/a.png"], "y/a.png", "y/a.png"),
        (["a"], "x/a.png", "a"), (["train2017/a.png"], "x/a.png", "train2017/a.png"), (["aa.png"], "x/a.png", None),
    ],
)  # fmt: skip
def test_names_of_images(listed: list[str], path: str, found: str | None) -> None:
    entries = {name: listings.Entry() for name in listed}
    assert listings.Listing(entries, lambda what, size: what).name_of(path) == found


def test_two_listed_images_of_one_name_are_not_guessed() -> None:
    listing = listings.Listing({"u/a.png": listings.Entry(), "v/a.png": listings.Entry()}, lambda what, size: what)
    with pytest.raises(ItemError, match="listed 2 times"):
        listing.name_of("x/a.png")


def run(tmp_path: Path, files: str, rules: str) -> Inventory:
    for name in files.split():
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "toy.yaml").write_text(f"slug: toy\nmodality: xray\nlabels: {{lung: lung}}\nfiles:\n{rules}")
    return inventory(load_manifest(tmp_path / "toy.yaml"), tmp_path / "raw")


def test_pairs_by_what_a_shared_file_lists(tmp_path: Path) -> None:
    rule = "  - {image: 'im/{case}.png', mask: 'c.json', kind: coco}\n"
    (tmp_path / "raw").mkdir()
    coco_file(tmp_path / "raw/c.json", [], ("a.png", "gone.png", "other.png"))
    found = run(tmp_path, "im/a.png im/new.png else/other.png", rule)
    assert [case.case for case in found.cases] == ["a"]
    assert [(r.case, r.reason) for r in found.rejected] == [("gone", "no_image"), ("new", "no_mask")]
    with pytest.raises(UsageError, match=r"both im/a\.png and im/a/a\.png"):
        run(tmp_path, "im/a/a.png", rule.replace("{case}", "{case:.*}"))


def test_a_broken_shared_file_is_each_case_s_fault(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/c.json").write_text("{")
    found = run(tmp_path, "im/a.png", "  - {image: 'im/{case}.png', mask: 'c.json', kind: coco}\n")
    assert [case.case for case in found.cases] == ["a"]


def test_yolo(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    lines = ["0 0.5 0.5 0.2 0.5", "", "3 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5", "0 0.99 0.5 0.1 0.1", "7 0.5 0.5 0.1 0.1",
             "0 1.5 0.5 0.2 0.2", "0 0.5 0.5 0.2", "0 x 0.5 0.2 0.2"]  # fmt: skip
    path.write_text("\n".join(lines))
    items = read("yolo", path, {"0": "disc", "3": "cup"})
    assert objects(items) == [
        ("disc", 12, 5, 6, 10, 60, True), ("cup", 3, 2, 6, 8, 48, False), ("disc", 28, 9, 2, 2, 4, True),
        ("7", 13, 9, 4, 2, 8, True),
    ]  # fmt: skip
    assert lost(items) == [("disc", "not_placed"), ("disc", "unreadable"), ("disc", "unreadable")]
    path.write_text("")
    assert read("yolo", path, {"0": "disc"}) == [Objects(SIZE, ())]
    path.write_text("disc 0.5 0.5 0.1 0.1")
    with pytest.raises(ItemError, match="no class number"):
        read("yolo", path, {"0": "disc"})


@given(st.integers(1, 5000), st.integers(1, 5000), st.data())
def test_yolo_shares_of_whole_boxes_come_back_whole(rows: int, columns: int, data: st.DataObject) -> None:
    x = data.draw(st.integers(0, columns - 1))
    width = data.draw(st.integers(1, columns - x))
    share = ((x + width / 2) / columns, width / columns)
    left = (share[0] - share[1] / 2) * columns
    found = shapes.box(left, 0, left + share[1] * columns, rows, (rows, columns))
    assert (found.x, found.width) == (x, width)


VOC = """<annotation><size><width>{w}</width><height>20</height><depth>3</depth></size>
<object><name>heart</name><bndbox><xmin>3</xmin><ymin>1</ymin><xmax>5</xmax><ymax>20</ymax></bndbox></object>
<object><name>odd</name><bndbox><xmin>30</xmin><ymin>2.5</ymin><xmax>30</xmax><ymax>4.2</ymax></bndbox></object>
<object><name>heart</name><bndbox><xmin>3</xmin></bndbox></object></annotation>"""


def test_voc_counts_from_one_and_both_ends_belong_to_the_box(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(VOC.format(w=30))
    items = read("voc", path, {"heart": "Heart"})
    assert objects(items) == [("Heart", 2, 0, 3, 20, 60, True), ("odd", 29, 1, 1, 4, 4, True)]
    assert lost(items) == [("Heart", "unreadable")]
    for text, reason in ((VOC.format(w=31), "shape_mismatch"), ("<a>", "unreadable"), ("", "unreadable"),
                         ('<!DOCTYPE x [<!ENTITY e "ee">]><annotation/>', "entities")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ItemError, match=reason):
            read("voc", path, {"heart": "Heart"})


def test_labelme(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 255], [255, 255]], np.uint8)).save(stream, "PNG")
    drawn = [
        {"label": "a", "points": [[2, 2], [8, 2], [8, 6], [2, 6]], "shape_type": "polygon"},
        {"label": "a", "points": [[8.5, 6.5], [2, 2]], "shape_type": "rectangle"},
        {"label": "b", "points": [[10, 10], [10, 14]], "shape_type": "circle"},
        {"label": "b", "points": [[3, 4], [4, 5]], "shape_type": "mask",
         "mask": base64.b64encode(stream.getvalue()).decode()},
        {"label": "a", "points": [[0, 0], [3, 0], [3, 3], [0, 3]], "group_id": 1},
        {"label": "a", "points": [[20, 10], [24, 10], [24, 14], [20, 14]], "group_id": 1},
        {"label": "a", "points": [[1, 1]], "shape_type": "point"},
        {"label": "a", "points": [[1]], "shape_type": "polygon"},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"shapes": drawn, "imageHeight": 20, "imageWidth": 30}))
    items = read("labelme", path, {"a": "A", "b": "B"})
    found = objects(items)
    assert found[0] == ("A", 2, 2, 6, 4, 24, False)
    assert found[1] == ("A", 2, 2, 7, 5, 35, True)
    assert found[2][:5] == ("B", 6, 6, 8, 8)
    assert abs(found[2][5] - math.pi * 16) < 4
    assert found[3] == ("B", 3, 4, 2, 2, 3, False)
    assert found[4][:5] == ("A", 0, 0, 24, 14)
    assert lost(items) == [("A", "unsupported"), ("A", "unreadable")]


def test_csv_boxes(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("filename,width,height,class,xmin,ymin,xmax,ymax\na.png,30,20,x,1.2,2,5,6\na.png,30,20,y,0,0,2,2\n"
                    "b.png,30,20,,,,,\na.png,30,20,x,q,0,2,2\n")  # fmt: skip
    items = read("csv_boxes", path, {"x": "X"})
    assert objects(items) == [("X", 1, 2, 4, 4, 16, True), ("y", 0, 0, 2, 2, 4, True)]
    assert lost(items) == [("X", "unreadable")]
    assert read("csv_boxes", path, {"x": "X"}, Grid("images/b.png", SIZE)) == [Objects(SIZE, ())]
    path.write_text("patientId;x;y;width;height;Target\na;2;3;4.5;1;1\nb;;;;;0\n")
    items = read("csv_boxes", path, {"opacity": "Opacity"}, columns={"image": "patientId"})
    assert objects(items) == [("Opacity", 2, 3, 5, 1, 5, True)]
    with pytest.raises(ItemError, match="no column 'who'; its columns are"):
        read("csv_boxes", path, {"opacity": "Opacity"}, columns={"image": "who"})
    with pytest.raises(ItemError, match="no column of classes"):
        read("csv_boxes", path, {"a": "A", "b": "B"}, columns={"image": "patientId"})


def test_rle_csv_counts_from_one_down_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("ImageId,EncodedPixels\na,1 3 21 3\na.png,22 2\nb,\nc,-1\na,599 5\na,1 2 3\n")
    items = read("rle_csv", path, {"lung": "Lung"}, Grid("images/a.png", SIZE))
    assert objects(items) == [("Lung", 1, 1, 1, 2, 2, False)]
    path.write_text("ImageId,EncodedPixels\na,1 3 21 3\na,22 2\nb,\nc,-1\na,599 5\na,1 2 3\n")
    items = read("rle_csv", path, {"lung": "Lung"}, Grid("images/a.png", SIZE))
    assert objects(items) == [("Lung", 0, 0, 2, 3, 6, False), ("Lung", 1, 1, 1, 2, 2, False)]
    assert lost(items) == [("Lung", "unreadable"), ("Lung", "unreadable")]
    for name in ("b", "c"):
        assert read("rle_csv", path, {"lung": "Lung"}, Grid(f"{name}.png", SIZE)) == [Objects(SIZE, ())]


def test_rle_csv_along_the_rows_and_by_case_name(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("id,class,segmentation\np1_day2,lung,1 3 31 3 598 4\np1_day2,lung,32 2\n")
    grid = Grid("train/p1/day2/slice_1.png", SIZE, case="p1_day2")
    items = read("rle_csv", path, {"lung": "Lung"}, grid, runs="rows")
    assert objects(items) == [("Lung", 1, 1, 2, 1, 2, False)]
    assert lost(items) == [("Lung", "unreadable")]
    path.write_text("id,class,segmentation\np1_day2,lung,1 3 31 3 598 3\n")
    assert objects(read("rle_csv", path, {"lung": "Lung"}, grid, runs="rows")) == [("Lung", 0, 0, 30, 20, 9, False)]


def test_hundreds_of_large_objects_need_no_dense_layer(tmp_path: Path) -> None:
    names = ("a.png",)
    boxes = [{"bbox": [n % 50, n % 40, 3000, 2000]} for n in range(600)]
    rings = [{"segmentation": [[n, n, n + 2000, n, n + 2000, n + 1500, n, n + 1500]]} for n in range(100)]
    path = coco_file(tmp_path / "c.json", boxes + rings, names)
    document = json.loads(path.read_text())
    document["images"][0] |= {"height": 4000, "width": 6000}
    path.write_text(json.dumps(document))
    (found,) = read("coco", path, {"lung": "Lung"}, Grid("images/a.png", (4000, 6000)))
    assert len(found.found) == 700
    assert sum(len(o.region.rle or b"") for o in found.found) < 2_000_000
