"""Workers that share nothing but an object store, which throttles, fails and tears connections: the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faulty_s3
import pytest
from program import build, medglip, tree

from etl import runner, store
from etl.errors import Failure

boto3 = pytest.importorskip("boto3")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

SOURCES = ("demo_mri_brain", "demo_endoscopy", "demo_fundus_boxes", "demo_ct_chest")
CHOSEN = [part for source in SOURCES for part in ("--source", source)]
PARTS = ("dataset", "quarantine")


@dataclass
class Bucket:
    """A bucket as its owner sees it, past the proxy, and what the proxy did."""

    client: Any
    made: Any
    demo: Path

    def names(self, end: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket="bucket", Prefix="out/stages/slice/").get("Contents", ())
        return [item["Key"] for item in found if item["Key"].endswith(end)]

    def tree(self) -> dict[str, bytes]:
        return faulty_s3.get_tree(self.client, "bucket", "out", PARTS)

    def build(self, *more: object) -> subprocess.Popen[str]:
        command = [Path(sys.executable).with_name("medglip-etl"), "build", "--raw", "s3://bucket/raw", "--out",
                   "s3://bucket/out", "--manifests", self.demo / "manifests", "--label-maps", self.demo / "label_maps",
                   *CHOSEN, *more]  # fmt: skip
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert medglip("demo", folder).returncode == 0
    build(folder, folder / "out", *CHOSEN, "--workers", 1)
    return folder


@pytest.fixture
def bucket(demo: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with faulty_s3.serving() as port, faulty_s3.faulty(port, getattr(request, "param", 0.0)) as (proxy, made):
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        client.create_bucket(Bucket="bucket")
        faulty_s3.put_tree(client, demo / "raw", "bucket", "raw")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy}")
        yield Bucket(client, made, demo)


@dataclass
class Cluster:
    """A scheduler and workers, each in a folder of its own."""

    address: str
    scheduler: subprocess.Popen[Any]
    stack: ExitStack
    workers: list[subprocess.Popen[Any]] = field(default_factory=list)


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[Cluster]:
    program = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    folder.mkdir()
    file = folder / "scheduler.json"
    with ExitStack() as stack:
        command = [*program, "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        scheduler = stack.enter_context(process(command, folder))
        until(file.exists)
        found = Cluster(f"tcp://{address(file)}", scheduler, stack)
        for number in range(workers):
            add_worker(found, folder / f"worker{number}")
        yield found


def add_worker(found: Cluster, place: Path) -> None:
    place.mkdir()
    command = [sys.executable, "-m", "distributed.cli.dask_worker", found.address, "--nthreads", "1", "--no-nanny",
               "--no-dashboard", "--local-directory", str(place), "--death-timeout", "60"]  # fmt: skip
    found.workers.append(found.stack.enter_context(process(command, place)))


@contextmanager
def process(command: list[str], folder: Path) -> Iterator[subprocess.Popen[Any]]:
    environment = os.environ | {"TMPDIR": str(folder)}
    with (folder / "log").open("w") as log:
        started = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def address(file: Path) -> str:
    until(lambda: bool(file.read_text()))
    return str(json.loads(file.read_text())["address"]).removeprefix("tcp://")


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize("bucket", [0.05], indirect=True)
def test_workers_that_share_only_a_faulty_store_and_one_is_lost(bucket: Bucket, demo: Path, tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster", 3) as found:
        running = bucket.build("--scheduler", found.address)
        until(lambda: running.poll() is not None or bool(bucket.names(".cases.parquet")))
        found.workers[0].kill()
        _, errors = running.communicate()
        assert running.returncode == 0, errors
    assert bucket.tree() == tree(demo / "out")
    assert {*faulty_s3.FAULTS, "served"} <= set(bucket.made), bucket.made
    keys = [name.rsplit("/", 1)[-1] for name in bucket.names(".cases.parquet")]
    assert len(keys) == len(set(keys)) > 0
    left = [p for n in range(3) for p in (tmp_path / "cluster" / f"worker{n}").rglob("medglip-*") if n]
    assert left == []  # the raw files that a task brought are gone with it


@pytest.mark.slow
def test_the_scheduler_is_lost_and_another_ends_the_work(bucket: Bucket, demo: Path, tmp_path: Path) -> None:
    with cluster(tmp_path / "one", 2) as found:
        running = bucket.build("--scheduler", found.address)
        until(lambda: running.poll() is not None or bool(bucket.names(".cases.parquet")))
        found.scheduler.kill()
        _, errors = running.communicate()
        assert running.returncode == 1
        assert "the same command again" in errors
    done = set(bucket.names(".cases.parquet"))
    junk = next(iter(done)).replace(".cases.parquet", "x.regions.parquet")  # a task that died before its mark
    bucket.client.put_object(Bucket="bucket", Key=junk, Body=b"half")
    with cluster(tmp_path / "two", 2) as found:
        running = bucket.build("--scheduler", found.address)
        _, errors = running.communicate()
        assert running.returncode == 0, errors
    assert done <= set(bucket.names(".cases.parquet"))
    assert bucket.tree() == tree(demo / "out")
    shown = medglip("stats", "s3://bucket/out")
    assert shown.stdout == medglip("stats", demo / "out").stdout
    asked, here = (medglip("quarantine", out, "--json").stdout for out in ("s3://bucket/out", demo / "out"))
    assert asked == here
    place, here = (medglip("locate", out, "3", "--json").stdout for out in ("s3://bucket/out", demo / "out"))
    assert place.replace("s3://bucket", str(demo)) == here


def test_other_addresses_and_no_store_are_told(tmp_path: Path) -> None:
    wrong = medglip("build", "--raw", "ftp://host/raw", "--out", tmp_path)
    assert (wrong.returncode, "s3://bucket/prefix" in wrong.stderr) == (2, True)
    assert medglip("build", "--raw", tmp_path, "--out", "s3://").returncode == 2
    fetched = medglip("stage", "fetch", "--source", "amos2022_ct", "--raw", "s3://bucket/raw")
    assert (fetched.returncode, "copy that to the store" in fetched.stderr) == (2, True)


def test_a_bounded_number_is_in_flight_and_follows_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ASK_EVERY_S", 0.0)
    known: list[int] = []
    with cluster(tmp_path / "cluster", 1) as found, runner.pool(0, found.address) as pool:
        pool._client.wait_for_workers(1)
        for done, (unit, result) in enumerate(pool.map(store.digest, range(200))):
            assert result == store.digest(unit)
            if done % 10 == 0:
                known.append(pool._client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))
            if done == 100:
                add_worker(found, tmp_path / "cluster" / "late")
                pool._client.wait_for_workers(2)
    per_thread = runner.IN_FLIGHT_PER_THREAD
    assert max(known[:10]) <= per_thread + 1  # and the one that has just ended
    assert per_thread + 1 < max(known[11:]) <= 2 * per_thread + 1


def test_a_scheduler_that_goes_between_two_results_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ASK_EVERY_S", 0.0)
    with cluster(tmp_path / "cluster", 1) as found, runner.pool(0, found.address) as pool:
        pool._client.wait_for_workers(1)
        results = pool.map(store.digest, range(50))
        next(results)
        found.scheduler.kill()
        with pytest.raises(Failure, match="the same command again"):
            list(results)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_the_same_bytes_for_any_number_of_workers(demo: Path, tmp_path: Path, workers: int) -> None:
    with cluster(tmp_path / "cluster", workers) as found:  # so few files would be worth no cluster of our own
        build(demo, tmp_path / "out", *CHOSEN, "--scheduler", found.address)
    assert tree(tmp_path / "out") == tree(demo / "out")
