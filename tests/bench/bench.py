"""`make bench`: our build against the plain script, on the same work in the same run, as ratios.

usage: bench.py FOLDER [--cases N] [--rounds N] [--report FILE]   (FOLDER keeps the generated raw data)
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import workloads

HERE = Path(__file__).parent
PROGRAM = str(Path(sys.executable).with_name("medglip-etl"))
LIBRARIES = ("numpy", "numba", "deflate", "pyarrow", "nibabel", "scikit-image", "pillow", "dask")


class Process:
    """One finished process: seconds, CPU seconds, and the peak memory in MB of the largest of it and its children."""

    def __init__(self, command: list[object], cores: set[int]) -> None:
        began = time.perf_counter()
        with tempfile.TemporaryFile("w+") as out:
            started = subprocess.Popen(
                [str(c) for c in command], stdout=out, stderr=subprocess.DEVNULL,
                preexec_fn=lambda: os.sched_setaffinity(0, cores), env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            _, status, usage = os.wait4(started.pid, 0)
            started.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            self.out = out.read()
        if started.returncode:
            raise SystemExit(f"{' '.join(map(str, command))}: exit {started.returncode}")
        self.wall, self.cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
        self.peak = usage.ru_maxrss / 1024


def build(folder: Path, slug: str, workers: int = 1) -> list[object]:
    """The command that builds a workload from nothing."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    return [PROGRAM, "build", "--raw", folder / "raw", "--manifests", folder / "manifests", "--label-maps",
            folder / "label_maps", "--out", folder / "out", "--source", slug, "--workers", workers]


def plain(folder: Path, slug: str, cases: int) -> list[object]:
    """The command of the plain script."""
    shutil.rmtree(folder / "plain", ignore_errors=True)
    return [sys.executable, HERE / "plain.py", folder / "raw" / slug, folder / "plain", cases]


def ratios(one: list[float], other: list[float]) -> str:
    """The median of the paired ratios, with the least and the largest."""
    values = [a / b for a, b in zip(one, other, strict=True)]
    return f"{statistics.median(values):.1f}x ({min(values):.1f}-{max(values):.1f})"


def whole(folder: Path, cases: int, rounds: int) -> list[str]:
    """Whole processes in turn, on one core."""
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(Process(plain(folder, "volumes", cases), {0}))
        ours.append(Process(build(folder, "volumes"), {0}))
    images = int(ours[0].out.split()[0])
    return [
        f"| whole process, {cases} volumes, wall | {ratios([p.wall for p in theirs], [p.wall for p in ours])} |",
        f"| the same, CPU | {ratios([p.cpu for p in theirs], [p.cpu for p in ours])} |",
        f"| ours: images/s, CPU s per 1000 images | {images / min(p.wall for p in ours):.0f}, "
        f"{1000 * min(p.cpu for p in ours) / images:.2f} |",
        f"| plain: the same | {images / min(p.wall for p in theirs):.0f}, "
        f"{1000 * min(p.cpu for p in theirs) / images:.2f} |",
        f"| peak memory of a process, MB: ours, plain | {max(p.peak for p in ours):.0f}, "
        f"{max(p.peak for p in theirs):.0f} |",
    ]


def cpu_of(work: Callable[[], object]) -> float:
    """CPU seconds of a call in this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def warm(folder: Path, rounds: int) -> list[str]:
    """One case again and again inside a process: ours, the plain script, and decode + encode alone, by CPU."""
    from plain import convert

    from etl import nifti, png
    from etl.inventory import Case, MaskFile
    from etl.manifest import load_manifest
    from etl.results import committed, open_part
    from stages import slice as slicing

    root, out, name = folder / "raw" / "volumes", folder / "warm", "case000.nii.gz"
    manifest = load_manifest(folder / "manifests" / "volumes.yaml")
    case = Case("volumes", "case000", "case000", None, f"images/{name}", (MaskFile(0, f"labels/{name}"),))
    params = slicing.SliceParams()
    units = slicing.units([case], manifest, root, params)
    batch = slicing.Batch(tuple(units), manifest, root, out / "ours", params, 0.015)
    (out / "plain").mkdir(parents=True, exist_ok=True)

    slicing.run(batch)
    batch_file = committed(out / "ours", 0.015)[units[0].key].batch
    blobs = open_part(batch_file, "images").read()["png"].to_pylist()
    pictures = [workloads.decoded(blob) for blob in blobs]

    def floor() -> None:
        nifti.read(root / "images" / name)
        nifti.read(root / "labels" / name)
        for picture in pictures:
            png.encode(picture)

    ours, theirs, floors = [], [], []
    for _ in range(rounds):
        theirs.append(cpu_of(lambda: convert(root, out / "plain", name, [])))
        ours.append(cpu_of(lambda: slicing.run(batch)))
        floors.append(cpu_of(floor))
    sizes = sum(map(len, blobs)), sum(map(len, map(workloads.by_pillow, pictures)))
    return [
        f"| warm, one volume, CPU | {ratios(theirs, ours)} |",
        f"| ours over decode + encode | {ratios(ours, floors)} |",
        f"| images of a case, CPU ms: ours, plain, floor | {len(blobs)}, {1000 * min(ours):.0f}, "
        f"{1000 * min(theirs):.0f}, {1000 * min(floors):.0f} |",
        f"| PNG bytes against Pillow level 6 | {sizes[0] / sizes[1]:.3f} |",
    ]


def cores(folder: Path, rounds: int) -> list[str]:
    """Two workers against one."""
    one, two = [], []
    for _ in range(rounds):
        one.append(Process(build(folder, "volumes", 1), {0, 1}).wall)
        two.append(Process(build(folder, "volumes", 2), {0, 1}).wall)
    return [f"| 2 workers against 1, whole process | {ratios(one, two)} |"]


def start_up(folder: Path) -> list[str]:
    """What a user waits for."""
    listing = min(Process([PROGRAM, "sources", "list"], {0}).wall for _ in range(3))
    help_ = min(Process([PROGRAM, "--help"], {0}).wall for _ in range(3))
    small = min(Process(build(folder, "small"), {0, 1}).wall for _ in range(3))
    many = Process(build(folder, "pictures"), {0, 1})
    rate = int(many.out.split()[0]) / many.wall
    return [f"| `--help`, `sources list`, s | {help_:.2f}, {listing:.2f} |",
            f"| build of a small source, start to finish, s | {small:.2f} |",
            f"| 1000 pictures, images/s with start-up | {rate:.0f} |"]


def main() -> None:
    """Prints the table; writes it to --report too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    folder = given.folder.resolve()
    organs = dict(enumerate(workloads.ORGANS, 1))
    workloads.volumes(folder / "raw", "volumes", given.cases)
    workloads.volumes(folder / "raw", "small", 3, (64, 64, 40))
    workloads.pictures(folder / "raw", "pictures", 1000)
    for slug in ("volumes", "small"):
        workloads.settings(folder, slug, modality="ct", suffix=".nii.gz", kind="label_map", labels=organs)
    skin = {1: "skin lesion"}
    workloads.settings(folder, "pictures", modality="dermoscopy", suffix=".png", kind="binary", labels=skin)
    Process(build(folder, "small"), {0, 1})  # compiles and fills caches
    rows = [*whole(folder, given.cases, given.rounds), *warm(folder, given.rounds), *cores(folder, given.rounds),
            *start_up(folder)]  # fmt: skip
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    text = "\n".join([f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
                      f"{platform.python_version()}, {versions}", "", "| what | result |", "|---|---|", *rows, ""])
    print(text)
    if given.report:
        given.report.write_text(text)


if __name__ == "__main__":
    main()
