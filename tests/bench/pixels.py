"""The pixel path against the plain script, its own floor, and Dask against a loop."""

import operator
import shutil
import sys
import time
from pathlib import Path

import plain
import workloads
from timing import Process, Row, cpu_of, family

from etl import runner
from etl.formats import nifti
from etl.manifests.load import load_manifest
from etl.pixels import png
from etl.results import committed, open_part
from etl.sources.inventory import Case, MaskFile
from stages import cut
from stages import slice as slicing
from stages.plan import BATCH_CASES

HERE = Path(__file__).parent
PROGRAM = str(Path(sys.executable).with_name("medglip-etl"))
CPU = "CPU, in turn in one run"


def build(folder: Path, slug: str, workers: int = 1) -> list[object]:
    """The command that builds a workload from nothing."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    return [PROGRAM, "build", "--raw", folder / "raw", "--manifests", folder / "manifests", "--label-maps",
            folder / "label_maps", "--out", folder / "out", "--source", slug, "--workers", workers]


def script(folder: Path, slug: str, cases: int) -> list[object]:
    """The command of the plain script."""
    shutil.rmtree(folder / "plain", ignore_errors=True)
    return [sys.executable, HERE / "plain.py", folder / "raw" / slug, folder / "plain", cases]


def batches(folder: Path, slug: str, suffix: str, size: int, most: int | None = None) -> list[slicing.Batch]:
    """The cases of a workload in batches of `size`, as a build makes them."""
    root, manifest = folder / "raw" / slug, load_manifest(folder / "manifests" / f"{slug}.yaml")
    names = sorted(p.name.removesuffix(suffix) for p in (root / "images").iterdir())[:most]
    cases = [Case(slug, n, n, None, f"images/{n}{suffix}", (MaskFile(0, f"labels/{n}{suffix}"),)) for n in names]
    params = slicing.SliceParams()
    units = slicing.units(cases, manifest, root, params)
    return [slicing.Batch(tuple(units[n : n + size]), manifest, root, folder / "warm" / slug, params, 0.015)
            for n in range(0, len(units), size)]  # fmt: skip


def whole(folder: Path, cases: int, rounds: int) -> list[Row]:
    """Whole processes in turn, on one core."""
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(Process(script(folder, "volumes", cases)))
        ours.append(Process(build(folder, "volumes")))
    images = int(ours[0].out.split()[0])
    cpu = [a.cpu / b.cpu for a, b in zip(theirs, ours, strict=True)]
    wall = [a.wall / b.wall for a, b in zip(theirs, ours, strict=True)]
    figures = [("ours", ours), ("the plain script", theirs)]
    return [
        Row(f"whole process against the plain script, {cases} volumes", "≥ 10", cpu, f"{CPU}, one core"),
        Row("the same by the clock", "", wall, "wall seconds of the same processes"),
        *(Row(f"images a second, {name}", "", [images / p.wall for p in found], "wall, start and export included", "/s")
          for name, found in figures),
        *(Row(f"CPU seconds per 1000 images, {name}", "", [1000 * p.cpu / images for p in found], "whole process", "s")
          for name, found in figures),
        *(Row(f"peak memory of the largest process, {name}", "", [p.peak for p in found], "resident", "MB")
          for name, found in figures),
    ]  # fmt: skip


def warm(folder: Path, rounds: int) -> list[Row]:
    """One case again and again inside a process: ours, the plain script, and decode + encode alone."""
    (batch,) = batches(folder, "volumes", ".nii.gz", 1, 1)
    root, name, out = batch.root, f"{batch.units[0].case.case}.nii.gz", folder / "plain-warm"
    out.mkdir(parents=True, exist_ok=True)
    cut.run(batch, {})
    found = committed(batch.folder, 0.015)[batch.units[0].key].batch
    blobs = open_part(found, "images").read()["png"].to_pylist()
    pictures = [workloads.decoded(blob) for blob in blobs]

    def floor() -> None:
        nifti.read(root / "images" / name)
        nifti.read(root / "labels" / name)
        for picture in pictures:
            png.encode(picture)

    ours, theirs, floors = [], [], []
    for _ in range(rounds):
        theirs.append(cpu_of(lambda: plain.convert(root, out, name, [])))
        for _ in range(3):
            ours.append(cpu_of(lambda: cut.run(batch, {})))
            floors.append(cpu_of(floor))
    sizes = sum(map(len, blobs)), sum(map(len, map(workloads.by_pillow, pictures)))
    each = sum(ours) / len(ours)
    return [
        Row("warm, one volume, against the plain script", "≥ 15", [t / each for t in theirs], CPU),
        Row("time over decode + encode", "≤ 1.5", [a / b for a, b in zip(ours, floors, strict=True)],
            f"{CPU}; hashes, evidence, regions and Parquet are the rest"),
        Row(f"CPU of a volume ({len(blobs)} images)", "", [1000 * o for o in ours], "warm, Parquet included", "ms"),
        Row("the same: decode + encode", "", [1000 * f for f in floors], "warm", "ms"),
        Row("bytes of PNG against Pillow at level 6", "≤ 1.2", [sizes[0] / sizes[1]], "the images of that volume"),
    ]  # fmt: skip


def many(folder: Path, rounds: int) -> list[Row]:
    """Small volumes and pictures in the batches of a build, warm, against the plain script's loop."""
    out = folder / "plain-warm"
    rows = []
    for what, slug, suffix, work in (("50 small volumes", "fifty", ".nii.gz", plain.convert),
                                     ("1000 2D images", "pictures", ".png", plain.picture)):  # fmt: skip
        found = batches(folder, slug, suffix, BATCH_CASES)
        names = sorted(p.name for p in (folder / "raw" / slug / "images").iterdir())
        cut.run(found[0], {})
        ratios = []
        for _ in range(rounds):
            theirs = cpu_of(lambda n=names, w=work, s=slug: [w(folder / "raw" / s, out, x, []) for x in n])
            ratios.append(theirs / cpu_of(lambda b=found: [cut.run(x, {}) for x in b]))
        rows.append(Row(f"{what} as a batch, warm", "≥ 6", ratios, CPU))
    return rows


