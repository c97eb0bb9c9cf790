"""Every command that the pages show is known, and is run here, page by page, or by the test that `ELSEWHERE` names."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import NamedTuple

import doc_worlds as worlds
import pytest
import typer
import yaml
from doc_commands import ROOT, Command, commands, mentioned, pages
from doc_worlds import World
from program import medglip

from etl.cli import app

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BIN = Path(sys.executable).parent


class Elsewhere(NamedTuple):
    """A command of a page that is not run here: how its first line begins, why, and what runs the same, smaller."""

    page: str
    starts: str
    why: str
    test: str


INSTALLS = "it would change the environment that the tests run in"
ELSEWHERE = (
    *(Elsewhere("CONTRIBUTING.md", f"make {target}", "it makes what these tests run in, or runs them", ".ci/run")
      for target in ("setup", "test", "lint", "docs")),
    Elsewhere("CONTRIBUTING.md", "make mutants", "it breaks the code, hundreds of times", "tests/bench/mutants.py"),
    Elsewhere("CONTRIBUTING.md", "make constraints", "it asks the package index for the newest of everything",
              "tests/test_docs.py::test_every_command_is_known"),
    Elsewhere("README.md", "make test", "it runs these tests", ".ci/run"),
    *(Elsewhere(page, ".venv/bin/pip install", INSTALLS, "tests/test_docs.py::test_every_command_is_known")
      for page in ("README.md", "docs/explore.md", "docs/tutorial-train.md")),
    *(Elsewhere("README.md", f"medglip-etl {command}", "it loads torch, and the tutorial has it",
                "tests/test_docs.py::test_the_commands_of_a_long_page_run") for command in ("train", "ground")),
    Elsewhere("docs/cluster.md", "# cluster.py", "it needs SLURM and dask-jobqueue", "tests/test_cluster.py::cluster"),
    Elsewhere("docs/experiment.md", "import json, os, sys", "it needs mmdetection in an environment of its own",
              "tests/test_experiment.py::external"),
    *(Elsewhere("docs/experiment.md", f"medglip-etl experiment {protocol}", "it trains for minutes to days",
                "tests/test_experiment.py::finished") for protocol in ("paper", "drawn --data")),
    Elsewhere("docs/experiment.md", "medglip-etl experiment verify", "it needs the results of such a training",
              "tests/test_experiment.py::test_verify_finds_what_was_changed"),
    Elsewhere("docs/model.md", "from glip.config", "it needs the official weights",
              "tests/test_glip_train.py::test_official_weights"),
)  # fmt: skip


EXACT = ("docs/quality.md",)  # what these show is what is printed


def elsewhere(command: Command) -> bool:
    return any(command.page == e.page and command.text.startswith(e.starts) for e in ELSEWHERE)


SHORT = {"README.md": worlds.readme, "docs/data-format.md": worlds.plain, "docs/quality.md": worlds.quality,
         "docs/labels.md": worlds.labels, "docs/evaluation.md": worlds.evaluation, "docs/exports.md": worlds.plain,
         "docs/explore.md": worlds.plain}  # fmt: skip
LONG = {"docs/cluster.md": worlds.cluster, "docs/downstream.md": worlds.downstream, "docs/model.md": worlds.trained,
        "docs/experiment.md": worlds.experiment, "docs/tutorial-train.md": worlds.tutorial,
        "docs/performance-glip.md": worlds.held_out}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some of the demo, and a dataset of it with images in every split."""
    folder = tmp_path_factory.mktemp("docs")
    assert medglip("demo", folder).returncode == 0
    worlds.build(folder, folder, *("demo_us_fetal", "demo_xray_chest", "demo_ct_spine", "demo_endoscopy"))
    return folder


@pytest.mark.parametrize("page", pages())
def test_every_command_is_known(page: str) -> None:
    for command in commands(page):
        if not command.code:
            known(command, whole=True)
    for command in mentioned(page):
        known(command, whole=False)


def known(command: Command, *, whole: bool) -> None:
    """Fails for a command, option, argument, target, extra, module or file that there is not."""
    program, *words = command.words
    program = program.rsplit("/", 1)[-1]
    if program == "make":
        assert {w for w in words if "=" not in w} <= set(re.findall(r"^([\w-]+):", makefile(), re.M)), command
    elif program == "pip":
        extras = re.findall(r"\.\[(.*)\]", words[-1])[0].split(",")
        assert set(extras) <= PROJECT["optional-dependencies"].keys(), command
        assert (ROOT / words[words.index("-c") + 1]).exists(), command
    elif program == "python":
        assert importlib.util.find_spec(words[1]) if words[0] == "-m" else (ROOT / words[0]).exists(), command
    elif program == "torchrun":
        assert "train" in words, command
    else:
        parsed(list(words), whole, command)


def makefile() -> str:
    return (ROOT / "Makefile").read_text()


def parsed(words: list[str], whole: bool, command: Command) -> None:
    """Lets the program's own parser read the words; a part of a command may lack what is required."""
    at, name = typer.main.get_command(app), "medglip-etl"
    while hasattr(at, "commands") and words:
        name = words[0]
        if name not in at.commands:
            assert at.name == "experiment", f"{command.page}: {command.text}: no command {name}"  # a protocol
            break
        at, words = at.commands[name], words[1:]
    try:
        at.make_context(name, words)
    except Exception as error:
        if whole or type(error).__name__ not in ("MissingParameter", "NoArgsIsHelpError"):
            pytest.fail(f"{command.page}: {command.text}: {error}")


