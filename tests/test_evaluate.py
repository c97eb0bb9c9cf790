"""`evaluate` against pycocotools on the same files, and against datasets with images written out twice."""

import contextlib
import copy
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from program import PROGRAM
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from etl.errors import UsageError
from etl.evaluation.detections import read_dataset, read_results, read_truth
from etl.evaluation.matching import match
from etl.evaluation.precision import METRICS, RECALLS, averaged, curves, measured, ranked
from etl.evaluation.scores import Settings, evaluate

ONCE = Settings(protocol="coco", bootstrap=0)
Rows = list[dict[str, Any]]


class Federated(COCOeval):  # type: ignore[misc]
    """pycocotools with LVIS's second rule: what matches nothing is ignored where a category is not exhaustive."""

    open_cells: set[tuple[int, int]] = set()  # noqa: RUF012

    def evaluateImg(self, imgId: int, catId: int, aRng: list[float], maxDet: int) -> Any:  # noqa: N802, N803
        """As in pycocotools, then with more ignored."""
        found = super().evaluateImg(imgId, catId, aRng, maxDet)
        if found is not None and (imgId, catId) in self.open_cells:
            found["dtIgnore"] = np.logical_or(found["dtIgnore"], found["dtMatches"] == 0)
        return found


def judged(truth: dict[str, Any], results: Rows, images: Rows | None = None, kind: type = COCOeval) -> Any:
    """pycocotools' evaluation, accumulated and summarized."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        found = coco.loadRes(copy.deepcopy(results)) if results else COCO()
        if not results:
            found.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
            found.createIndex()
        done = kind(coco, found, "bbox")
        if images is not None:
            done.params.imgIds = [image["id"] for image in images]
        if kind is Federated:
            done.open_cells = {(i["id"], c) for i in truth["images"] for c in i.get("not_exhaustive_category_ids", ())}
        done.evaluate()
        done.accumulate()
        done.summarize()
    return done


def files(folder: Path, truth: dict[str, Any], results: Rows) -> tuple[Path, Path]:
    """Both as files."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "truth.json", folder / "results.json"


def numbers(values: dict[str, float | None]) -> list[float]:
    """Metrics in pycocotools' form: -1 where undefined."""
    return [-1.0 if values[name] is None else float(values[name] or 0) for name in METRICS]


def assert_equal(folder: Path, truth: dict[str, Any], results: Rows) -> None:
    """Overall, for each category, and the whole curves."""
    known = read_truth(files(folder, truth, results)[0])
    detections = read_results(folder / "results.json", known)
    expected = judged(truth, results)
    done = evaluate(known, detections, ONCE)
    np.testing.assert_allclose(numbers(done.document["overall"]["metrics"]), expected.stats, rtol=0, atol=1e-9)
    table = ranked(known, match(known, detections, False))
    precision = np.nan_to_num(curves(table, np.ones(len(known.images), np.int64)), nan=-1)
    theirs = expected.eval["precision"][:, :, :, 0, 2].transpose(2, 0, 1)
    np.testing.assert_allclose(precision, theirs, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(RECALLS, expected.params.recThrs)
    rows = [row for row in done.document["groups"] if row["by"] == "category"]
    for row, category in zip(rows, sorted(truth["categories"], key=lambda c: str(c["name"])), strict=True):
        k = [c["id"] for c in sorted(truth["categories"], key=lambda c: int(c["id"]))].index(category["id"])
        mine = theirs[k][theirs[k] > -1]
        assert row["metrics"]["AP"] == (None if not mine.size else pytest.approx(mine.mean(), abs=1e-9))


def coco(images: Rows, annotations: Rows, categories: int = 3) -> dict[str, Any]:
    """A ground truth; annotations get their ids."""
    named = [{"id": n * 7, "name": f"c{n}", "supercategory": f"s{n % 2}"} for n in range(1, categories + 1)]
    return {"images": images, "categories": named, "annotations": [a | {"id": n} for n, a in enumerate(annotations, 1)]}


def box(image: int, category: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    """An annotation, or with a score a detection."""
    area = {} if "score" in more else {"area": bbox[2] * bbox[3], "iscrowd": 0}
    return {"image_id": image, "category_id": category, "bbox": bbox, **area, **more}


SIDES = st.integers(0, 12).map(lambda n: n * 11.0)
BOXES = st.lists(SIDES, min_size=4, max_size=4)
CELLS = st.tuples(st.sampled_from([3, 5, 11, 40]), st.sampled_from([7, 14, 21]))
LISTS = st.lists(st.sampled_from([7, 14, 21]), unique=True, max_size=2)


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Any], Rows]:
    """Ground truth with crowds, and detections near it and elsewhere, with ties and duplicates."""
    annotations = [
        box(*cell, bbox, area=draw(st.floats(0, 1.2)) * bbox[2] * bbox[3], iscrowd=int(crowd == 0))
        for cell, bbox, crowd in draw(st.lists(st.tuples(CELLS, BOXES, st.integers(0, 5)), max_size=12))
    ]
    scores = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
    wild = draw(st.lists(st.tuples(CELLS, BOXES, scores), max_size=12))
    results = [box(*cell, bbox, score=score) for cell, bbox, score in wild]
    for near in draw(st.lists(st.sampled_from(annotations), max_size=12)) if annotations else []:
        moved = [max(0.0, v + draw(st.integers(-6, 6))) for v in near["bbox"]]
        results += [box(near["image_id"], near["category_id"], moved, score=draw(scores))] * draw(st.integers(1, 2))
    keys = ("neg_category_ids", "not_exhaustive_category_ids")
    images = [{"id": n} | {key: draw(LISTS) for key in keys} for n in (3, 5, 11, 40)]
    return coco(images, annotations), draw(st.permutations(results))


