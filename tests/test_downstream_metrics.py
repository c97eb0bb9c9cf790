"""Metrics of answers and reports: vectors with published definitions, equality with pycocoevalcap, paired intervals."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import DATA

from etl.errors import Failure, UsageError
from glip.downstream import answers, captions, clinical, meteor
from glip.downstream.paired import Bootstrap, compare
from glip.downstream.rescore import rescore

PUBLISHED = {
    "MIMIC-ABN": (0.332941485284305, 0.09640813325920791, 0.13686042310440802, 0.2517498610422844, 0.23894714779634582),
    "MIMIC-CXR": (0.41114996799739173, 0.1582088781713785, 0.17633810974007486, 0.3195399064699496, 0.3599887171235285),
    "Two-view CXR": (
        0.41651422115485026, 0.15374259548017807, 0.1780193638546961, 0.3312374427864057, 0.3873673350882368,
    ),
}  # fmt: skip
"""BLEU-1, BLEU-4, METEOR, ROUGE-L and CIDEr of the test logs beside MLRG's published result files."""


@pytest.mark.parametrize(
    ("answer", "truth", "others", "whole", "legacy"),
    [
        ("no", "no", ("yes", "no"), 1, 1),
        ("No.", "no", ("yes", "no"), 1, 1),
        ("Yes, a nodule is present", "no", ("yes", "no"), 0, 1),  # "no" is not in "nodule"
        ("unknown", "no", ("yes", "no"), 0, 1),
        ("normal chest radiograph", "no", ("yes", "no"), 0, 1),
        ("Yes, a nodule is present", "yes", ("yes", "no"), 1, 1),
        ("yes and no", "no", ("yes", "no"), 0, 1),  # both options are none
        ("the left lung", "left", ("left", "right"), 1, 1),
        ("left and right", "left", ("left", "right"), 0, 1),
        ("Both lungs", "both", ("left", "right", "both"), 1, 1),
        ("x-ray", "X-Ray", ("X-Ray", "CT"), 1, 1),
        ("", "no", ("yes", "no"), 0, 0),
    ],
)
def test_closed_answers_by_whole_tokens(
    answer: str, truth: str, others: tuple[str, ...], whole: float, legacy: float
) -> None:
    assert answers.closed_accuracy(answer, truth, others) == whole
    assert answers.substring_legacy(answer, truth) == legacy


@pytest.mark.parametrize(
    ("answer", "truth", "recall", "f1", "exact", "rouge"),
    [
        ("right upper lobe", "upper right lobe", 1, 1, 0, 2 / 3),
        ("the liver", "Liver", 1, 1, 1, 1),
        ("liver, spleen", "liver", 1, 2 / 3, 0, 2 / 3),
        ("liver", "liver spleen", 1 / 2, 2 / 3, 0, 2 / 3),
        ("lung lung", "lung", 1, 2 / 3, 0, 2 / 3),
        ("", "liver", 0, 0, 0, 0),
        ("left-sided", "left sided", 1, 1, 1, 1),
        ("The", "a", 0, 0, 0, 0),  # articles alone are compared as they are
    ],
)
def test_open_answers(answer: str, truth: str, recall: float, f1: float, exact: float, rouge: float) -> None:
    found = answers.score(answer, truth, kind="open")
    assert list(found.values()) == pytest.approx([recall, f1, exact, rouge])


def test_options_come_from_the_question() -> None:
    assert answers.options("Is there a mass?", "No") == ("yes", "no")
    assert answers.options("Is the nodule on the left or right?", "right") == ("left", "right")
    assert answers.options("Which is bigger in this image, the liver or the spleen?", "Liver") == ("Liver", "spleen")
    assert answers.options("Which organ is this?", "liver") == ("liver",)


WORDS = ["the", "heart", "is", "normal", "in", "size", ".", "no", "pleural", "effusion", "lungs", "clear"]
REPORTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)


def coco(gave: list[str], truths: list[str]) -> dict[str, float]:
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts = {n: [t] for n, t in enumerate(truths)}
    res = {n: [t] for n, t in enumerate(gave)}
    bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
    out = {f"BLEU-{n}": v for n, v in enumerate(bleu, 1)}
    return {**out, "ROUGE-L": Rouge().compute_score(gts, res)[0], "CIDEr": Cider().compute_score(gts, res)[0]}


@given(st.lists(st.tuples(REPORTS, REPORTS), min_size=1, max_size=6))
def test_equal_to_pycocoevalcap(pairs: list[tuple[str, str]]) -> None:
    gave, truths = [a for a, _ in pairs], [b for _, b in pairs]
    wanted = coco(gave, truths)
    found = captions.scores(gave, truths)
    for name, value in wanted.items():
        assert found[name].overall == pytest.approx(value, abs=1e-12), name


def test_empty_reports_score_as_in_pycocoevalcap() -> None:
    gave, truths = ["", "no effusion"], ["lungs clear", "no effusion"]
    for name, value in coco(gave, truths).items():
        assert captions.scores(gave, truths)[name].overall == pytest.approx(value, abs=1e-12), name


def test_meteor_is_that_of_pycocoevalcap_also_in_resamples() -> None:
    if meteor.missing():
        pytest.skip(str(meteor.missing()))
    from pycocoevalcap.meteor.meteor import Meteor

    rng = random.Random(3)
    truths = [" ".join(rng.choices(WORDS, k=9)) for _ in range(12)]
    gave = [t if n % 4 == 0 else " ".join(rng.sample(t.split(), 9)[:7]) for n, t in enumerate(truths)]
    reference = Meteor()
    places = [0, 0, 3, 4, 8, 8, 11]  # a resample repeats reports
    with meteor.running() as program:
        metric = program.metric(gave, truths)
        for chosen in (list(range(12)), places):
            wanted, _ = reference.compute_score(
                {n: [truths[i]] for n, i in enumerate(chosen)}, {n: [gave[i]] for n, i in enumerate(chosen)}
            )
            weights = np.bincount(chosen, minlength=12).astype(float)
            assert float(metric.value(weights @ metric.statistics)) == pytest.approx(wanted, abs=1e-12)


