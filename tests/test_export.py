"""`export` on records written by hand: what it writes, and that usual readers open it."""

import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import datasets  # type: ignore[import-untyped]
import duckdb
import numpy as np
import pandas as pd
import plain_export as plain
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from plain_export import ImageRecord, RegionRecord, image_file_name
from pycocotools import mask as rle
from pycocotools.coco import COCO

from etl.errors import Failure
from etl.labels.maps import Ontology
from etl.manifests.manifest import Manifest
from etl.release import shards
from etl.release.grounding import with_captions
from etl.release.records import SPLITS, Ledger, Page
from etl.store import digest
from stages.export import Share, export

CHECK = Path(__file__).parents[2] / "shared" / "checks" / "check_dataset.py"
LABELS = (
    (1, "spleen", "Abdomen (spleen)", "anatomy"),
    (2, "left kidney", "Abdomen (kidney)", "anatomy"),
    (3, "right kidney", "Abdomen (kidney)", "anatomy"),
    (4, "kidney tumor", "Abdomen (kidney)", "pathology"),
)
CATEGORY_IDS = {"Abdomen (spleen)": 1, "Abdomen (kidney)": 2}
ONTOLOGY = cast(
    Ontology,
    SimpleNamespace(
        labels={n: SimpleNamespace(id=i, name=n, category=c, kind=k) for i, n, c, k in LABELS},
        categories={c: SimpleNamespace(id=i, name=c, body_region="abdomen") for c, i in CATEGORY_IDS.items()},
        body_regions=["abdomen"],
    ),
)


def manifest(slug: str, modality: str) -> Manifest:
    terms = SimpleNamespace(name="CC-BY-4.0", redistribution="allowed")
    facts = {"slug": slug, "title": f"Set <{slug}> | one", "modality": modality, "license": terms, "access": "open"}
    page = {"homepage": "https://example.org", "citation": "Doe,\n2022", "status": "verified"}
    return cast(Manifest, SimpleNamespace(**facts, **page))


MANIFESTS = {"a_ct": manifest("a_ct", "ct"), "b_xray": manifest("b_xray", "xray")}


def region(image_key: str, label_id: int, box: tuple[int, int, int, int], n: int = 1) -> RegionRecord:
    label = LABELS[label_id - 1][1]
    x, y, w, h = box
    mask = np.zeros((48, 64), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    counts = rle.encode(mask)["counts"].decode()
    return RegionRecord(f"{image_key}/{label}/{n}", label, label, box, w * h, w * h / 3072, counts)


def record(source: str, case: str, index: int, split: str, boxes: dict[int, Any], **changes: Any) -> ImageRecord:
    modality = MANIFESTS[source].modality
    axis = "axial" if modality == "ct" else "native"
    key = f"{source}/{case}/{axis}/{index}"
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 64), 7 * index, np.uint8)).save(buffer, "PNG")
    made = ImageRecord(
        key=key, source=source, modality=modality, case=case, subject=case, split=split, axis=axis,
        slice_index=index, width=64, height=48, spacing=(0.7, 0.8), png=buffer.getvalue(), license="CC-BY-4.0",
        redistribution="allowed", annotated_label_ids=[3, 1, 2], neg_label_ids=[n for n in (1, 2, 3) if n not in boxes],
        not_exhaustive_label_ids=[], sex="F", age=None, diagnosis=None,
        regions=[region(key, label_id, box) for label_id, box in boxes.items()],
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def records() -> Iterator[ImageRecord]:
    yield record("a_ct", "case/ü 1", 1, "train", {3: (0, 0, 20, 10), 1: (40, 5, 24, 43)})
    yield record("a_ct", "case/ü 1", 10, "train", {1: (4, 5, 10, 10)})
    yield record("a_ct", "case/ü 1", 2, "train", {1: (4, 5, 10, 10)}, not_exhaustive_label_ids=[2])
    boxed = record("b_xray", "p1", 0, "test", {4: (4, 5, 10, 10)}, spacing=None, license="MIT")
    boxed.regions[0].rle = None
    yield boxed


def pages(size: int = 1000) -> Iterator[Page]:
    yield from plain.pages(records(), ONTOLOGY, size)


def exported(found: Iterable[Page], out: Path, ledger: Ledger | None = None, **options: Any) -> dict[str, Any]:
    """`export` of these pages, those of each source as its share."""
    shares = []
    for slug, members in groupby(found, key=lambda page: page.source):
        made = list(members)
        key = digest([[page.images.to_pylist(), page.regions.to_pylist()] for page in made].__repr__())
        shares.append(Share(slug, key, lambda folder, made=made: ({}, iter(made))))
    return export(shares, MANIFESTS, ONTOLOGY, out, ledger=lambda accounts, folders: ledger or Ledger(), **options)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    books = {"cases": {"decode": {"in": 2, "out": 2, "quarantined": 0, "background": 0}}}
    ledger = Ledger(books, {"spleen": {"kept": 3, "dropped": 1}}, {"resampled": 0})
    stats = exported(pages(), tmp_path, ledger, png=True)
    assert (stats["images"], stats["regions"]) == (4, 5)
    return tmp_path / "dataset"


def coco(built: Path, name: str) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((built / "annotations" / f"{name}.json").read_text()))


