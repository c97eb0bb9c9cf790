"""What is installed: what is used and no more, under names that are ours alone; it runs outside a checkout."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from program import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([^#\s]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
TOOLS = {  # used by their program, or by what uses them
    "ruff", "mypy", "import-linter", "sphinx", "myst-parser", "furo", "build", "pre-commit", "pytest-xdist",
    "types-pyyaml", "pandas-stubs", "dcm2niix", "tensorboard", "python-multipart", "onnx", "onnxscript", "mmcv-lite",
    "mmengine", "pycocoevalcap",
}  # fmt: skip
MODULES = {"pillow": "PIL", "scikit-image": "skimage", "pyyaml": "yaml", "simpleitk": "SimpleITK"}


def names(requirements: list[str]) -> set[str]:
    found = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}
    return found - {PROJECT["name"]}


def imported(folders: list[str]) -> set[str]:
    text = "\n".join(p.read_text() for folder in folders for p in (ROOT / folder).rglob("*.py"))
    plain = re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE)
    return {*plain, *re.findall(r"(?:importorskip|find_spec|_package|import_module)\(\"(\w+)", text)}


def unused(wanted: set[str], folders: list[str]) -> set[str]:
    seen = {name.lower() for name in imported(folders)}
    return {n for n in wanted - TOOLS if MODULES.get(n, n.replace("-", "_")).lower() not in seen}


def test_every_dependency_is_used() -> None:
    extras = PROJECT["optional-dependencies"]
    assert not unused(names(PROJECT["dependencies"]), ["etl", "stages"])
    assert not unused(set().union(*(names(r) for e, r in extras.items() if e != "dev")), ["etl", "stages", "glip"])
    assert not unused(names(extras["dev"]), ["etl", "stages", "glip", "tests"])


def test_every_dependency_is_pinned() -> None:
    every = names([*PROJECT["dependencies"], *(r for e in PROJECT["optional-dependencies"].values() for r in e)])
    assert {name.replace(".", "-") for name in every} <= set(PINS)


def test_no_other_distribution_owns_our_names() -> None:
    """A second one would overwrite our files without a word."""
    owners = packages_distributions()  # a plain editable install is no owner here
    assert {owner for name in ("etl", "stages", "glip") for owner in owners.get(name, ())} <= {PROJECT["name"]}


@pytest.mark.slow
def test_wheel_and_sdist_run_in_an_empty_environment(tmp_path: Path) -> None:
    def run(*command: object) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run([str(c) for c in command], cwd=tmp_path, check=True, capture_output=True)

    run(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", ROOT)
    for kind in ("*.whl", "*.tar.gz"):
        run(sys.executable, "-m", "venv", "--clear", "venv")
        (file,) = (tmp_path / "dist").glob(kind)
        run("venv/bin/pip", "install", "-q", "-c", ROOT / "constraints.txt", file)
        run("venv/bin/medglip-etl", "sources", "check", "kits23", "--help")
        run("venv/bin/medglip-etl", "demo", "demo")
        build = "build --raw demo/raw --manifests demo/manifests --label-maps demo/label_maps --source demo_skin --out"
        done = run("venv/bin/medglip-etl", *build.split(), kind[-3:])
        assert re.match(rb"[1-9]\d* images, [1-9]\d* regions", done.stdout)
        assert run("venv/bin/medglip-etl", "sources", "list").stdout.count(b"\n") == 129
