"""The `labels` commands that list, show, compare and measure; editing a map; phrases."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from etl.cli import app
from etl.errors import UsageError
from etl.labels import embed as label_embed
from etl.labels import evaluate as label_eval
from etl.labels import file as label_file
from etl.labels import match as label_match
from etl.labels import text as label_text
from etl.labels.maps import Mapping, load_label_map, load_ontology
from etl.labels.phrases import phrases
from etl.manifests.load import load_manifests

ROOT = Path(__file__).resolve().parents[1]
RUN = CliRunner()


def told(*command: str) -> Any:
    result = RUN.invoke(app, ["labels", *command, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_list_has_198_labels_of_38_categories_in_6_regions() -> None:
    rows = told("list")["labels"]
    assert len(rows) == 198
    assert len({row["category"] for row in rows}) == 38
    assert {row["body_region"] for row in rows} == {
        "head and neck", "chest", "abdomen", "pelvis", "spine and limbs", "skin"
    }  # fmt: skip
    assert {"Pelvis (hip)", "Head (eye)"} <= {row["category"] for row in rows}


def test_every_label_is_used_by_a_source_and_every_source_uses_one() -> None:
    used, sources = set(), 0
    for path in sorted((ROOT / "label_maps/sources").glob("*.yaml")):
        entries = load_label_map(path.stem, ROOT / "label_maps")
        used |= {m.label for m in entries.values() if m.status == "approved"}
        sources += 1
    assert sources == 129
    assert set(load_ontology(ROOT / "label_maps").labels) <= used


def test_show_finds_a_label_by_any_of_its_names() -> None:
    report = told("show", "postcava")
    assert report["name"] == "inferior vena cava"
    assert ("amos2022_ct", "postcava") in {(r["source"], r["raw_label"]) for r in report["raw_labels"]}
    assert told("show", "Lung")["parts"] == ["left lung", "right lung", *told("show", "Lung")["parts"][2:]]
    wrong = RUN.invoke(app, ["labels", "show", "livr"])
    assert wrong.exit_code == 2
    assert "did you mean 'liver'" in wrong.output


def test_phrases_begin_with_the_name_and_never_name_two_labels() -> None:
    found = phrases(load_ontology(ROOT / "label_maps"))
    assert len(found) == 198
    assert all(names[0] == label for label, names in found.items())
    every = [name.lower() for names in found.values() for name in names]
    assert len(every) == len(set(every))


TEXT = """# the toy
source: toy
labels:
  # not the fat
  a: {label: liver, status: approved, by: x}
  c: {label: spleen, status: approved, by: x}  # seen
