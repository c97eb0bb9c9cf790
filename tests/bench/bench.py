"""`make bench`: all targets of the pixel path as ratios of one run; written into a page between two marks.

usage: bench.py FOLDER [--cases N] [--rounds N] [--only PART] [--report FILE]   (FOLDER keeps the generated raw data)
"""

import argparse
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import memory
import pixels
import series
import workloads
from timing import Process, Row

LIBRARIES = ("numpy", "numba", "deflate", "pyarrow", "nibabel", "scikit-image", "pillow", "dask", "pydicom",
             "imagecodecs")  # fmt: skip
HEAD = "| what | aimed | measured (least–most) | reached | how |", "|---|---|---|---|---|"
MARKS = "<!-- measured by make bench -->\n", "<!-- end -->\n"


def make(folder: Path, cases: int) -> None:
    """The workloads, where they are not there."""
    organs = dict(enumerate(workloads.ORGANS, 1))
    for slug, count, shape in (("volumes", cases, (512, 512, 120)), ("small", 3, (64, 64, 40)),
                               ("fifty", 50, (122, 101, 112))):  # fmt: skip
        workloads.volumes(folder / "raw", slug, count, shape)
        workloads.settings(folder, slug, modality="ct", suffix=".nii.gz", kind="label_map", labels=organs)
    workloads.pictures(folder / "raw", "pictures", 1000)
    workloads.settings(folder, "pictures", modality="dermoscopy", suffix=".png", kind="binary",
                       labels={1: "skin lesion"})  # fmt: skip


def memories(folder: Path) -> list[Row]:
    """Memory of a worker beyond its libraries."""
    return [Row(f"memory beyond libraries: {name.strip()}", "≤ 2.5" if name.startswith(("int16, ", "the same")) else "",
                [memory.measured(folder, name)["volumes"]], "peak of the slicing process, in int16 volumes",
                "volumes") for name in memory.KINDS]  # fmt: skip


def processor() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(path: Path, text: str) -> None:
    """Put a text between the marks of a page."""
    before, _, rest = path.read_text().partition(MARKS[0])
    path.write_text(f"{before}{MARKS[0]}{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}")


def main() -> None:
    """Prints the table; writes it to --report too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", action="append")
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    folder, rounds, began = given.folder.resolve(), given.rounds, time.perf_counter()
    make(folder, given.cases)
    (folder / "plain-warm").mkdir(exist_ok=True)
    Process(pixels.build(folder, "small"), {0, 1})  # compiles and fills caches
    parts: dict[str, Callable[[], list[Row]]] = {
        "whole": lambda: pixels.whole(folder, given.cases, rounds),
        "warm": lambda: pixels.warm(folder, rounds),
        "many": lambda: pixels.many(folder, rounds),
        "dask": lambda: pixels.dask(folder, given.cases, rounds),
        "start": lambda: pixels.start_up(folder, 3),
        "memory": lambda: memories(folder / "memory"),
        "dicom": lambda: series.rows(folder / "dicom", 200, 1),
    }
    load, lines = os.getloadavg()[0], [*HEAD]
    print("\n".join(lines))
    for name, part in parts.items():
        for row in part() if not given.only or name in given.only else []:
            lines.append(row.line())
            print(row.line(), flush=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(f"{versions}; {time.perf_counter() - began:.0f} s, load {load:.1f} at the start")
    if given.report and not given.only:
        report(given.report, "\n".join([
            f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}.",
            f"Load of the machine at the start: {load:.1f}.", "", *lines, ""
        ]))  # fmt: skip


if __name__ == "__main__":
    main()
