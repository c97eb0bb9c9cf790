"""Every manifest, proven without a download: a tiny folder drawn from it goes through the whole pipeline, and exactly
the regions that were drawn come out."""

import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pycocotools import mask as coco_mask

from etl.errors import UsageError
from etl.labels.maps import load_label_map, load_ontology
from etl.manifests.load import load_manifest
from etl.manifests.manifest import Manifest
from etl.miniature.build import Miniature, write_miniature

ROOT = Path(__file__).resolve().parents[1]
PATHS = {p.stem: p for folder in ("manifests", "tests/miniatures") for p in sorted((ROOT / folder).glob("*.yaml"))}
Region = tuple[str, str, int, str, int, int, int, int, int]


@dataclass(frozen=True)
class Built:
    """What was drawn, and what came out of one build of all sources, by slug."""

    manifests: dict[str, Manifest]
    drawn: dict[str, Miniature]
    refused: dict[str, str]
    images: pd.DataFrame
    quarantine: dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("miniatures")
    (folder / "manifests").mkdir()
    (folder / "label_maps" / "sources").mkdir(parents=True)
    manifests, drawn, refused = {}, {}, {}
    for slug, path in PATHS.items():
        # sources of one download would write into one folder: each gets its own
        own = folder / "manifests" / path.name
        own.write_text(re.sub(r"(?m)^folder:.*\n", "", path.read_text()))
        manifests[slug] = load_manifest(own)
        try:
            drawn[slug] = write_miniature(manifests[slug], folder / "raw" / slug)
        except UsageError as error:  # the tests of this source say it
            refused[slug] = str(error)
            shutil.rmtree(folder / "raw" / slug, ignore_errors=True)
        _label_map(folder / "label_maps", manifests[slug])
    command = [str(Path(sys.executable).with_name("medglip-etl")), "build", "--no-png"]
    for option in ("raw", "manifests", "label-maps", "out"):
        command += [f"--{option}", str(folder / option.replace("-", "_"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    quarantine = {p.stem: pd.read_parquet(p) for p in (folder / "out" / "quarantine").glob("*.parquet")}
    return Built(manifests, drawn, refused, pd.read_parquet(folder / "out" / "dataset" / "shards"), quarantine)


def _label_map(folder: Path, manifest: Manifest) -> None:
    """The source's approved entries; any label for every other raw label, so that all regions reach the dataset."""
    known = load_label_map(manifest.slug, ROOT / "label_maps")
    names = list(load_ontology(ROOT / "label_maps").labels)
    entries = {}
    for number, raw in enumerate(manifest.raw_labels()):
        approved = known[raw].label if raw in known and known[raw].status == "approved" else None
        entries[raw] = {"label": approved or names[number % len(names)], "status": "approved", "by": "test"}
    path = folder / "sources" / f"{manifest.slug}.yaml"
    path.write_text(yaml.safe_dump({"source": manifest.slug, "labels": entries}))


@pytest.fixture(scope="module")
def found(built: Built) -> dict[str, Counter[Region]]:
    regions: dict[str, Counter[Region]] = defaultdict(Counter)
    for row in built.images.itertuples():
        for region in row.regions:
            at = (row.case, row.axis, int(row.slice_index), region["raw_label"])
            regions[row.source][(*at, *map(int, region["bbox"]), int(region["area"]))] += 1
    return regions


def _expected(drawn: Miniature) -> Iterator[Region]:
    for row in drawn.regions:
        box = [int(v) for v in row["bbox"]]  # type: ignore[attr-defined]
        at = (str(row["case"]), str(row["axis"]), int(str(row["slice_index"])), str(row["label"]))
        yield (*at, box[0], box[1], box[2], box[3], int(str(row["area"])))


@pytest.mark.parametrize("slug", PATHS)
def test_every_region_drawn_and_no_other(slug: str, built: Built, found: dict[str, Counter[Region]]) -> None:
    assert slug not in built.refused, built.refused[slug]
    want, got = Counter(_expected(built.drawn[slug])), found[slug]
    assert want, f"nothing drawn for {slug}"
    why = built.quarantine[slug].groupby(["stage", "reason"])["detail"].first().to_dict()
    assert sorted((want - got).elements())[:3] == [], why
    assert sorted((got - want).elements())[:3] == [], why


@pytest.mark.parametrize("slug", PATHS)
def test_every_raw_label_is_drawn(slug: str, built: Built) -> None:
    assert slug not in built.refused, built.refused[slug]
    drawn = {str(row["label"]) for row in built.drawn[slug].regions}
    assert set(built.manifests[slug].raw_labels()) - drawn == set()


@pytest.mark.parametrize("slug", PATHS)
def test_faults_are_in_quarantine(slug: str, built: Built) -> None:
    assert slug not in built.refused, built.refused[slug]
    drawn, rows = built.drawn[slug], built.quarantine[slug]
    for reason, cases in (("undefined_label", drawn.undefined), ("no_mask", drawn.no_mask)):
        assert set(cases) <= set(rows.loc[rows["reason"] == reason, "case"]), reason
    details = " ".join(rows.loc[rows["reason"] == "no_image", "detail"])
    for paths in drawn.no_image:
        assert any(path in details for path in paths)


def test_boxes_are_tight_and_areas_counted(built: Built) -> None:
    checked = 0
    for row in built.images.iloc[:: max(1, len(built.images) // 400)].itertuples():
        assert min(row.width, row.height) >= 32
        for region in row.regions:
            x, y, w, h = region["bbox"]
            assert min(x, y) >= 0
            assert x + w <= row.width
            assert y + h <= row.height
            if region["segmentation"] is not None:
                rle = {"size": list(region["segmentation"]["size"]), "counts": region["segmentation"]["counts"]}
                mask = coco_mask.decode(rle)
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                assert (x, y) == (columns[0], rows[0])
                assert (w, h) == (columns[-1] - x + 1, rows[-1] - y + 1)
                assert region["area"] == mask.sum()
                checked += 1
    assert checked > 0
