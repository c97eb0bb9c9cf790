"""The explorer over a dataset on S3, and its index: made once, made again when the dataset changes."""

from pathlib import Path

import pandas as pd
import pytest

from etl.errors import Failure, UsageError
from etl.explore import dataset, filters, index
from etl.explore.queries import Index


def test_the_same_images_from_s3(explored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = pytest.importorskip("moto.server")
    boto3, s3fs = pytest.importorskip("boto3"), pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for path in sorted((explored / "out").rglob("*")):
            if path.suffix in (".parquet", ".json") and "stages" not in path.parts:
                client.upload_file(str(path), "bucket", f"sets/{path.relative_to(explored / 'out')}")
        s3fs.S3FileSystem.clear_instance_cache()
        data = dataset.dataset("s3://bucket/sets")
        told: list[str] = []
        found = Index(index.opened(data, told.append))
        frame = pd.read_parquet(explored / "out" / "dataset" / "shards")
        assert found.count(filters.Filter()) == len(frame)
        one = frame[frame["source"] == "demo_skin"].iloc[0]
        place = found.image(int(one["image_id"]))
        assert place is not None
        row = dataset.Rows(data, data.shards()).row(place["shard"], place["row"])
        assert (row["key"], row["image"]["bytes"]) == (one["key"], one["image"]["bytes"])
        assert data.table("quarantine/demo_skin.parquet") is not None
        assert (data.out, len(told)) == (None, 1)
        index.opened(data, told.append).close()
        assert len(told) == 1, "the index is made once"
        with pytest.raises(Failure, match="no dataset there"):
            dataset.dataset("s3://bucket/none")
    finally:
        moto.stop()


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