def dask(folder: Path, cases: int, rounds: int) -> list[Row]:
    """Two workers against one, and what Dask adds to a case; the clusters are warm."""
    one = batches(folder, "volumes", ".nii.gz", 1, cases)
    spent: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    task = []
    for workers, found in spent.items():
        with runner.pool(workers) as pool:
            list(pool.map(slicing.run, one[:4]))
            for _ in range(rounds):
                began, cpu = time.perf_counter(), family()
                list(pool.map(slicing.run, one))
                found.append((time.perf_counter() - began, family() - cpu))
            if workers == 1:
                for _ in range(rounds):
                    cpu = family()
                    list(pool.map(operator.attrgetter("name"), one * (500 // len(one))))
                    task.append((family() - cpu) / (500 // len(one) * len(one)))
    wall = [a[0] / b[0] for a, b in zip(*spent.values(), strict=True)]
    cpu = [2 * a[1] / b[1] for a, b in zip(*spent.values(), strict=True)]
    each = min(c for _, c in spent[1]) / len(one)
    return [
        Row("2 workers against 1, warm", "≥ 1.85", wall, "wall seconds: needs two idle cores"),
        Row("the same by CPU", "", cpu, "2 × CPU of one / CPU of two, all processes: the most that idle cores give"),
        Row("Dask over a plain loop", "≤ 2", [100 * t / each for t in task],
            "CPU of a task that does nothing (500 of them, arguments as a case's), over that of a case", "%"),
    ]  # fmt: skip


def start_up(folder: Path, rounds: int) -> list[Row]:
    """What a user waits for."""
    rows = []
    for what, aim, command in (("`--help`", "≤ 0.3", ["--help"]), ("`sources list`", "≤ 0.3", ["sources", "list"])):
        found = [Process([PROGRAM, *command]) for _ in range(rounds)]
        rows.append(Row(what, aim, [p.cpu for p in found], "CPU seconds, start of Python included", "s"))
        rows.append(Row(f"{what} by the clock", "", [p.wall for p in found], "wall", "s"))
    small = [Process(build(folder, "small"), {0, 1}) for _ in range(rounds)]
    rows.append(Row("a build of a small source, start to finish", "≤ 2.5", [p.wall for p in small],
                    "wall, 3 volumes of 64×64×40", "s"))  # fmt: skip
    rows.append(Row("the same by CPU", "", [p.cpu for p in small], "all its processes", "s"))
    return rows