def test_without_java_there_is_no_meteor_and_no_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = results(tmp_path / "a.csv", [("1", "lungs clear.", "lungs clear.")] * 2)
    found = rescore(path, None, captions.clean_mlrg, Bootstrap(0))
    assert "Java" in found["missing"]["METEOR"]
    assert "METEOR" not in found["arms"]["results"]


@pytest.mark.parametrize(
    ("report", "clean"),
    [
        ("1. No effusion.  2. Heart size is normal.", "no effusion . heart size is normal ."),
        ("The lungs are\nclear.. No acute disease, (stable).", "the lungs are clear . no acute disease stable ."),
        ('XXXX-year old\'s "chest"/lungs', "xxxx-year olds chestlungs ."),
    ],
)
def test_cleaning_of_r2gen(report: str, clean: str) -> None:
    assert captions.clean_r2gen(report).split() == clean.split()


def results(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("dicom_id", "labels", "report"), *rows])
    return path


def test_two_result_files_are_compared_on_the_same_reports(tmp_path: Path) -> None:
    truth = ["the heart is normal .", "no pleural effusion .", "lungs clear .", "heart size normal ."]
    worse = results(tmp_path / "worse.csv", [(str(n), t, "the") for n, t in enumerate(truth)])
    better = results(tmp_path / "better.csv", [(str(n), t, t) for n, t in enumerate(truth)])
    found = rescore(better, worse, captions.clean_none, Bootstrap(200))
    cell = found["arms"]["results"]["BLEU-1"]
    assert cell["value"] == pytest.approx(1)
    assert cell["difference_interval"][0] > 0
    other = results(tmp_path / "other.csv", [(str(n), t, t) for n, t in enumerate(reversed(truth))])
    with pytest.raises(Failure, match="not the same reports"):
        rescore(better, other, captions.clean_none, Bootstrap(0))
    with pytest.raises(Failure, match="no result file"):
        rescore(tmp_path_csv(tmp_path), None, captions.clean_none, Bootstrap(0))


def tmp_path_csv(folder: Path) -> Path:
    (folder / "wrong.csv").write_text("a,b\n1,2\n")
    return folder / "wrong.csv"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_result_files_score_what_was_published(name: str) -> None:
    files = sorted((DATA / "MLRG" / name).glob("*.csv"))
    if not files:
        pytest.skip(f"MLRG's published result files are not in {DATA / 'MLRG' / name}")
    arm = rescore(files[0], None, captions.clean_mlrg, Bootstrap(0))["arms"]["results"]
    names = [n for n in ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr") if n in arm]
    wanted = dict(zip(("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"), PUBLISHED[name], strict=True))
    assert len(names) >= 4
    for one in names:
        assert arm[one]["value"] == pytest.approx(wanted[one], abs=1e-9), one


def test_paired_differences_are_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200) < 0.5
    better = base | (rng.random(200) < 0.1)
    units = [str(n // 4) for n in range(200)]
    arms = {"none": {"a": captions.mean_of(base)}, "predicted": {"a": captions.mean_of(better)}}
    found = compare(arms, units, Bootstrap(500))
    cell = found["predicted"]["a"]
    assert cell["difference"] == pytest.approx(float(better.mean() - base.mean()))
    low, high = cell["difference_interval"]
    assert 0 < low < cell["difference"] < high
    assert high - low < cell["interval"][1] - cell["interval"][0]
    assert compare(arms, units, Bootstrap(500)) == found


def test_a_metric_without_items_is_null() -> None:
    metric = captions.mean_of([0.0, 0.0], [False, False])
    found = compare({"none": {"a": metric}}, ["x", "y"], Bootstrap(10))["none"]["a"]
    assert (found["value"], found["interval"]) == (None, None)


def test_clinical_efficacy_by_hand() -> None:
    truth, found = np.zeros((4, 14), bool), np.zeros((4, 14), bool)
    truth[:3, 1], found[1:, 1] = True, True  # Cardiomegaly: 2 hits, 1 invented, 1 missed
    truth[0, 9] = found[0, 9] = True  # Pleural Effusion: 1 hit
    scores = {k: m.overall for k, m in clinical.efficacy(found, truth).items()}
    assert scores["CheXpert-14 micro precision"] == pytest.approx(3 / 4)
    assert scores["CheXpert-14 micro F1"] == pytest.approx(3 / 4)
    assert scores["CheXpert-14 macro recall"] == pytest.approx((2 / 3 + 1) / 14)


def test_without_weights_clinical_efficacy_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no chexbert\.pth"):
        clinical.chexbert(["lungs clear"], tmp_path)
    with pytest.raises(UsageError, match=r"no radgraph/config\.json"):
        clinical.radgraph(["lungs clear"], ["lungs clear"], tmp_path)
    (tmp_path / "chexbert.pth").write_bytes(b"")
    with pytest.raises(Failure, match="pip install f1chexbert"):
        clinical.chexbert(["lungs clear"], tmp_path)


def test_documents_are_json() -> None:
    found = compare({"none": captions.scores(["a b"], ["a c"])}, ["x"], Bootstrap(10))
    assert json.loads(json.dumps(found))["none"]["BLEU-1"]["interval"] is None
