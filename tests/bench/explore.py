"""How fluid the explorer is at the size of the paper: 129 sources, 2.7 million images, 5.3 million regions.

    python tests/bench/explore.py make DIR [--images N] [--sources N]     writes shards of made-up sources
    python tests/bench/explore.py run DIR [--report FILE]                 asks the running explorer, says how long

The images are one small PNG; every other column is as varied as in a real dataset. `run` starts `medglip-etl explore`
as a user would, and asks for pages over HTTP: those of filters nobody has asked for before, so no answer is kept.
"""

import argparse
import base64
import http.client
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from etl.labels.maps import load_ontology
from etl.labels.table import LabelTable, label_table
from etl.release.records import SPLITS
from etl.release.shards import GROUP_ROWS, REGION, schema

BUNDLED = Path(__file__).parents[2] / "label_maps"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
MODALITIES = ("ct", "mri", "xray", "ct", "mri", "ultrasound", "ct", "mri", "endoscopy", "fundus", "dermoscopy")
AXES = np.array(["axial", "coronal", "sagittal"])
FLAGS = (["near_duplicate"], ["cut_by_border", "tiny_image"], [], [], [], [], [], [], [], [])
SLICES, SIDE, PART = 100, 256, 100_000
ROUNDS = 15


def shares(images: int, sources: int) -> list[int]:
    """Images of each source: a few large ones and many small ones."""
    weights = 1 / np.arange(1, sources + 1)
    return [max(1, int(n)) for n in images * weights / weights.sum()]


