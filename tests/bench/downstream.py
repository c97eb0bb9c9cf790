"""The experiment on generated data, end to end: what boxes are worth where they tell the answer, and where they do not.

Usage: python tests/bench/downstream.py FOLDER [--studies 600]; prints Markdown tables and the CPU seconds of each part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from glip.downstream.experiment import order_holds
from glip.downstream.generated import write

PROGRAM = str(Path(sys.executable).with_name("medglip-etl"))
SHOWN = {
    "vqa": ("accuracy", "closed_accuracy", "open_recall", "open_exact"),
    "report": ("CIDEr", "BLEU-1", "BLEU-4", "ROUGE-L", "METEOR"),
}
"""By task; the first says what the order of the arms is. BLEU also rewards a report for a likely length."""


def run(folder: Path, task: str, *more: str) -> tuple[dict[str, Any], float]:
    """(the document, CPU seconds) of one command."""
    before = sum(_children())
    command = [PROGRAM, "downstream", task, str(folder), "--found", str(folder / "found"), "--out", str(folder / task)]
    done = subprocess.run([*command, "--json", *more], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout), sum(_children()) - before


def _children() -> tuple[float, float]:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime, used.ru_stime


def table(document: dict[str, Any]) -> list[str]:
    """Metrics by arms with intervals."""
    arms = document["arms"]
    lines = ["| metric | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for name in SHOWN[document["task"]]:
        cells = []
        for arm in arms:
            cell = arms[arm].get(name)
            bounds = cell["interval"] if cell else None
            cells.append(f"{cell['value']:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]" if cell and bounds else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Both sets, both tasks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", type=int, default=600)
    given = parser.parse_args()
    for informative in (True, False):
        folder = given.folder / ("informative" if informative else "uninformative")
        write(folder, studies=given.studies, informative=informative)
        for task in ("vqa", "report"):
            start = time.monotonic()
            document, cpu = run(folder, task)
            print(f"\n## {task}, boxes {folder.name}: {cpu:.0f} CPU s, {time.monotonic() - start:.0f} s\n")
            print("\n".join(table(document)))
            print(order_holds(document, SHOWN[task][0]), flush=True)


if __name__ == "__main__":
    main()
