"""Everything after `slice` at the size of the paper: 129 sources, 2.7 million images, 5.3 million regions.

    python tests/bench/scale.py make DIR [--images N] [--sources N]     commits slice results of made-up sources
    python tests/bench/scale.py run DIR [--min-area F] [--change S]     table stages and export, with their cost

The regions are real run lengths of ellipses; the pixels are the smallest PNG, their fingerprints those of different
pictures, alike only within a case. `--change S` maps the first raw label
of source number S to another label, as a reviewed line of its label map would.
"""

import argparse
import base64
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from etl import store
from etl.labels.maps import load_label_map, load_ontology
from etl.manifests.manifest import Manifest
from etl.pixels.regions import regions
from etl.schemas import CASES, IMAGES, REGIONS
from etl.sources.inventory import Case, MaskFile
from stages import pipeline, tables
from stages.plan import Options, Work
from stages.slice import Unit

BUNDLED = Path(__file__).parents[2] / "label_maps"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
SIDE = 256
SHAPES = 1000
PER_IMAGE = {"large": 0.963, "small": 0.4}  # beyond the one large region that got the slice encoded
SLICES = 100  # encoded slices of a volume
AXES = ("axial", "coronal", "sagittal")
MODALITIES = ("ct", "mri", "xray", "ct", "mri", "ultrasound", "ct", "mri", "endoscopy", "fundus", "dermoscopy")
PICTURES = 20_000  # images of the largest source of pictures
ENCODE_FROM = 0.015


def manifest(number: int, labels: int) -> Manifest:
    """A source that is read like any other."""
    return Manifest.model_validate({
        "slug": f"source_{number:03d}", "title": f"Source {number}", "year": 2024, "body_regions": ["abdomen"],
        "modality": MODALITIES[number % len(MODALITIES)], "homepage": "https://example.org", "access": "open",
        "license": {"name": "CC-BY-4.0", "redistribution": "allowed"}, "evidence": ["made up"], "status": "unverified",
        "files": [{"image": "{case}.png", "mask": "{case}_mask.png", "kind": "label_map"}],
        "labels": {str(n + 1): f"structure {n + 1}" for n in range(labels)},
    })  # fmt: skip


def label_map(number: int, labels: int, names: list[str]) -> dict[str, Any]:
    """Each raw label is some label of the ontology, no two of a source the same; every 20th is rejected."""
    entries: dict[str, Any] = {}
    for n in range(labels):
        name = names[(number * 7 + n) % len(names)]
        rejected = {"label": None, "status": "rejected", "why": "a device"}
        entries[f"structure {n + 1}"] = rejected if n % 20 == 19 else {"label": name, "status": "approved", "by": "me"}
    return {"source": f"source_{number:03d}", "labels": entries}


