"""`make mutants`: does a test fail when the code it covers is broken?

usage: mutants.py [--only PART] [--most N] [--report FILE]

Each module of `mutants.yaml` is broken in one place at a time (see `mutations.py`) and its tests run against it, in a
fork of this process: libraries are imported once, an import hook gives the broken module, no file changes. A mutant
lives when no test fails and none runs without end. Of a module with more than N mutants N are taken, evenly. Those that
mean the same as the code are listed in `mutants.yaml` with the reason, and not counted.
"""

import argparse
import ast
import gc
import importlib
import importlib.util
import os
import resource
import sys
from collections.abc import Collection
from datetime import date
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import Phase, settings
from mutations import Mutant, mutants

ROOT = Path(__file__).parents[2]
LIBRARIES = ("numpy", "scipy.ndimage", "pyarrow.parquet", "pyarrow.compute", "pycocotools.mask", "pycocotools.coco",
             "numba", "hypothesis.extra.numpy", "_hypothesis_pytestplugin", "pydantic", "orjson", "PIL.Image",
             "tifffile", "nibabel", "SimpleITK", "h5py", "scipy.io", "pandas")  # fmt: skip
PROCESSES, SECONDS, MEMORY, AIM = 2, 10, 8 << 30, 0.85  # seconds of CPU: a busy machine kills no mutant
MARKS = "<!-- written by make mutants -->\n", "<!-- end -->\n"


class Score(NamedTuple):
    """How many mutants a module has, how many of them are listed as the same, were tested, were killed, and when."""

    module: str
    mutants: int
    same: int
    tested: int
    killed: int
    day: str

    @property
    def share(self) -> float:
        """The killed ones of those that were tested."""
        return self.killed / max(1, self.tested)


class Broken(MetaPathFinder, Loader):
    """Gives one module from a tree."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.path, self.tree, self.name = path, tree, ".".join(path.relative_to(ROOT).with_suffix("").parts)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """Its spec, if it is the one."""
        found = importlib.util.spec_from_file_location(fullname, self.path, loader=self)  # type: ignore[arg-type]
        return found if fullname == self.name else None

    def exec_module(self, module: Any) -> None:
        """Runs the tree as the module."""
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def started(path: Path, mutant: Mutant, tests: list[str], log: Path) -> int:
    """The process that runs the tests against a mutant: it ends with 0 if all pass."""
    if process := os.fork():
        return process
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.meta_path.insert(0, Broken(path, mutant.tree))
    plugins = "no:cacheprovider", "no:unraisableexception", "_hypothesis_pytestplugin"
    options = ["-x", "-m", "not slow", "--tb=short", "--hypothesis-profile=mutants", *(f"-p{name}" for name in plugins)]
    code = pytest.main([*options, *(str(ROOT / "tests" / test) for test in tests)])
    os._exit(int(code))


def living(path: Path, chosen: list[Mutant], tests: list[str], logs: Path) -> list[Mutant]:
    """Those of the mutants against which all tests pass."""
    todo, running, alive = list(enumerate(chosen)), dict[int, int](), []
    while todo or running:
        while todo and len(running) < PROCESSES:
            number, mutant = todo.pop(0)
            running[started(path, mutant, tests, logs / f"{path.stem}-{number}.txt")] = number
        process, status = os.wait()
        number = running.pop(process)
        alive += [number] if status == 0 else []
    return [chosen[number] for number in sorted(alive)]


def fits(mutant: Mutant, key: str) -> bool:
    """Whether a mutant's statement is the one listed, or begins so where the key ends in …."""
    return mutant.after.startswith(key[:-1]) if key.endswith("…") else mutant.after == key


def tested(name: str, plan: dict[str, Any], most: int, logs: Path) -> Score:
    """The mutants of one module against its tests; those that live are printed."""
    path, tests, same = ROOT / name, plan["tests"], plan.get("same", {})
    whole = Mutant(ast.parse(path.read_text()), 0, "", "")
    if not living(path, [whole], tests, logs):
        raise SystemExit(f"{name}: its tests fail on the code as it is, see {logs / path.stem}-0.txt")
    every = list(mutants(path))
    if stale := [key for key in same if not any(fits(m, key) for m in every)]:
        raise SystemExit(f"mutants.yaml: {name} has no such mutants: {stale}")
    counted = [m for m in every if not any(fits(m, key) for key in same)]
    step = max(1.0, len(counted) / most) if most else 1.0
    chosen = [counted[int(n * step)] for n in range(round(len(counted) / step))]
    alive = living(path, chosen, tests, logs)
    for mutant in alive:
        print(f"{name}:{mutant.line}: {mutant.before}\n  lives as: {mutant.after}", flush=True)
    return Score(name, len(every), len(every) - len(counted), len(chosen), len(chosen) - len(alive), str(date.today()))


def main() -> int:
    """0 if the tests kill at least the share AIM of the mutants of each module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="modules whose path holds this")
    parser.add_argument("--most", type=int, default=40, metavar="N", help="mutants of a module, 0: all")
    parser.add_argument("--report", type=Path, help="a page whose table gets these scores")
    given = parser.parse_args()
    os.environ |= {"MEDGLIP_KERNELS": "numpy", "NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1",
                   "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # fmt: skip
    settings.register_profile("mutants", deadline=None, derandomize=True, database=None, max_examples=25,
                              phases=[Phase.explicit, Phase.generate])  # fmt: skip
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    logs = ROOT / "out" / "mutants"
    logs.mkdir(parents=True, exist_ok=True)
    plans = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    scores = []
    for name, plan in plans.items():
        if not given.only or any(part in name for part in given.only):
            scores.append(tested(name, plan, given.most, logs))
            if given.report:
                report(given.report, scores, list(plans))
    print(table(scores), end="")
    return int(min(score.share for score in scores) < AIM)


def report(page: Path, scores: list[Score], modules: list[str]) -> None:
    """Puts scores into the table of a page, beside those of other modules."""
    before, _, rest = page.read_text().partition(MARKS[0])
    old, _, after = rest.partition(MARKS[1])
    known = written(old) | {score.module: score for score in scores}
    text = table([known[name] for name in modules if name in known])
    page.write_text(before + MARKS[0] + text + MARKS[1] + after)


def table(scores: Collection[Score]) -> str:
    """The scores as a Markdown table, with their sum."""
    whole = Score("all", *(sum(column) for column in list(zip(*scores, strict=True))[1:-1]), "")
    head = ("module", "mutants", "same meaning", "tested", "killed", "date", "score")
    lines = [head, ["---"] * len(head), *((*score, f"{score.share:.0%}") for score in (*scores, whole))]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def written(old: str) -> dict[str, Score]:
    """The scores of a table."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in old.splitlines() if ".py |" in line]
    return {name: Score(name, *map(int, counts), day) for name, *counts, day, _ in cells}


if __name__ == "__main__":
    sys.exit(main())
