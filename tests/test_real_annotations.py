"""The sample sources of boxes, polygons, arrays and DICOM masks: what their files say comes out."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from program import DATA

from etl.manifests.load import load_manifest
from etl.sources.case import Loaded, load
from etl.sources.inventory import inventory

MANIFESTS = Path(__file__).parent / "real/manifests"


def loaded(slug: str) -> dict[str, Loaded]:
    manifest = load_manifest(MANIFESTS / f"{slug}.yaml")
    if manifest.root(DATA) is None:
        pytest.skip("no test data here")
    root = manifest.root(DATA)
    found = inventory(manifest, root)
    images = [image for case in found.cases for image in load(case, manifest, root, lambda name, error: None)]
    return {image.case: image for image in images}


def objects(image: Loaded) -> list[tuple[str, bool, list[int]]]:
    return [
        (o.name, o.region.rle is None, [o.region.x, o.region.y, o.region.width, o.region.height])
        for item in image.objects for o in item.found
    ]  # fmt: skip


def test_boxes_of_coco_are_those_in_the_file() -> None:
    images = loaded("covid19_cxr_lung_boxes")
    document = json.loads((DATA / "covid19-cxr-lung-boxes/annotations/annotations.json").read_text())
    names = {image["id"]: Path(image["file_name"]).stem for image in document["images"]}
    classes = {item["id"]: item["name"] for item in document["categories"]}
    expected: dict[str, list[tuple[str, bool, list[int]]]] = {}
    for item in document["annotations"]:
        x, y, w, h = item["bbox"]
        left, top = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
        box = [left, top, min(2000, int(np.ceil(x + w))) - left, min(2000, int(np.ceil(y + h))) - top]
        expected.setdefault(names[item["image_id"]], []).append((classes[item["category_id"]], True, box))
    assert {case: objects(image) for case, image in images.items()} == expected
    for image in images.values():
        middle = {name: box[0] + box[2] / 2 for name, _, box in objects(image)}
        assert middle["Right Lung"] < middle["Left Lung"]


def test_polygons_lie_inside_the_boxes_that_others_drew() -> None:
    drawn, boxes = loaded("v7labs_covid_19_xray"), loaded("covid19_cxr_lung_boxes")
    assert sum(len(objects(image)) for image in drawn.values()) == 8
    for case, image in drawn.items():
        for name, given, (x, y, w, h) in objects(image):
            assert (name, given) == ("Lung", False)
            overlap = max(
                max(0, min(x + w, a + c) - max(x, a)) * max(0, min(y + h, b + d) - max(y, b)) / (w * h)
                for _, _, (a, b, c, d) in objects(boxes[case])
            )
            assert overlap > 0.85


@pytest.mark.parametrize(
    ("slug", "counts"),
    [
        ("codras", {"optic_disc": 3, "hard_exudates": 14, "haemorrhage": 6}),
        ("ead2019_boxes", {"bubbles": 13, "blur": 4, "specularity": 2, "artifact": 1, "saturation": 1}),
    ],
)
def test_boxes_of_yolo_are_as_many_as_lines(slug: str, counts: dict[str, int]) -> None:
    images = loaded(slug)
    assert Counter(name for image in images.values() for name, _, _ in objects(image)) == counts
    assert not any(image.lost for image in images.values())


def test_rows_of_a_sparse_matrix_are_labels() -> None:
    images = loaded("imis_btcv")
    assert sorted(images) == ["001-100", "003-139"]
    found = {name for layer in images["001-100"].layers for name in layer.names.values()}
    assert {"liver", "kidney_left", "kidney_right"} <= found
    liver = sum(int((x.array == v).sum()) for x in images["001-100"].layers for v, n in x.names.items() if n == "liver")
    assert liver > 15_000


def test_segments_and_contours_over_dicom_series() -> None:
    (image,) = loaded("dcmqi").values()
    names = [name for layer in image.layers for name in layer.names.values()]
    assert sorted(names) == ["DARK_BLUE", "GREEN", "LIGHT_BLUE", "Liver", "ORANGE", "PURPLE"]
    (image,) = loaded("dicompyler_core").values()
    assert [name for layer in image.layers for name in layer.names.values()] == ["BODY"]
    assert Counter(item.reason for item in image.lost) == {"not_placed": 9, "empty_mask": 1}