def shapes(rng: np.random.Generator, small: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Measured ellipses: columns of box, area and run lengths."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    found = []
    while len(found) < SHAPES:
        y, x = rng.uniform(30, SIDE - 30, 2)
        b, a = rng.uniform(3, 16, 2) if small else rng.uniform(20, 60, 2)
        mask = ((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 <= 1
        region = next(regions(mask.astype(np.uint8)))
        if (region.area >= ENCODE_FROM * SIDE * SIDE) != small:
            found.append((region.x, region.y, region.width, region.height, region.area, region.rle))
    names = ("x", "y", "w", "h", "area", "rle")
    return {name: np.array(column) for name, column in zip(names, zip(*found, strict=True), strict=True)}


def shares(images: int, sources: int) -> list[int]:
    """Images of each source: the largest has a fifth of all, as in the paper's mix of large and small ones."""
    weights = 1 / np.arange(1, sources + 1)
    return [max(1, int(n)) for n in images * weights / weights.sum()]


def volume_slices(name: str, count: int) -> list[tuple[str, str, int]]:
    """(case, axis, index) of the encoded slices of a volume."""
    return [(name, AXES[n % 5 // 2], 20 + n) for n in range(count)]


def batches(number: int, images: int) -> Iterator[tuple[list[str], list[tuple[str, str, int]]]]:
    """(cases, slices) of each batch: one volume, or 64 pictures."""
    volumes = MODALITIES[number % len(MODALITIES)] in ("ct", "mri") or images > PICTURES
    step = SLICES if volumes else 64
    for start in range(0, images, step):
        count = min(step, images - start)
        if volumes:
            yield [f"case_{start // step:05d}"], volume_slices(f"case_{start // step:05d}", count)
        else:
            names = [f"picture_{start + n:06d}" for n in range(count)]
            yield names, [(name, "native", 0) for name in names]


def found_in(slices: list[tuple[str, str, int]], labels: int, pools: Any, rng: np.random.Generator) -> pa.Table:
    """The regions of these slices, in the columns of REGIONS."""
    large, small = (rng.poisson(PER_IMAGE[size], len(slices)) for size in ("large", "small"))
    counts = large + 1 + small
    image = np.repeat(np.arange(len(slices)), counts)
    place = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_small = place > np.repeat(large, counts)
    raw = np.minimum(rng.integers(0, labels, len(image)), rng.integers(0, labels, len(image)))
    order = np.lexsort((raw, image))
    image, raw, is_small = image[order], raw[order], is_small[order]
    start = np.r_[True, (image[1:] != image[:-1]) | (raw[1:] != raw[:-1])]
    n = np.arange(len(image)) - np.maximum.accumulate(np.where(start, np.arange(len(image)), 0))
    pick = rng.integers(0, SHAPES, len(image))
    shape = {name: np.where(is_small, pools[1][name][pick], pools[0][name][pick]) for name in pools[0]}
    case, axis, index = (np.array(column)[image] for column in zip(*slices, strict=True))
    names = np.array([f"structure {n + 1}" for n in range(labels)])
    columns = {"case": case, "axis": axis, "slice_index": index, "raw_label": names[raw], "n": n,
               "defined": np.ones(len(image), bool), "height": np.full(len(image), SIDE),
               "width": np.full(len(image), SIDE), **shape}
    return pa.table([pa.array(columns[f.name]).cast(f.type) for f in REGIONS], schema=REGIONS)


def fingerprints(slices: list[tuple[str, str, int]], rng: np.random.Generator) -> list[pa.Array]:
    """The columns pixels, coarse and fine: images of one case differ in few bits, those of others in many."""
    names, case = np.unique([name for name, _, _ in slices], return_inverse=True)
    kinds = []
    for bits in (5, 8):
        flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (bits, len(slices)), dtype=np.uint64), axis=0)
        kinds.append(pa.array(rng.integers(0, 2**63, len(names), dtype=np.uint64)[case] ^ flips))
    return [pa.array([rng.bytes(16) for _ in slices]), *kinds]


def seen(modality: str, volume: bool, rng: np.random.Generator) -> dict[str, Any]:
    """What `etl.quality.evidence` notes of an ordinary image."""
    values = {"distinct": 256, "low": 0.0, "high": 255.0, "bits": 8, "flat": 0.2, "extremes": 0.3, "finite": 1.0}
    if volume:
        values |= {"distinct": 1024, "low": -1024.0, "high": 1500.0, "bits": 16}
    if modality == "ct":
        values |= {"air": 0.4, "tissue": 0.4}
    edges = [{"axis": axis, "planes": 3, "z": [1.2, *[0.1] * 7], "moved": [0.0, 0.0], "z_moved": 1.2, "length": 200,
              "outside": 0.01, "specks": 0} for axis in (("axial", "coronal") if volume else ("native",))]
    sketch = np.sort(rng.integers(0, 2**63, 24, dtype=np.uint64)).tobytes()
    return {"values": values, "repeats": {}, "edges": edges, "sketch": base64.b64encode(sketch).decode()}


def facts(case: str, volume: bool, slices: int, evidence: dict[str, Any]) -> dict[str, Any]:
    """What `slice` notes of a case."""
    affine = [[0.8, 0.0, 0.0, -100.0], [0.0, 0.8, 0.0, -90.0], [0.0, 0.0, 1.5, -400.0], [0.0, 0.0, 0.0, 1.0]]
    return {"case": case, "slices": slices, "background": 0, "seen": evidence, "unsure": [], "lost": [],
            "resampled": False,
            "spacing": [0.8, 0.8, 1.5] if volume else None, "tilt": 0.0, "native": not volume,
            "affine": affine if volume else None,
            "shape": [SIDE, SIDE, SIDE] if volume else [SIDE, SIDE]}


def write_batch(
    stem: Path, names: list[str], slices: list[tuple[str, str, int]], found: pa.Table, modality: str,
    rng: np.random.Generator,
) -> None:
    """The three files of a batch, as `slice` commits them."""
    pq.write_table(found, f"{stem}.regions.parquet", compression="zstd")
    case, axis, index = zip(*slices, strict=True)
    columns = [case, axis, pa.array(index, pa.int32()), [PNG] * len(slices), *fingerprints(slices, rng)]
    images = pa.table(columns, schema=IMAGES)
    pq.write_table(images, f"{stem}.images.parquet", compression="zstd")
    volume = slices[0][1] != "native"
    rows = [{"key": key_of(stem.parent.name, name), "case": name, "encode_from": ENCODE_FROM, "root": "/raw",
             "files": [f"{name}.png"], "rejected": "[]",
             "images": orjson.dumps([facts(name, volume, len(slices) if volume else 1, seen(modality, volume, rng))]
                                    ).decode()} for name in names]
    pq.write_table(pa.Table.from_pylist(rows, CASES), f"{stem}.cases.parquet", compression="zstd")


def key_of(slug: str, case: str) -> str:
    """The key of a case's result."""
    return store.digest([slug, case])


def sizes(number: int) -> int:
    """How many labels a source has."""
    return (1, 2, 4, 8, 15, 25, 60, 104)[number % 8]


def make(folder: Path, images: int, sources: int) -> None:
    """Commits the slice results and label maps of all sources."""
    rng = np.random.default_rng(1)
    pools = shapes(rng, False), shapes(rng, True)
    names = list(load_ontology(BUNDLED).labels)
    shutil.rmtree(folder, ignore_errors=True)
    maps = folder / "maps" / "sources"
    maps.mkdir(parents=True)
    for number, share in enumerate(shares(images, sources)):
        labels = sizes(number)
        slug = f"source_{number:03d}"
        (maps / f"{slug}.yaml").write_text(yaml.safe_dump(label_map(number, labels, names)))
        target = folder / "out" / "stages" / "slice" / slug
        target.mkdir(parents=True)
        for n, (cases, slices) in enumerate(batches(number, share)):
            found = found_in(slices, labels, pools, rng)
            write_batch(target / f"{n:06d}", cases, slices, found, MODALITIES[number % len(MODALITIES)], rng)
    store.write_json(folder / "size.json", {"images": images, "sources": sources})


def works(folder: Path) -> list[Work]:
    """The sources as `plan` would give them, had they raw files."""
    size = store.read_json(folder / "size.json")
    found = []
    for number, share in enumerate(shares(size["images"], size["sources"])):
        source = manifest(number, sizes(number))
        names = [name for cases, _ in batches(number, share) for name in cases]
        units = [Unit(Case(source.slug, n, n, None, f"{n}.png", (MaskFile(0, f"{n}_mask.png"),)),
                      key_of(source.slug, n), 0) for n in names]
        found.append(Work(source, folder, tuple(units), (), folder / "out" / "stages" / "slice" / source.slug))
    return found


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Prints seconds, CPU seconds and the peak memory so far."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{what:10} {time.perf_counter() - wall:8.1f} s  {time.process_time() - cpu:8.1f} s CPU  {peak:6.0f} MB peak",
          flush=True)


def run(folder: Path, min_area: float, change: int | None) -> None:
    """The table stages, each only where something it reads has changed, then export."""
    options = Options(folder, folder / "out", (BUNDLED, folder / "maps"), min_area=min_area, encode_from=ENCODE_FROM,
                      png=False)
    if change is not None:
        changed(folder / "maps" / "sources" / f"source_{change:03d}.yaml")
    with measured("plan"):
        all_works = works(folder)
    with measured("tables"):
        for work in all_works:
            tables.run(work, work.committed(options), load_label_map(work.slug, *options.label_maps), options)
    with measured("export"):
        stats = pipeline.run_export(all_works, {w.slug: w.manifest for w in all_works}, options)
    print(f"{stats['images']} images, {stats['regions']} regions")


def changed(path: Path) -> None:
    """Another label for the first raw label of a map."""
    content = yaml.safe_load(path.read_text())
    used = {entry["label"] for entry in content["labels"].values()}
    content["labels"]["structure 1"]["label"] = next(n for n in load_ontology(BUNDLED).labels if n not in used)
    path.write_text(yaml.safe_dump(content))


def main() -> None:
    """`make` or `run`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2_700_000)
    parser.add_argument("--sources", type=int, default=129)
    parser.add_argument("--min-area", type=float, default=ENCODE_FROM)
    parser.add_argument("--change", type=int)
    chosen = parser.parse_args()
    if chosen.what == "make":
        make(chosen.folder, chosen.images, chosen.sources)
    else:
        run(chosen.folder, chosen.min_area, chosen.change)


if __name__ == "__main__":
    main()