# the end
"""


def test_an_edit_changes_its_line_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(TEXT)
    new = Mapping(label="aorta", status="approved", by="me")
    lines = label_file.edited(path, "toy", {"c": new, "b": new, "no": new}).splitlines()
    assert lines == [
        *TEXT.splitlines()[:5],
        "  b: {label: aorta, status: approved, by: me}",
        "  c: {label: aorta, status: approved, by: me}  # seen",
        "# the end",
        '  "no": {label: aorta, status: approved, by: me}',
    ]
    path.write_text(TEXT.replace("  c: {label", "  c:\n    {label"))
    with pytest.raises(UsageError, match=r"toy.yaml:7: an entry must stand on one line"):
        label_file.edited(path, "toy", {"b": new})


ODD = st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="\x85\u2028\u2029\ufeff")
NAMES = st.text(ODD, min_size=1)


@given(st.dictionaries(NAMES, NAMES, min_size=1, max_size=5))
def test_what_is_rendered_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, names: dict[str, str]) -> None:
    folder = tmp_path_factory.mktemp("maps")
    (folder / "sources").mkdir()
    entries = {raw: Mapping(label="liver", status="approved", by=why, why=why) for raw, why in names.items()}
    text = label_file.render("toy", entries)
    (folder / "sources/toy.yaml").write_text(text, encoding="utf-8")
    assert load_label_map("toy", folder) == entries
    assert {label_file.key(line) for line in text.splitlines()[2:]} == set(entries)
    for raw, entry in yaml.safe_load(text)["labels"].items():
        assert entry["why"] == names[raw]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("kidney_left", "left kidney"), ("Left Kidney", "left kidney"), ("KidneyLeft", "left kidney"),
        ("Parotid_L", "left parotid"), ("vertebrae_C5", "vertebra c5"), ("liver tumour", "liver tumor"),
        ("left and right lung", "left and right lung"), ("Haemorrhages", "hemorrhage"), ("L5", "l5"),
        ("pelvis", "pelvis"),
    ],
)  # fmt: skip
def test_normal_form(text: str, form: str) -> None:
    assert label_text.normal(text) == form


def test_the_offline_method_reaches_90_percent_of_categories_on_held_out_sources() -> None:
    methods = told("evaluate")["methods"]
    assert {"names", "offline"} <= set(methods)
    for name in ("names", "offline"):
        report = methods[name]
        assert report["sources"] == 129
        assert report["category_accuracy"] >= 0.95
        assert report["label_accuracy"] >= 0.92
        assert report["calibration_error"] <= 0.1
        assert sum(b["n"] for b in report["calibration"]) <= report["raw_labels"] + report["rejected"]


def test_a_held_out_group_is_not_remembered() -> None:
    ontology, manifests = load_ontology(ROOT / "label_maps"), load_manifests(ROOT / "manifests")
    pair = {slug: manifests[slug] for slug in ("amos2022_ct", "amos2022_mr")}
    odd = {slug: {"zzz": Mapping(label="liver", status="approved", by="x")} for slug in pair}
    cases = list(label_eval.held_out(ontology, pair, odd, label_eval.by_names))
    assert [c.proposal.label for c in cases] == [None, None]
    known = label_match.matcher(ontology, odd.values())
    assert label_match.propose(known, "zzz", label_match.context(pair["amos2022_ct"])).label == "liver"


def test_the_embedding_model_knows_a_name_without_a_common_word() -> None:
    pytest.importorskip("wordllama")
    ontology = load_ontology(ROOT / "label_maps")
    embedder = label_embed.Embedder(ontology)
    ranked = embedder.rank("bronchi", label_match.Context("toy", "ct"))
    assert ranked[0][0] == "airway"
    assert embedder.rank("baby", label_match.Context("toy", "ct"))[0][0] == "fetus"
    assert all(ranked[n][1] >= ranked[n + 1][1] for n in range(len(ranked) - 1))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    assert RUN.invoke(app, ["demo", str(folder)]).exit_code == 0
    command = ["build", "--source", "demo_skin", "--source", "demo_endoscopy", "--raw", str(folder / "raw")]
    more = ["--manifests", str(folder / "manifests"), "--label-maps", str(folder / "label_maps")]
    result = RUN.invoke(app, [*command, *more, "--out", str(folder / "out"), "--workers", "1"])
    assert result.exit_code == 0, result.output
    (folder / "label_maps/ontology.yaml").write_bytes((ROOT / "label_maps/ontology.yaml").read_bytes())
    return folder


def test_diff_counts_exactly_what_moves(built: Path, tmp_path: Path) -> None:
    new = tmp_path / "label_maps"
    (new / "sources").mkdir(parents=True)
    for path in [built / "label_maps/ontology.yaml", *(built / "label_maps/sources").glob("*.yaml")]:
        (new / path.relative_to(built / "label_maps")).write_bytes(path.read_bytes())
    changed = new / "sources/demo_endoscopy.yaml"
    changed.write_text(changed.read_text().replace("label: colorectal polyp", "label: colon cancer"))
    both = [str(built / "label_maps"), str(new)]
    assert told("diff", both[0], both[0]) == {"changes": []}
    report = told("diff", *both, "--dataset", str(built / "out"), "--crops", str(tmp_path / "crops"))
    (change,) = report["changes"]
    stats = json.loads((built / "out/dataset/stats.json").read_text())
    assert (change["source"], change["raw_label"]) == ("demo_endoscopy", "polyp")
    assert (change["before"]["label"], change["after"]["label"]) == ("colorectal polyp", "colon cancer")
    assert change["regions"] == stats["regions"] - _regions(built, "demo_skin") > 0
    assert change["images"] == stats["by"]["source"]["demo_endoscopy"]["images"]
    assert 0 < len(change["crops"]) <= 3
    crop = np.asarray(Image.open(tmp_path / "crops" / change["crops"][0]))
    assert (crop == (255, 210, 0)).all(axis=2).any()
    crops = ["--dataset", str(built / "out"), "--crops", str(tmp_path / "crops")]
    page = RUN.invoke(app, ["labels", "diff", *both, *crops])
    said = "colorectal polyp (curator) | colon cancer (curator) | Abdomen (bowel)"
    assert f"| `demo_endoscopy` | `polyp` | {said} |" in page.output
    assert "![polyp](" in page.output


def _regions(built: Path, source: str) -> int:
    import pyarrow.dataset as ds

    shards = [str(p) for p in (built / "out/dataset/shards").glob("*/*/*.parquet")]
    table = ds.dataset(shards).to_table(columns=["source", "regions"])
    return sum(len(row["regions"]) for row in table.to_pylist() if row["source"] == source)


def test_diff_of_git_revisions(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*command: str) -> None:
        who = {f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        where = ["git", "-C", str(tmp_path), *command]
        subprocess.run(where, check=True, capture_output=True, env={**os.environ, **who})

    monkeypatch.setattr("etl.cli.labels.BUNDLED", tmp_path)
    maps = tmp_path / "label_maps/sources"
    maps.mkdir(parents=True)
    (tmp_path / "label_maps/ontology.yaml").write_bytes((ROOT / "label_maps/ontology.yaml").read_bytes())
    (maps / "toy.yaml").write_text("source: toy\nlabels:\n  a: {label: liver, status: proposed, by: x}\n")
    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-qm", "one")
    (maps / "toy.yaml").write_text("source: toy\nlabels:\n  a: {label: liver, status: approved, by: y}\n")
    page = RUN.invoke(app, ["labels", "diff", "main"])
    assert "| `toy` | `a` | *proposed*: liver | liver (y) | — → Abdomen (liver) |" in page.output, page.output
    git("commit", "-qam", "two")
    assert RUN.invoke(app, ["labels", "diff", "HEAD~1..HEAD"]).output == page.output
    assert "No raw label changes" in RUN.invoke(app, ["labels", "diff", "main"]).output
    wrong = RUN.invoke(app, ["labels", "diff", "nowhere"])
    assert wrong.exit_code == 2
    assert "'nowhere' is neither a folder nor a git revision" in wrong.output


def test_no_stage_and_no_other_command_reaches_the_client() -> None:
    code = "import sys, pkgutil, importlib, stages, etl.cli\n"
    code += "[importlib.import_module(f'stages.{m.name}') for m in pkgutil.iter_modules(stages.__path__)]\n"
    code += "assert not {'openai', 'wordllama', 'etl.labels.choose'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
