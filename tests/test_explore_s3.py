"""The explorer and `export` over a dataset on S3, and the explorer's index: made again when the dataset changes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from explore_site import PROGRAM
from export_readers import tree
from faulty_s3 import get_tree, put_tree, serving

from etl.cli.explore import locator
from etl.errors import Failure, UsageError
from etl.explore import dataset, filters, index
from etl.explore.queries import Index
from etl.explore.review import Desk
from etl.explore.volumes import Volumes
from etl.exports.run import MARK, export
from etl.labels.maps import load_ontology
from etl.manifests.load import load_manifests
from etl.objects import _files, place
from etl.release.records import SPLITS

BUNDLED = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(explored: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The client of a local store: the dataset and its stage results at bucket/sets, raw files at bucket/raw."""
    boto3, s3fs = pytest.importorskip("boto3"), pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with serving() as port, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "a")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        s3fs.S3FileSystem.clear_instance_cache()
        _files.cache_clear()
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        put_tree(client, explored / "out", "bucket", "sets")
        put_tree(client, explored / "raw" / "DemoAbdomen", "bucket", "raw/DemoAbdomen")
        yield client
        s3fs.S3FileSystem.clear_instance_cache()
        _files.cache_clear()


def test_the_same_images_from_s3(explored: Path, store: Any) -> None:
    data = dataset.dataset("s3://bucket/sets")
    told: list[str] = []
    found = Index(index.opened(data, told.append))
    frame = pd.read_parquet(explored / "out" / "dataset" / "shards")
    assert found.count(filters.Filter()) == len(frame)
    one = frame[frame["source"] == "demo_skin"].iloc[0]
    placed = found.image(int(one["image_id"]))
    assert placed is not None
    row = dataset.Rows(data, data.shards()).row(placed["shard"], placed["row"])
    assert (row["key"], row["image"]["bytes"]) == (one["key"], one["image"]["bytes"])
    assert data.table("quarantine/demo_skin.parquet") is not None
    assert len(told) == 1
    index.opened(data, told.append).close()
    assert len(told) == 1, "the index is made once"
    with pytest.raises(Failure, match="no dataset there"):
        dataset.dataset("s3://bucket/none")


def test_a_region_on_s3_is_located_as_on_this_machine(explored: Path, store: Any) -> None:
    frame = pd.read_parquet(explored / "out" / "dataset" / "shards")
    row = frame[frame["source"] == "demo_ct_abdomen"].iloc[0].to_dict()
    box = [int(v) for v in row["regions"][0]["bbox"]]
    there = locator("s3://bucket/sets")(row, box)
    assert there == locator(str(explored / "out"))(row, box)
    assert there["voxel_box"]


def test_examples_for_the_review_desk_come_from_s3(explored: Path, store: Any) -> None:
    maps, ontology = (explored / "label_maps",), load_ontology(BUNDLED / "label_maps", explored / "label_maps")
    here, there = (
        Desk(maps, {}, ontology, write=False, out=out) for out in (explored / "out", place("s3://bucket/sets"))
    )
    assert there.crops("demo_ct_abdomen", "liver") == here.crops("demo_ct_abdomen", "liver") is not None
    assert there.crops("demo_ct_abdomen", "no such") is None


def test_a_volume_is_cut_anew_from_raw_files_on_s3(explored: Path, store: Any) -> None:
    manifests = load_manifests(explored / "manifests")
    cut = []
    for raw in (explored / "raw", place("s3://bucket/raw")):
        volumes = Volumes(manifests, raw, None)
        assert volumes.root("demo_ct_abdomen") == raw / "DemoAbdomen"
        case = str(pd.read_parquet(explored / "out" / "dataset" / "shards", columns=["source", "case"])
                   .query("source == 'demo_ct_abdomen'")["case"].iloc[0])  # fmt: skip
        volume = volumes.volume("demo_ct_abdomen", case)
        cut.append(volume.plane("coronal", volume.shape[1] // 2, -600, 1500))
        volumes.close()
    assert np.ptp(cut[0])
    np.testing.assert_array_equal(*cut)
    volumes = Volumes(manifests, place("s3://bucket/nothing"), None)
    with pytest.raises(Failure, match="are not here; start with --raw"):
        volumes.volume("demo_ct_abdomen", case)
    volumes.close()


def exported(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, "export", *arguments], capture_output=True, text=True, check=False)


def test_an_export_from_and_to_s3(explored: Path, store: Any, tmp_path: Path) -> None:
    for name in ("cvat", "lvis", "datasets"):
        export(explored / "out", name, to=tmp_path / name, splits=SPLITS, level="category", images=True)
    done = exported("s3://bucket/sets", "--format", "cvat", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["to"] == "s3://bucket/sets/exports/cvat"
    assert get_tree(store, "bucket", "sets", ("exports",)) == {
        f"exports/cvat/{name}": data for name, data in tree(tmp_path / "cvat").items()
    }
    there = place("s3://bucket/sets")
    export(there, "lvis", to=tmp_path / "near", splits=SPLITS, level="category", images=True)
    assert tree(tmp_path / "near") == tree(tmp_path / "lvis")
    export(there, "datasets", to=place("s3://bucket/sets/exports/cvat"), splits=SPLITS, level="category", images=True)
    assert get_tree(store, "bucket", "sets/exports/cvat", ("data", "README.md", MARK, "annotations", "images")) == tree(
        tmp_path / "datasets"
    )


def test_an_export_that_broke_off_on_s3_is_made_again(explored: Path, store: Any, tmp_path: Path) -> None:
    to = place("s3://bucket/broken")
    (to / "annotations" / "old.json").write_text("half")
    with pytest.raises(UsageError, match="no export"):
        export(explored / "out", "cvat", to=to, splits=SPLITS, level="category", images=False)
    (to / MARK).write_text('{"unfinished": true}')
    export(explored / "out", "cvat", to=to, splits=SPLITS, level="category", images=False)
    export(explored / "out", "cvat", to=tmp_path / "cvat", splits=SPLITS, level="category", images=False)
    found = get_tree(store, "bucket", "broken", ("annotations", "labels.json", MARK))
    assert found == tree(tmp_path / "cvat")
    done = exported("s3://bucket/none", "--format", "cvat")
    assert (done.returncode, "s3://bucket/none/dataset/stats.json is not there" in done.stderr) == (1, True)


def test_an_index_follows_its_dataset(explored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frame = pd.read_parquet(explored / "out" / "dataset" / "shards" / "train" / "xray")
    shard = tmp_path / "out" / "dataset" / "shards" / "train" / "xray" / "part-00000.parquet"
    shard.parent.mkdir(parents=True)
    (tmp_path / "out" / "dataset" / "stats.json").write_text("{}")
    with pytest.raises(Failure, match="no dataset there"):
        dataset.dataset(str(tmp_path / "out"))
    said: list[str] = []
    for rows in (2, 1):
        frame.head(rows).to_parquet(shard)
        base = index.opened(dataset.dataset(str(tmp_path / "out")), said.append)
        assert Index(base).count(filters.Filter()) == rows
        base.close()
    assert len(said) == 2
    assert len(list(index.cache().glob("*.duckdb"))) == 1, "the index of what it was before is gone"
    frame.drop(columns="flags").to_parquet(shard)
    with pytest.raises(Failure, match="no column flags"):
        index.opened(dataset.dataset(str(tmp_path / "out")), said.append)
    with pytest.raises(UsageError, match="s3://"):
        dataset.dataset("https://example.org/set")