def part(rng: np.random.Generator, number: int, start: int, count: int, first: tuple[int, int], labels: LabelTable
         ) -> pa.Table:  # fmt: skip
    """`count` images of source `number` from its image `start` on; `first` are the first image and region id."""
    modality, slug = MODALITIES[number % len(MODALITIES)], f"source_{number:03d}"
    volumes = modality in ("ct", "mri")
    place = np.arange(start, start + count)
    case = pa.array(np.char.add("case_", (place // (SLICES if volumes else 1)).astype(str)))
    axis = pa.array(AXES[place % SLICES * 3 // SLICES] if volumes else np.full(count, "native"))
    index = pa.array((place % SLICES if volumes else np.zeros(count)).astype(np.int32))
    key = pc.binary_join_element_wise(slug, case, axis, index.cast(pa.string()), "/")
    sizes = rng.poisson(0.95, count) + 1
    regions = regions_of(rng, number, sizes, key, first[1], labels)
    same = {"source": slug, "modality": modality, "license": "CC-BY-4.0", "redistribution": "allowed"}
    side = pa.repeat(pa.scalar(SIDE, pa.int32()), count)
    columns: dict[str, pa.Array] = {name: pa.repeat(value, count) for name, value in same.items()}
    columns |= {
        "image_id": pa.array(first[0] + np.arange(count)), "key": key, "case": case, "subject": case, "axis": axis,
        "split": pa.array(np.array(SPLITS)[(place // SLICES) % 10 // 8]), "slice_index": index, "width": side,
        "height": side, "file_name": pc.binary_join_element_wise(key, ".png", ""),
        "image": pa.StructArray.from_arrays([pa.repeat(pa.scalar(PNG), count), key], names=["bytes", "path"]),
        "flags": pa.array([FLAGS[n] for n in rng.integers(0, len(FLAGS), count)], pa.list_(pa.string())),
        "sex": pa.array(np.array(["F", "M"])[place // SLICES % 2]), "regions": regions,
    }
    full = schema()
    return pa.table([columns.get(f.name, pa.nulls(count, f.type)) for f in full], names=full.names).cast(full)


def regions_of(rng: np.random.Generator, number: int, sizes: np.ndarray, key: pa.Array, first: int, labels: LabelTable
               ) -> pa.ListArray:  # fmt: skip
    """The regions of each image: of 30 raw labels, large and small."""
    total = int(sizes.sum())
    raw = np.minimum(rng.integers(0, 30, total), rng.integers(0, 30, total))
    ids = pa.array(((number * 7 + raw) % (labels.width - 1) + 1).astype(np.int16))
    share = np.clip(rng.lognormal(-3, 1, total), 0.015, 0.95)
    box = np.stack([rng.integers(0, SIDE // 2, total), rng.integers(0, SIDE // 2, total),
                    *(np.maximum(1, np.sqrt(share) * SIDE),) * 2], axis=1).astype(np.float32)  # fmt: skip
    raw_label = pa.array(np.char.add("structure ", raw.astype(str)))
    parent = pa.array(np.repeat(np.arange(len(sizes)), sizes))
    columns = {
        "region_id": pa.array(first + np.arange(total)), "label_id": ids, "label": labels.label.take(ids),
        "key": pc.binary_join_element_wise(key.take(parent), raw_label, pa.array(np.arange(total).astype(str)), "/"),
        "category_id": pa.array(labels.category_id).take(ids), "category": labels.category.take(ids),
        "body_region": labels.body_region.take(ids), "raw_label": raw_label, "phrase": labels.label.take(ids),
        "bbox": pa.ListArray.from_arrays(pa.array(np.arange(0, 4 * total + 1, 4, dtype=np.int32)), box.ravel()),
        "area": pa.array((share * SIDE * SIDE).astype(np.int32)), "area_fraction": pa.array(share.astype(np.float32)),
        "derived": pa.repeat(False, total),
    }
    fields = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(total, f.type) for f in REGION]
    starts = np.r_[0, np.cumsum(sizes)].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), pa.StructArray.from_arrays(fields, fields=list(REGION)))


def make(folder: Path, images: int, sources: int) -> None:
    """Write the shards, and the numbers of which a page speaks."""
    labels, rng = label_table(load_ontology(BUNDLED)), np.random.default_rng(3)
    image, region, counts = 1, 1, {}
    shards = folder / "dataset" / "shards" / "train"
    for number, count in enumerate(shares(images, sources)):
        target = shards / f"source_{number:03d}"
        target.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(target / "part-00000.parquet", schema(), compression="zstd") as writer:
            for start in range(0, count, PART):
                table = part(rng, number, start, min(PART, count - start), (image, region), labels)
                image, region = image + len(table), region + pc.sum(pc.list_value_length(table["regions"])).as_py()
                writer.write_table(table, row_group_size=GROUP_ROWS)
        counts[f"source_{number:03d}"] = {"images": count, "regions": 0}
    numbers = {"images": image - 1, "regions": region - 1, "books": {"cases": {}, "regions": {}}, "min_area": 0.015,
               "by": {"source": counts}, "sources": {}, "quarantine": {}, "flags": {}}
    (folder / "dataset" / "stats.json").write_text(json.dumps(numbers))
    print(f"{image - 1} images, {region - 1} regions in {folder}")


def paths(labels: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(what, addresses of pages that were never asked for)."""
    near = np.random.default_rng(5)
    pick = [labels[n].replace(" ", "+") for n in near.permutation(len(labels))]
    yield "first page", ["/browse"] * ROUNDS
    yield "filter: label", [f"/browse?label={pick[n]}" for n in range(ROUNDS)]
    yield "filter: modality, axis, area", [f"/browse?modality=ct&axis=axial&area_from={5 + n}" for n in range(ROUNDS)]
    yield "filter: source and split", [f"/browse?source=source_{n:03d}&split=train" for n in range(ROUNDS)]
    yield "filter: flag, regions", [f"/browse?flag=near_duplicate&regions_from=2&area_from={n}" for n in range(ROUNDS)]
    yield "filter: free text", [f"/browse?text={pick[n]}" for n in range(ROUNDS, 2 * ROUNDS)]
    yield "mixed order, deep page", [f"/browse?order=mixed&from={1_000_000 + 999 * n}" for n in range(ROUNDS)]
    yield "overview", ["/"] * ROUNDS
    yield "overview of a label", [f"/?label={pick[n]}" for n in range(2 * ROUNDS, 3 * ROUNDS)]
    yield "overview of a modality and area", [f"/?modality=mri&area_from={3 + n}" for n in range(ROUNDS)]
    yield "image", [f"/image/{1 + 170_001 * n}" for n in range(ROUNDS)]
    yield "image within a filter", [f"/image/{1 + 170_001 * n}?label={pick[n]}" for n in range(ROUNDS)]
    yield "labels", ["/labels"] * ROUNDS


def asked(port: int, path: str) -> float:
    """The seconds of one page, from request to last byte."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status}")
    return time.perf_counter() - began


def run(folder: Path, report: Path | None) -> None:
    """Start the explorer, ask, and say how long answers took and how much memory it held at most."""
    program, port = Path(sys.executable).with_name("medglip-etl"), 18230
    labels = [label.name for label in load_ontology(BUNDLED).labels.values()]
    began = time.perf_counter()
    server = subprocess.Popen([program, "explore", folder, "--port", str(port)], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if "http://" in line:
                break
        ready, rows, process = time.perf_counter() - began, [], psutil.Process(server.pid)
        for what, wanted in paths(labels):
            took, worked = [], []
            for path in wanted:
                before = sum(process.cpu_times()[:2])
                took.append(asked(port, path))
                worked.append(sum(process.cpu_times()[:2]) - before)
            rows.append((what, statistics.median(took), max(took), statistics.mean(worked)))
        peak = peak_memory(server.pid)
    finally:
        server.terminate()
        server.wait()
    lines = ["| page | median | slowest | processor time, mean |", "|---|---|---|---|"]
    lines += [f"| {what} | {' | '.join(f'{seconds * 1000:.0f} ms' for seconds in took)} |" for what, *took in rows]
    lines += ["", f"Ready {ready:.1f} s after the start; at most {peak / 2**20:.0f} MB of memory; "
              f"{os.cpu_count()} cores."]  # fmt: skip
    print("\n".join(lines))
    if report is not None:
        report.write_text("\n".join(lines) + "\n")


def peak_memory(pid: int) -> int:
    """The largest resident size of a process so far, in bytes."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return int(psutil.Process(pid).memory_info().rss)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("folder", type=Path)
    making.add_argument("--images", type=int, default=2_720_979)
    making.add_argument("--sources", type=int, default=129)
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("--report", type=Path)
    given = parser.parse_args()
    if given.command == "make":
        make(given.folder, given.images, given.sources)
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    else:
        run(given.folder, given.report)


if __name__ == "__main__":
    main()
