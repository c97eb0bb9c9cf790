"""`labels lint` passes on the bundled maps and fails on each seeded fault."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from etl.cli import app
from etl.labels import lint as label_lint
from etl.labels.maps import load_ontology
from etl.manifests.load import load_manifests

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A copy of the ontology and of a few maps, with their manifests beside it."""
    for folder in ("label_maps/sources", "manifests"):
        (tmp_path / folder).mkdir(parents=True)
        for slug in ("acdc", "kits23", "kvasir", "cvc_clinicdb", "flare22", "totalsegmentator_ct", "msd_lung"):
            name = f"{folder}/{slug}.yaml"
            shutil.copy(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "label_maps/ontology.yaml", tmp_path / "label_maps")
    return tmp_path


def faults(folder: Path) -> list[label_lint.Problem]:
    found, problems = label_lint.load(
        load_ontology(folder / "label_maps"), load_manifests(folder / "manifests"), [folder / "label_maps"]
    )
    return [*problems, *label_lint.lint(found)]


def test_the_bundled_maps_have_no_fault() -> None:
    result = CliRunner().invoke(app, ["labels", "lint"])
    assert result.exit_code == 0, result.output
    assert "no fault" in result.output


def test_the_copy_has_no_fault(maps: Path) -> None:
    assert faults(maps) == []


SOURCES = "label_maps/sources/"
ONTOLOGY = "label_maps/ontology.yaml"
BOTH = "kidney including tumor and cyst"
SEEDED = {
    "missing entry": (SOURCES + "acdc.yaml", r"  myocardium: .*\n", "", "totality"),
    "entry without raw label": (
        SOURCES + "msd_lung.yaml", r"\Z", "  zz: {label: heart, status: approved, by: a}\n", "stale",
    ),
    "unknown label": (SOURCES + "acdc.yaml", "label: right ventricle", "label: right ventrical", "unknown-label"),
    "side swapped": (SOURCES + "flare22.yaml", "label: left kidney", "label: right kidney", "laterality"),
    "side lost": (SOURCES + "flare22.yaml", "label: left kidney", "label: kidney", "laterality"),
    "side lost to another organ": (SOURCES + "flare22.yaml", "label: left kidney", "label: liver", "laterality"),
    "side made up": (SOURCES + "kits23.yaml", "label: kidney,", "label: left kidney,", "laterality"),
    "chamber swapped": (SOURCES + "acdc.yaml", "label: left ventricle,", "label: right ventricle,", "laterality"),
    "nobody approved": (
        SOURCES + "acdc.yaml", r"myocardium, status: approved, by: curator",
        "myocardium, status: approved", "reviewer",
    ),
    "a program approved": (SOURCES + "acdc.yaml", "by: curator", 'by: "llm:some-model"', "reviewer"),
    "rejected without reason": (SOURCES + "kits23.yaml", r", why: .only a part.*\}", "}", "reason"),
    "part beside its whole": (
        SOURCES + "kits23.yaml", r"  kidney: .*\n",
        "  kidney: {label: kidney, status: approved, by: a}\n", "part-as-whole",
    ),
    "part as the whole": (
        SOURCES + "totalsegmentator_ct.yaml", "label: left lung upper lobe", "label: left lung", "part-as-whole",
    ),
    "disease as anatomy": (SOURCES + "kits23.yaml", "label: kidney tumor", "label: kidney", "kind"),
    "unsorted": (SOURCES + "acdc.yaml", r"(labels:\n)(.*\n)(.*\n)", r"\1\3\2", "format"),
    "another spelling": (
        SOURCES + "acdc.yaml", "status: approved, by: curator", "by: curator, status: approved", "format",
    ),
    "trailing blank": (SOURCES + "acdc.yaml", r"curator\}\n", "curator} \n", "format"),
    "no line end": (SOURCES + "acdc.yaml", r"\n\Z", "", "format"),
    "two meanings": (SOURCES + "cvc_clinicdb.yaml", "label: colorectal polyp", "label: colon cancer", "context"),
    "split by one source": ("manifests/kvasir.yaml", r"\Z", "", "components"),
    "synonym twice": (
        ONTOLOGY, r"name: spleen(.*?)synonyms: \[", r"name: spleen\1synonyms: [lien, Lien", "synonym-twice",
    ),
    "synonyms cross": (
        ONTOLOGY, r"name: spleen(.*?)synonyms: \[", r"name: spleen\1synonyms: [livers", "synonym-crossing",
    ),
    "197 labels": (ONTOLOGY, r"  - \{id: 198.*\n", "", "counts"),
    "category without part": (ONTOLOGY, r"Abdomen \(spleen\)", "Spleen", "category-name"),
    "category elsewhere": (
        ONTOLOGY, r"Abdomen \(spleen\), body_region: abdomen",
        "Abdomen (spleen), body_region: chest", "category-region",
    ),
    "lesion elsewhere": (
        ONTOLOGY, r"name: liver cyst, category: Abdomen \(liver\)",
        "name: liver cyst, category: Head (eye)", "category-region",
    ),
    "pair broken": (ONTOLOGY, "name: left scapula", "name: shoulder blade of the left", "pair"),
    "side of the label wrong": (ONTOLOGY, r"(name: left scapula.*?laterality: )left", r"\1right", "laterality"),
    "part of the other side": (
        ONTOLOGY, r"(name: left lung upper lobe.*?parent: )left lung", r"\1right lung", "parent",
    ),
    "same code twice": (ONTOLOGY, r"(name: thyroid nodule.*?codes: \{)\}", r'\1snomed: "78961009"}', "same-meaning"),
    "made-up code": (ONTOLOGY, r"(name: thyroid nodule.*?codes: \{)\}", r'\1radlex: "RID1"}', "code"),
}  # fmt: skip
LOST = (ONTOLOGY, r"  - \{id: 38, name: Skin[^\n]*\n", "", "unreadable")


