"""`evaluate` against pycocotools on generated detections: CPU seconds and peak memory of whole processes.

usage: evaluate.py FOLDER [--images N] [--categories N] [--only ours|pycocotools]   (FOLDER keeps the generated files)
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson

OURS = """
import json, sys
from pathlib import Path
import numpy as np
from etl.evaluation.detections import read_results, read_truth
from etl.evaluation.matching import match
from etl.evaluation.precision import METRICS, averaged, measured, ranked
truth = read_truth(Path(sys.argv[1]))
table = ranked(truth, match(truth, read_results(Path(sys.argv[2]), truth), False))
values = measured(table, np.ones(len(truth.images), np.int64))
print(json.dumps(averaged(values, np.ones((1, len(truth.categories))))[0].tolist()))
"""
PYCOCOTOOLS = """
import contextlib, io, json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(sys.argv[1])
    judged = COCOeval(truth, truth.loadRes(sys.argv[2]), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
print(json.dumps(judged.stats.tolist()))
"""


def generate(folder: Path, images: int, categories: int) -> tuple[Path, Path]:
    """Ground truth of about 4 boxes an image, and about 10 detections an image, 60 % of them near a box."""
    random = np.random.default_rng(0)
    boxes = random.poisson(4, images)
    image = np.repeat(np.arange(1, images + 1), boxes)
    category = random.integers(1, categories + 1, len(image))
    box = np.hstack([random.uniform(0, 380, (len(image), 2)), random.lognormal(4, 0.7, (len(image), 2))]).round(1)
    near = np.repeat(np.arange(len(image)), random.poisson(1.5, len(image)))
    moved = box[near] * random.normal(1, 0.12, (len(near), 4))
    far = random.integers(1, images + 1, 4 * images)
    wild = np.hstack([random.uniform(0, 380, (len(far), 2)), random.lognormal(4, 0.7, (len(far), 2))])
    found = zip(
        np.concatenate([image[near], far]).tolist(),
        np.concatenate([category[near], random.integers(1, categories + 1, len(far))]).tolist(),
        np.abs(np.concatenate([moved, wild])).round(2).tolist(),
        np.concatenate([random.beta(4, 2, len(near)), random.beta(2, 4, len(far))]).round(4).tolist(), strict=True,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    truth, results = folder / "truth.json", folder / "results.json"
    annotations = [
        {"id": n + 1, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3] * 0.8, "iscrowd": 0}
        for n, (i, c, b) in enumerate(zip(image.tolist(), category.tolist(), box.tolist(), strict=True))
    ]
    truth.write_bytes(orjson.dumps({
        "images": [{"id": n, "width": 512, "height": 512} for n in range(1, images + 1)],
        "categories": [{"id": n, "name": f"c{n}"} for n in range(1, categories + 1)], "annotations": annotations,
    }))  # fmt: skip
    results.write_bytes(orjson.dumps([
        {"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in found
    ]))  # fmt: skip
    return truth, results


def timed(program: str, truth: Path, results: Path) -> tuple[list[float], float, float, float]:
    """(the twelve numbers, CPU seconds, wall seconds, peak MB) of a process of its own."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(truth), str(results)],
        stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as started:  # fmt: skip
        assert started.stdout
        out = started.stdout.read()
        _, status, usage = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise SystemExit(f"exit {started.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return json.loads(out), cpu, time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    """Prints a line for each evaluator, and how far they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--categories", type=int, default=38)
    parser.add_argument("--only", choices=("ours", "pycocotools"))
    given = parser.parse_args()
    truth, results = generate(given.folder, given.images, given.categories)
    stats = {}
    for name, program in (("ours", OURS), ("pycocotools", PYCOCOTOOLS)):
        if given.only in (None, name):
            stats[name], cpu, wall, peak = timed(program, truth, results)
            print(f"| {name} | {cpu:.1f} | {wall:.1f} | {peak:.0f} |", flush=True)
    if len(stats) == 2:
        apart = np.abs(np.subtract(stats["ours"], stats["pycocotools"])).max()
        print(f"largest difference of the twelve numbers: {apart:.1e}")


if __name__ == "__main__":
    main()