def test_outside_check(built: Path) -> None:
    if not CHECK.exists():
        pytest.skip("the checker is not here")
    done = subprocess.run([sys.executable, CHECK, built.parent], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 images, 5 regions, 0 violations" in done.stdout


def test_ids_are_ranks_in_key_order(built: Path) -> None:
    frame = pd.concat(pd.read_parquet(p) for p in sorted((built / "shards").rglob("*.parquet")))
    assert frame.sort_values("key").image_id.tolist() == [1, 2, 3, 4]
    regions = sorted((r["key"], r["region_id"]) for row in frame.regions for r in row)
    assert [n for _, n in regions] == [1, 2, 3, 4, 5]


def test_coco_opens_and_says_what_is_absent(built: Path) -> None:
    opened = COCO(built / "annotations" / "train.json")
    assert rle.area(opened.annToRLE(opened.loadAnns([1])[0])) == 200
    images = {image["slice_index"]: image for image in coco(built, "train")["images"]}
    assert [images[n]["neg_category_ids"] for n in (1, 10, 2)] == [[], [2], []]
    assert images[2]["not_exhaustive_category_ids"] == [2]
    labels = {image["slice_index"]: image for image in coco(built, "train.labels")["images"]}
    assert [labels[n]["neg_category_ids"] for n in (1, 10, 2)] == [[2], [2, 3], [3]]
    assert [c["name"] for c in coco(built, "train.labels")["categories"]] == [name for _, name, _, _ in LABELS]


def test_a_category_seen_through_its_pathology_is_not_negative(built: Path) -> None:
    assert coco(built, "test")["images"][0]["neg_category_ids"] == [1]


def test_licenses_are_the_records(built: Path) -> None:
    data = coco(built, "test")
    names = {entry["id"]: entry["name"] for entry in data["licenses"]}
    assert names[data["images"][0]["license"]] == "MIT"
    assert data["annotations"][0]["segmentation"] == []


def test_an_empty_split_has_all_its_files(built: Path) -> None:
    assert coco(built, "val")["images"] == [] == coco(built, "val.labels")["annotations"]
    assert (built / "grounding" / "val.jsonl").read_bytes() == b""
    assert pq.read_table(built / "shards" / "val" / "ct" / "part-00000.parquet").num_rows == 0


def test_datasets_and_duckdb_read_the_shards(built: Path, tmp_path: Path) -> None:
    files = {split: str(built / "shards" / split / "*" / "*.parquet") for split in ("train", "test")}
    data = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert data["train"][0]["image"].size == (64, 48)
    assert [r["label"] for r in data["train"][0]["regions"]] == ["right kidney", "spleen"]
    assert data["test"][0]["regions"][0]["segmentation"] is None
    assert data["test"][0]["spacing"] is None
    query = f"select count(*), sum(len(regions)) from '{built}/shards/*/*/*.parquet'"
    assert duckdb.connect().execute(query).fetchall() == [(4, 5)]


def test_the_card_is_loadable(built: Path, tmp_path: Path) -> None:
    data = datasets.load_dataset(str(built), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 3, "test": 1}


def test_croissant_and_report(built: Path) -> None:
    described = json.loads((built / "croissant.json").read_text())
    assert described["license"] == [
        "https://creativecommons.org/licenses/by/4.0/",
        "https://opensource.org/license/mit",
    ]
    page = (built / "report" / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 3
    assert "balances" in page
    assert json.loads((built / "stats.json").read_text())["resampled"] == 0


def test_same_bytes_and_no_leftovers(built: Path, tmp_path: Path) -> None:
    before = {p.relative_to(built): p.read_bytes() for p in built.rglob("*") if p.is_file()}
    (tmp_path / ".dataset.tmp" / "junk").mkdir(parents=True)
    books = {"cases": {"decode": {"in": 2, "out": 2, "quarantined": 0, "background": 0}}}
    ledger = Ledger(books, {"spleen": {"kept": 3, "dropped": 1}}, {"resampled": 0})
    exported(pages(), tmp_path, ledger, png=True)
    assert {p.relative_to(built): p.read_bytes() for p in built.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset", "stages"]
    assert sorted(p.name for p in (tmp_path / "stages" / "export").iterdir()) == ["a_ct", "b_xray"]


def test_a_failed_export_leaves_the_old_dataset(built: Path, tmp_path: Path) -> None:
    wrong = plain.pages(reversed(list(records())), ONTOLOGY)
    with pytest.raises(Failure, match="key order"):
        exported(wrong, tmp_path, png=True)
    assert (built / "stats.json").exists()


def test_without_png_there_are_no_loose_images(tmp_path: Path) -> None:
    exported(pages(), tmp_path, png=False)
    assert not (tmp_path / "dataset" / "images").exists()


def test_shards_and_row_groups_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GROUP_ROWS", 2)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    exported(pages(), tmp_path, png=False)
    parts = sorted((tmp_path / "dataset" / "shards" / "train" / "ct").iterdir())
    assert [pq.read_table(p).num_rows for p in parts] == [2, 1]


def test_file_names() -> None:
    assert image_file_name("s", "a b/ü~", "axial", 7) == "s/a%20b%2F%C3%BC%7E/axial-0007.png"
    assert image_file_name("s", "..", "native", 12345) == "s/%2E%2E/native-12345.png"
    first, second = (image_file_name("s", "ü" * 60 + end, "axial", 0).split("/")[1] for end in "xy")
    assert first != second
    assert len(first) <= 120


def test_captions_name_each_phrase_once_in_order_of_label_id() -> None:
    shown = record("a_ct", "c", 1, "train", {3: (0, 0, 5, 5), 1: (0, 0, 5, 5)})
    shown.regions.append(region(shown.key, 3, (9, 9, 5, 5), 2))
    page = with_captions(next(plain.pages([shown], ONTOLOGY)))
    assert page.images["caption"].to_pylist() == ["spleen. right kidney"]
    spans = page.regions.select(["phrase", "start", "end"]).to_pylist()
    assert {"spleen. right kidney"[r["start"] : r["end"]] for r in spans} == {r["phrase"] for r in spans}


TEXT = st.text(st.sampled_from('aZ 09/\\"\n\x01é😀,'), min_size=1, max_size=6)
IDS = st.lists(st.integers(1, 4), unique=True, max_size=4).map(sorted)
BOX = st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(1, 30), st.integers(1, 20))


def counts_of(box: tuple[int, int, int, int]) -> str:
    """Run lengths of a box on a picture of 48 x 64: others would be read beyond its end by pycocotools."""
    x, y, width, height = box
    mask = np.zeros((48, 64), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    text: str = rle.encode(mask)["counts"].decode()
    return text


@st.composite
def drawn_regions(draw: st.DrawFn, image_key: str) -> list[RegionRecord]:
    found = draw(st.lists(st.tuples(st.integers(1, 4), TEXT, BOX), min_size=1, max_size=5))
    made = {}
    for label_id, raw, box in found:
        area = draw(st.integers(1, 3072))
        key = f"{image_key}/{raw}/{len(made)}"
        made[key] = RegionRecord(key, LABELS[label_id - 1][1], raw, box, area, area / 3072,
                                 draw(st.none() | st.just(counts_of(box))), draw(st.booleans()))  # fmt: skip
    return list(made.values())


@st.composite
def drawn_records(draw: st.DrawFn) -> list[ImageRecord]:
    places = draw(st.lists(st.tuples(st.sampled_from(["a_ct", "b_xray"]), TEXT, st.integers(0, 12)), unique=True,
                           min_size=1, max_size=8))  # fmt: skip
    made = []
    for source, case, index in places:
        key = f"{source}/{case}/native/{index}"
        made.append(record(
            source, case, index, draw(st.sampled_from(SPLITS)), {}, key=key, axis="native", subject=draw(TEXT),
            license=draw(st.sampled_from(["CC0-1.0", "MIT"])), annotated_label_ids=draw(IDS), neg_label_ids=draw(IDS),
            not_exhaustive_label_ids=draw(IDS), sex=draw(st.none() | TEXT), regions=draw(drawn_regions(key)),
        ))  # fmt: skip
    return sorted(made, key=lambda r: r.key)


def lines(path: Path) -> list[bytes]:
    return [line.removesuffix(b",") for line in path.read_bytes().splitlines()]


@settings(max_examples=15, deadline=None, phases=[Phase.reuse, Phase.generate],
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn_records(), st.integers(1, 4))
def test_columns_give_what_rows_give(tmp_path: Path, made: list[ImageRecord], size: int) -> None:
    stats = exported(plain.pages(made, ONTOLOGY, size), tmp_path, png=False)
    out = tmp_path / "dataset"
    for split in SPLITS:
        assert lines(out / "grounding" / f"{split}.jsonl") == plain.grounding_lines(made, ONTOLOGY, split)
        for level, name in (("labels", f"{split}.labels.json"), ("categories", f"{split}.json")):
            images, annotations = plain.coco_lines(made, ONTOLOGY, split, level)
            opening = [b'{"images":[', *images, b'],"annotations":['] if images else [b'{"images":[],"annotations":[']
            assert lines(out / "annotations" / name)[:-1] == [*opening, *(annotations or [b""])]
    for key in ("label", "category", "body_region", "split", "license"):
        assert stats["by"][key] == plain.counts(made, ONTOLOGY, key)
    shards = [row for path in sorted((out / "shards").rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert sorted(shards, key=lambda row: row["image_id"]) == plain.shard_rows(made, ONTOLOGY)