@pytest.mark.parametrize("name", SEEDED)
def test_a_seeded_fault_is_found(maps: Path, name: str) -> None:
    file, old, new, rule = SEEDED[name]
    path = maps / file
    text = path.read_text()
    if name == "split by one source":
        text = re.sub(r"(?m)^components:.*\n", "", text)
    changed = re.sub(old, new, text, count=0 if rule == "category-name" else 1)
    assert changed != path.read_text()
    path.write_text(changed)
    assert rule in {problem.rule for problem in faults(maps)}


@pytest.mark.parametrize("name", ["side lost", "split by one source", "a category lost"])
def test_the_command_exits_1_and_names_file_line_and_rule(maps: Path, name: str) -> None:
    file, old, new, rule = {**SEEDED, "a category lost": LOST}[name]
    path = maps / file
    text = re.sub(r"(?m)^components:.*\n", "", path.read_text()) if rule == "components" else path.read_text()
    path.write_text(re.sub(old, new, text, count=1))
    overlaid = ["--manifests", str(maps / "manifests"), "--label-maps", str(maps / "label_maps")]
    result = CliRunner().invoke(app, ["labels", "lint", *overlaid])
    assert result.exit_code == 1, result.output
    assert re.search(rf"\.yaml:\d+: .*\[{rule}\]", result.output.replace("\n", " ")), result.output
    told = json.loads(CliRunner().invoke(app, ["labels", "lint", "--json", *overlaid]).stdout)
    assert not told["ok"]
    assert rule in {problem["rule"] for problem in told["problems"]}


@pytest.mark.parametrize("write", [lambda p: p.unlink(), lambda p: p.write_text("source: acdc\nlabels: [1]\n")])
def test_a_missing_or_broken_map_is_found(maps: Path, write: Callable[[Path], object]) -> None:
    write(maps / "label_maps/sources/acdc.yaml")
    assert {"totality", "unreadable"} & {problem.rule for problem in faults(maps)}


def test_a_comment_is_no_fault(maps: Path) -> None:
    path = maps / "label_maps/sources/acdc.yaml"
    path.write_text(re.sub(r"(  myocardium: .*\})", r"  # the wall\n\1  # seen in all cases", path.read_text()))
    assert faults(maps) == []
