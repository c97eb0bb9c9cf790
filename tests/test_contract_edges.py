"""Edges of what users may rely on that no other test comes near."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from etl.labels.maps import Mapping, load_ontology
from stages.records import Naming

SIZE = (48, 64)  # rows, columns


class Bench:
    """A folder of small sources of pictures, and the program run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.random = folder, np.random.default_rng(5)

    def source(self, slug: str, cases: dict[str, Any], labels: dict[Any, str], **more: Any) -> None:
        """Noise pictures with these masks; every raw label is the label of its name."""
        for case, mask in cases.items():
            noise = self.random.integers(0, 256, (*np.shape(mask), 3), np.uint8)
            for kind, array in (("i", noise), ("m", np.asarray(mask, np.uint8))):
                path = self.folder / "raw" / slug / kind / f"{case}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
        rule = {"image": "i/{case}.png", "mask": "m/{case}.png", "kind": "label_map"}
        manifest = {"slug": slug, "modality": "ct", "files": [rule], "labels": labels, **more}
        entries = {raw: {"label": raw, "status": "approved", "by": "test"} for raw in labels.values()}
        given = {"manifests": manifest, "label_maps/sources": {"source": slug, "labels": entries}}
        for name, data in ((f"{folder}/{slug}.yaml", data) for folder, data in given.items()):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(yaml.safe_dump(data))

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """The program, with this folder's raw files, manifests and label maps."""
        program = str(Path(sys.executable).with_name("medglip-etl"))
        folders = [f"--{option}={self.folder / option.replace('-', '_')}" for option in
                   ("raw", "manifests", "label-maps", "out")]  # fmt: skip
        return subprocess.run([program, *command, *folders, "--workers=1"], capture_output=True, text=True, check=False)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def mask(rows: slice, columns: slice, value: int = 1) -> np.ndarray:
    array = np.zeros(SIZE, np.uint8)
    array[rows, columns] = value
    return array


def test_a_stage_that_failed_puts_nothing_on_record(bench: Bench) -> None:
    bench.source("toy", {"a": mask(slice(2, 30), slice(2, 30))}, {1: "liver"})
    for stage in ("bbox", "slice", "slice"):  # the first failure must not pass for a run of decode
        done = bench.run("stage", stage)
        assert done.returncode == 1
        assert "toy: decode has not run" in done.stderr
    assert bench.run("stage", "decode").returncode == 0
    assert "toy: slice has not run" in bench.run("stage", "validate").stderr