@pytest.mark.parametrize("line", [
    "medglip-etl bild", "medglip-etl build --raws x", "medglip-etl labels sugest", "medglip-etl build --out",
    "medglip-etl stats", "medglip-etl stats a b", "medglip-etl build --raw r --stride two", "make tests",
    ".venv/bin/pip install -c constraints.txt -e '.[explorer]'", "python -m glip.phantom",
])  # fmt: skip
def test_a_command_that_there_is_not_fails(line: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        known(Command("README.md", tuple(shlex.split(line))), whole=True)


def test_what_runs_elsewhere_is_on_its_page_and_has_its_test() -> None:
    for page, starts, _, test in ELSEWHERE:
        assert any(command.text.startswith(starts) for command in commands(page)), f"{page}: no '{starts}'"
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text() if name else (ROOT / path).exists(), test


def test_every_page_with_commands_is_run() -> None:
    wanted = {page for page in pages() if not all(map(elsewhere, commands(page)))}
    assert wanted == {*SHORT, *LONG}


@pytest.mark.parametrize("page", sorted(SHORT))
def test_the_commands_of_a_page_run(page: str, built: Path, tmp_path: Path) -> None:
    with SHORT[page](tmp_path, built) as world:
        run_page(page, world)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(LONG))
def test_the_commands_of_a_long_page_run(page: str, built: Path, tmp_path: Path) -> None:
    with LONG[page](tmp_path, built) as world:
        run_page(page, world)


def run_page(page: str, world: World) -> None:
    """Runs what a page shows in the world's folder, in order; its Python blocks are one program, and last."""
    listed = [command for command in commands(page) if not elsewhere(command)]
    for command in listed:
        if not command.code:
            run(command, world)
    if code := "".join(command.code for command in listed):
        done = started([sys.executable, "-c", code], world)
        assert done.returncode == 0, f"{page}: {done.stderr[-2000:]}"


def run(command: Command, world: World) -> None:
    for before in world.before(command):
        before()
    words = world.words(command)
    if words[0] == "make":
        installed = f"{sys.prefix}/.done"
        words = ["make", "-C", str(ROOT), "-o", installed, f"VENV={sys.prefix}", *words[1:]]
    else:
        words = [str(BIN / words[0]), *words[1:]]
    if command.words[:2] == ("medglip-etl", "explore"):
        return served(words, world)
    done = started(words, world, command.env)
    told = f"{command.page}: {command.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode in ((1, 2) if command.fails else world.codes(command)), told
    assert done.stderr.startswith("error:") or not command.fails, told
    if command.page in EXACT:
        assert done.stdout == command.shown, told
    return None


def started(words: list[str], world: World, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | (env or {}) | world.env
    return subprocess.run(words, cwd=world.folder, env=environment, capture_output=True, text=True, check=False)


def served(words: list[str], world: World) -> None:
    """Starts a server, asks for its first page, and ends it."""
    server = subprocess.Popen([*words, "--port", "0"], cwd=world.folder, env=os.environ | world.env,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        with urllib.request.urlopen(address(server)) as answer:
            assert answer.status == 200
            assert b"<title>" in answer.read()
    finally:
        server.terminate()
        server.communicate(timeout=60)


def address(server: subprocess.Popen[str]) -> str:
    told = ""
    for line in server.stderr or ():
        told += line
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise AssertionError(told)


def test_the_data_format_names_every_file_and_field(built: Path) -> None:
    import orjson

    text = (ROOT / "docs/data-format.md").read_text()
    dataset = built / "out/dataset"
    stats = orjson.loads((dataset / "stats.json").read_bytes())
    told = set(re.findall(r"`(\w+)`", text.split("## Numbers, card, report")[1].split("## Quarantine")[0]))
    assert stats.keys() <= told
    assert {*stats["by"], *stats["ledger"][0]} <= told
    coco = orjson.loads((dataset / "annotations/train.json").read_bytes())
    told = set(re.findall(r"`(\w+)`", text.split("## COCO")[1].split("## Grounding lines")[0]))
    for name, value in coco.items():
        assert {name, *(value if isinstance(value, dict) else value[0])} <= told
    for folder in (dataset, built / "out/stages"):
        for name in {path.relative_to(folder).parts[0] for path in folder.iterdir()}:
            assert name in text, f"{name} is not on the page"


def test_version_and_licence_are_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] in (PROJECT["version"], "Unreleased")


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = (ROOT / "docs/index.md").read_text()
    for path in sorted((ROOT / "docs").glob("*.md")):
        assert path.stem == "index" or re.search(rf"^{path.stem}$", listed, re.M), f"{path.name} is in no toctree"


@pytest.mark.parametrize("page", pages())
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    folders = "etl|stages|glip|tests|docs|label_maps|manifests"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+\.(?:py|csv|md|yaml|json))`", text):
        assert (ROOT / name).exists(), f"{page}: no {name}"