@settings(max_examples=60)
@given(problem=problems())
def test_equal_to_pycocotools(problem: tuple[dict[str, Any], Rows], tmp_path_factory: pytest.TempPathFactory) -> None:
    assert_equal(tmp_path_factory.mktemp("equal"), *problem)


def test_crowds_ties_more_than_100_and_what_is_empty(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    annotations, results = [], []
    for n in range(1, 13):  # images 13 and 14 have neither boxes nor detections; category 28 has no boxes
        for _ in range(random.integers(0, 9)):
            bbox = random.integers(1, 130, 4).astype(float).tolist()
            crowd = int(random.random() < 0.2)
            category, area = int(random.integers(1, 4)) * 7, bbox[2] * bbox[3] * 0.7
            annotations.append(box(n, category, bbox, iscrowd=crowd, area=area))
            for _ in range(random.integers(0, 4) + 40 * crowd):
                moved = np.abs(np.array(bbox) + random.normal(0, 7, 4)).tolist()
                results.append(box(n, annotations[-1]["category_id"], moved, score=float(random.integers(0, 9)) / 8))
        results += [box(n, 28, [1, 1, 9, 9], score=0.5)] * 2
    flood = [box(2, 7, random.uniform(1, 90, 4).tolist(), score=float(random.integers(0, 50)) / 49) for _ in range(260)]
    truth = coco([{"id": n} for n in range(14, 0, -1)], annotations, 4)
    assert_equal(tmp_path, truth, [*flood, *results])
    done = evaluate(known := read_truth(tmp_path / "truth.json"), read_results(tmp_path / "results.json", known), ONCE)
    assert done.document["detections"]["over_limit"] >= 160
    assert done.document["detections"]["duplicates"] == 12
    assert done.document["images"]["without_detections"] == 2


def test_of_boxes_that_overlap_a_detection_equally_the_later_is_taken(tmp_path: Path) -> None:
    found = [box(1, 7, [10, 0, 10, 10], score=0.9), box(1, 7, [14, 0, 10, 10], score=0.8)]
    for order in (1, -1):  # the second detection finds only the box at 12
        boxes = [box(1, 7, [8, 0, 10, 10]), box(1, 7, [12, 0, 10, 10])][::order]
        assert_equal(tmp_path, coco([{"id": 1}], boxes), found)


def test_no_detections_and_no_boxes(tmp_path: Path) -> None:
    assert_equal(tmp_path, coco([{"id": 1}], [box(1, 7, [0, 0, 9, 9])]), [])
    assert_equal(tmp_path, coco([{"id": 1}], []), [box(1, 7, [0, 0, 9, 9], score=1)])


@settings(max_examples=40)
@given(problem=problems())
def test_federated_drops_unknown_and_forgives_not_exhaustive(
    problem: tuple[dict[str, Any], Rows], tmp_path_factory: pytest.TempPathFactory
) -> None:
    truth, results = problem
    folder = tmp_path_factory.mktemp("federated")
    known = read_truth(files(folder, truth, results)[0])
    done = evaluate(known, read_results(folder / "results.json", known), Settings(bootstrap=0)).document
    cells = {(a["image_id"], a["category_id"]) for a in truth["annotations"]}
    cells |= {(i["id"], c) for i in truth["images"] for c in i["neg_category_ids"]}
    kept = [r for r in results if (r["image_id"], r["category_id"]) in cells]
    expected = judged(truth, kept, kind=Federated).stats
    np.testing.assert_allclose(numbers(done["overall"]["metrics"]), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(numbers(done["plain_coco"]), judged(truth, results).stats, rtol=0, atol=1e-9)
    assert done["detections"]["unknown"] == len(results) - len(kept)


def test_groups_of_images_are_evaluations_of_these_images(tmp_path: Path) -> None:
    truth, results = generated(6, modality=("ct", "mri"))
    known = read_truth(files(tmp_path, truth, results)[0])
    done = evaluate(known, read_results(tmp_path / "results.json", known), ONCE)
    rows = {(row["by"], row["name"]): row for row in done.document["groups"]}
    for name in ("ct", "mri"):
        images = [image for image in truth["images"] if image["modality"] == name]
        expected = judged(truth, results, images).stats
        np.testing.assert_allclose(numbers(rows["modality", name]["metrics"]), expected, rtol=0, atol=1e-9)
        assert rows["modality", name]["images"] == len(images)
    above = [rows["category", name]["metrics"]["AP"] for name in ("c1", "c3")]
    assert rows["supercategory", "s1"]["metrics"]["AP"] == pytest.approx(np.mean(above), abs=1e-12)


def generated(images: int, **facts: tuple[str, ...]) -> tuple[dict[str, Any], Rows]:
    """A few boxes and detections an image; the facts take turns."""
    random = np.random.default_rng(1)
    annotations, results = [], []
    for n in range(1, images + 1):
        for _ in range(5):
            bbox = random.integers(5, 120, 4).astype(float).tolist()
            annotations.append(box(n, int(random.integers(1, 4)) * 7, bbox))
            moved = np.abs(np.array(bbox) * random.normal(1, 0.15, 4)).tolist()
            results.append(box(n, annotations[-1]["category_id"], moved, score=float(random.random())))
            results.append(box(n, 7, random.uniform(5, 90, 4).tolist(), score=float(random.random())))
    shown = [{"id": n} | {key: values[n % len(values)] for key, values in facts.items()} for n in range(1, images + 1)]
    return coco(shown, annotations), results


def test_weights_count_images_as_often_as_if_written_out(tmp_path: Path) -> None:
    truth, results = generated(5)
    weights = np.array([2, 0, 3, 1, 1])
    known = read_truth(files(tmp_path, truth, results)[0])
    table = ranked(known, match(known, read_results(tmp_path / "results.json", known), False))
    ours = averaged(measured(table, weights), np.ones((1, 3)))[0]
    ids = [image["id"] for image in truth["images"]]
    copies = [(old, old + 100 * n) for old, w in zip(ids, weights, strict=True) for n in range(w)]
    written = coco(
        [{"id": new} for _, new in copies],
        [a | {"image_id": new} for old, new in copies for a in truth["annotations"] if a["image_id"] == old],
    )
    expected = judged(written, [r | {"image_id": new} for old, new in copies for r in results if r["image_id"] == old])
    np.testing.assert_allclose(ours, expected.stats, rtol=0, atol=1e-9)


def test_intervals_are_of_subjects_paired_and_repeatable(tmp_path: Path) -> None:
    truth, results = generated(12, subject=("a", "b", "c", "d"), source=("s", "s", "s", "t"))
    known = read_truth(files(tmp_path, truth, results)[0])
    first = read_results(tmp_path / "results.json", known)
    one = evaluate(known, first, Settings(bootstrap=60), first).document
    assert one == evaluate(known, first, Settings(bootstrap=60), first).document
    assert one["bootstrap_unit"] == "subject"
    low, high = one["overall"]["intervals"]["AP"]
    assert low < one["overall"]["metrics"]["AP"] < high
    assert one["overall"]["difference"]["AP"] == 0
    assert one["overall"]["difference_intervals"]["AP"] == [0, 0]  # unpaired draws would differ
    alone = next(row for row in one["groups"] if row["name"] == "t")
    assert (alone["units"], alone["intervals"]["AP"]) == (1, None)
    other = evaluate(known, first, Settings(bootstrap=60, seed=1)).document
    assert other["overall"]["intervals"] != one["overall"]["intervals"]


@pytest.mark.parametrize(("change", "told"), [
    ({"image_id": 99}, "1 image_id are not in truth.json: 99; evaluate against the ground truth that"),
    ({"category_id": 8}, "1 category_id are not in truth.json: 8;"),
    ({"image_id": "1"}, "write image_id as a number"),
    ({"image_id": None}, "every entry needs image_id"),
    ({"image_id": [1]}, "its image_id no number"),
    ({"bbox": [1, 2, 3]}, "entry 1: bbox [1, 2, 3]"),
    ({"bbox": [1, 2, -3, 4]}, "no negative width"),
    ({"bbox": [1, 2, "x", 4]}, "entry 1: bbox"),
    ({"score": None}, "entry 1: score None"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    truth = coco([{"id": 1}], [box(1, 7, [0, 0, 9, 9])])
    good = box(1, 7, [0, 0, 9, 9], score=0.5)
    known = read_truth(files(tmp_path, truth, [good, good | change])[0])
    with pytest.raises(UsageError) as error:
        read_results(tmp_path / "results.json", known)
    assert told in str(error.value)
    assert "results.json" in str(error.value)


def test_ground_truth_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    for truth, told in (
        (coco([{"id": 1}, {"id": 1}], []), "two images have one id"),
        (coco([{"id": 1}], [box(2, 7, [0, 0, 1, 1])]), "image_id are not in its own images: 2"),
        (coco([], []), "no images, nothing to evaluate"),
        ([], "no COCO ground truth"),
    ):
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        with pytest.raises(UsageError, match=told):
            read_truth(tmp_path / "truth.json")
    plain = read_truth(files(tmp_path, coco([{"id": 1}], []), [])[0])
    with pytest.raises(UsageError, match="no image has neg_category_ids"):
        evaluate(plain, read_results(tmp_path / "results.json", plain), Settings(protocol="federated"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded demo, one source of it."""
    folder = tmp_path_factory.mktemp("evaluate")
    subprocess.run([PROGRAM, "demo", folder], check=True, capture_output=True)
    subprocess.run([PROGRAM, "build", "--raw", folder / "raw", "--manifests", folder / "manifests", "--label-maps",
                    folder / "label_maps", "--out", folder / "out", "--source", "demo_ct_abdomen"],
                   check=True, capture_output=True)  # fmt: skip
    return folder / "out"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """The command."""
    return subprocess.run([PROGRAM, "evaluate", *map(str, words)], check=False, capture_output=True, text=True)


def test_command_on_a_built_dataset(built: Path, tmp_path: Path) -> None:
    truth = json.loads((built / "dataset" / "annotations" / "train.labels.json").read_text())
    results = [box(a["image_id"], a["category_id"], a["bbox"], score=0.9) for a in truth["annotations"][1:]]
    results.append(box(truth["images"][0]["id"], results[0]["category_id"], [0, 0, 9, 9], score=0.8))
    (tmp_path / "results.json").write_text(json.dumps(results))
    options = (tmp_path / "results.json", "--dataset", built, "--split", "train", "--level", "label", "--bootstrap", 20)
    done = run(*options, "--json", "--report", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["protocol"] == "federated"
    assert {row["by"] for row in document["groups"]} == {"label", "category", "body_region", "modality", "source"}
    assert {row["name"] for row in document["groups"] if row["by"] == "source"} == {"demo_ct_abdomen"}
    assert 0.5 < document["overall"]["metrics"]["AP"] < 1
    assert document["plain_coco"]["AP"] == pytest.approx(judged(truth, results).stats[0], abs=1e-9)
    assert document["git_commit"] is None or len(document["git_commit"].rstrip("+")) == 40
    names = {str(p.relative_to(tmp_path / "report")) for p in (tmp_path / "report").rglob("*.*")}
    assert {"evaluation.json", "groups.csv", "curves.csv", "report.md", "index.html", "curves/overall-all.svg",
            "failures/01.png"} <= names  # fmt: skip
    with Image.open(tmp_path / "report" / "failures" / "01.png") as sheet:
        colors = {color for _, color in sheet.getcolors(2**24) or []}
    assert colors & {(240, 228, 66), (213, 94, 0)}  # something missed or wrong is drawn
    before = {name: (tmp_path / "report" / name).read_bytes() for name in names}
    assert run(*options, "--report", tmp_path / "report").returncode == 0
    assert before == {name: (tmp_path / "report" / name).read_bytes() for name in names}


def test_pictures_from_the_shards_where_no_files_are(built: Path) -> None:
    from etl.evaluation.failures import pictures_of

    truth = read_dataset(built, "train", "category")
    (built / "dataset" / "images").rename(built / "dataset" / "images_gone")
    try:
        shown = pictures_of(built, "train")(truth.images[:2])
    finally:
        (built / "dataset" / "images_gone").rename(built / "dataset" / "images")
    files_shown = pictures_of(built, "train")(truth.images[:2])
    for number, picture in files_shown.items():
        np.testing.assert_array_equal(np.asarray(shown[number].convert("RGB")), np.asarray(picture))


def test_command_refuses_with_exit_2(tmp_path: Path) -> None:
    truth, results = files(tmp_path, coco([{"id": 1}], []), [box(4, 7, [0, 0, 9, 9], score=1)])
    done = run(results, "--truth", truth)
    assert (done.returncode, done.stdout) == (2, "")
    assert "image_id are not in truth.json: 4" in done.stderr
    assert run(results).returncode == 2
    assert run(results, "--truth", truth, "--dataset", tmp_path).returncode == 2
    assert run(tmp_path / "none.json", "--truth", truth).returncode == 2