def test_an_area_at_the_threshold_is_decided_in_one_way(bench: Bench) -> None:
    cases = {}
    for height, width in ((100, 37), (50, 34), (40, 35)):
        picture = np.zeros(height * width, np.uint8)
        picture[: 7 * height * width // 100] = 1  # exactly 0.07 of the image
        cases[f"{width}x{height}"] = picture.reshape(height, width)
    bench.source("toy", cases, {1: "liver"})
    kept = {f"{w}x{h}" for w, h in ((37, 100), (34, 50), (35, 40)) if 7 * h * w // 100 >= 0.07 * w * h}
    assert kept == {"35x40"}  # in float64 the others are a rounding below
    done = bench.run("build", "--min-area=0.07")
    assert done.returncode == 0, done.stderr
    shards = pd.read_parquet(bench.folder / "out/dataset/shards")
    assert set(shards["case"]) == kept
    assert all(regions[0]["segmentation"] for regions in shards["regions"])


def test_the_label_of_a_region_is_annotated_whatever_the_manifest_lists(bench: Bench) -> None:
    both = np.maximum(mask(slice(2, 30), slice(2, 30)), mask(slice(2, 30), slice(32, 60), 2))
    bench.source("toy", {"a": both, "b": mask(slice(2, 30), slice(2, 30))}, {1: "liver", 2: "spleen", 3: "aorta"},
                 annotates=["liver"])  # fmt: skip
    assert bench.run("build").returncode == 0
    images = pd.read_parquet(bench.folder / "out/dataset/shards").set_index("case")
    shown = {case: {region["label_id"] for region in regions} for case, regions in images["regions"].items()}
    assert {case: set(ids) for case, ids in images["annotated_label_ids"].items()} == shown
    assert len(shown["a"]) == 2
    assert [len(ids) for ids in images["absent_label_ids"]] == [0, 0]  # no list of the manifest makes a negative here


def test_an_object_outside_a_picture_is_put_aside_with_its_image(bench: Bench) -> None:
    bench.source("toy", {"a": mask(slice(0), slice(0))}, {"liver": "liver"}, files=[
        {"image": "i/{case}.png", "mask": "boxes.csv", "kind": "csv_boxes", "columns": {
            "image": "file", "label": "class", "xmin": "x1", "ymin": "y1", "xmax": "x2", "ymax": "y2"}}])  # fmt: skip
    rows = "file,class,x1,y1,x2,y2\na.png,liver,5,5,40,40\na.png,liver,70,70,90,90\n"
    (bench.folder / "raw/toy/boxes.csv").write_text(rows)
    done = bench.run("build")
    assert done.returncode == 0, done.stderr
    (row,) = pq.read_table(bench.folder / "out/quarantine/toy.parquet").to_pylist()
    assert (row["axis"], row["slice_index"], row["raw_label"], row["reason"]) == ("native", 0, "liver", "not_placed")


def test_a_proposed_entry_makes_no_label_annotated() -> None:
    entries = {"Milz": Mapping(label="spleen", status="proposed"), "liver": Mapping(label="liver", status="approved"),
               "stent": Mapping(label=None, status="rejected")}  # fmt: skip
    ontology = load_ontology(Path(__file__).parent.parent / "label_maps")
    spleen, liver = (ontology.labels[name].id for name in ("spleen", "liver"))
    assert Naming(entries, ontology).used() == {"liver": liver}
    assert Naming(entries, ontology, accept_proposed=True).used() == {"Milz": spleen, "liver": liver}
    assert Naming(entries, ontology).ids() == {"Milz": spleen, "liver": liver}  # its pixels are still not exhaustive


def test_a_label_that_lost_an_object_is_not_exhaustive(bench: Bench) -> None:
    whole = {"label": "colorectal polyp", "shape_type": "polygon", "points": [[5, 5], [30, 5], [30, 30], [5, 30]]}
    broken = whole | {"points": [[40, 5], [50, "?"]]}
    shapes = {"good": [whole], "torn": [whole, broken], "gone": [broken, whole | {"label": "colon"}]}
    labels = {"colorectal polyp": "colorectal polyp", "colon": "colon"}
    rule = {"image": "i/{case}.png", "mask": "m/{case}.json", "kind": "labelme"}
    bench.source("toy", dict.fromkeys(shapes, np.zeros(SIZE)), labels, files=[rule])
    for case, drawn in shapes.items():
        text = json.dumps({"shapes": drawn, "imageHeight": SIZE[0], "imageWidth": SIZE[1]})
        (bench.folder / f"raw/toy/m/{case}.png").unlink()
        (bench.folder / f"raw/toy/m/{case}.json").write_text(text)
    done = bench.run("build")
    assert done.returncode == 0, done.stderr
    polyp, colon = (load_ontology(Path(__file__).parents[1] / "label_maps").labels[name].id for name in labels)
    images = [image for split in ("train", "val") for image in
              json.loads((bench.folder / f"out/dataset/annotations/{split}.labels.json").read_text())["images"]]
    known = {i["case"]: (i["neg_category_ids"], i["not_exhaustive_category_ids"]) for i in images}
    assert known == {"good": ([colon], []), "torn": ([colon], [polyp]), "gone": ([], [])}


def test_the_ledger_counts_accepted_proposals_under_their_label(bench: Bench) -> None:
    bench.source("toy", {"a": mask(slice(2, 30), slice(2, 30))}, {1: "Milz"})
    entries = {"Milz": {"label": "spleen", "status": "proposed", "by": "offline:names"}}
    (bench.folder / "label_maps/sources/toy.yaml").write_text(yaml.safe_dump({"source": "toy", "labels": entries}))
    done = bench.run("build", "--accept-proposed")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((bench.folder / "out/dataset/stats.json").read_text())["ledger"]
    told = {name: row[name] for name in ("label", "found", "too_small", "not_named", "left_out", "kept")}
    assert told == {"label": "spleen", "found": 1, "too_small": 0, "not_named": 0, "left_out": 0, "kept": 1}
