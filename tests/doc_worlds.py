"""What each page takes for granted: a folder with the files that its commands name, servers, and few substitutions."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

import faulty_s3
import numpy as np
import pytest
import test_demo_build
from doc_commands import Command, blocks
from PIL import Image
from program import medglip

SCAN = "raw/demo_ct_chest/c01/ct.nii.gz"


@dataclass
class World:
    """Where a page's commands run, and how they differ from what the page shows.

    `instead`: part of a word → what stands there here. `more`: the beginning of a command → words added to it.
    `allowed`: the beginning of a command → exit codes besides 0. `first`: what is done before such a command.
    """

    folder: Path
    instead: dict[str, str] = field(default_factory=dict)
    more: dict[str, list[str]] = field(default_factory=dict)
    allowed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    first: dict[str, Callable[[Command], None]] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    def words(self, command: Command) -> list[str]:
        """The words to run."""
        found = []
        for word in command.words:
            for old, new in self.instead.items():
                word = word.replace(old, new)
            found.append(word)
        return [*found, *(word for start, words in self.more.items() if _begins(command, start) for word in words)]

    def codes(self, command: Command) -> set[int]:
        """The exit codes that a command may have."""
        return {0, *(code for start, codes in self.allowed.items() if _begins(command, start) for code in codes)}

    def before(self, command: Command) -> list[Callable[[], None]]:
        """What is to be done before a command."""
        return [lambda act=act: act(command) for start, act in self.first.items() if _begins(command, start)]  # type: ignore[misc]


def _begins(command: Command, start: str) -> bool:
    return " ".join(command.words).removeprefix("medglip-etl ").startswith(start)


def build(demo: Path, folder: Path, *sources: str) -> None:
    """`folder/out` of some sources of the demo."""
    chosen = [word for source in sources for word in ("--source", source)]
    test_demo_build.build(demo, folder / "out", "--profile", "small", "--workers", 1, *chosen)


def miniature(source: str, raw: Path, *more: object) -> None:
    """A tiny raw folder of a source or group below `raw`."""
    done = medglip("sources", "miniature", source, raw, *more)
    assert done.returncode == 0, done.stderr


@contextmanager
def plain(folder: Path, built: Path) -> Iterator[World]:
    """A built dataset `out` and its label maps."""
    for name in ("out", "label_maps"):
        shutil.copytree(built / name, folder / name)
    names = {"OUT": "out", "NAME": "lvis", "DIR": "exported"}
    yield World(folder, names, env={"XDG_CACHE_HOME": str(folder / "cache")})


@contextmanager
def readme(folder: Path, built: Path) -> Iterator[World]:
    """Downloads in `/data`; the YAML files of the page come after `sources add`, as a person would edit them."""
    raw = folder / "data"
    for source in ("kits23", "amos2022"):
        miniature(source, raw)
    written = {found[1]: text for _, text in blocks("README.md") if (found := re.match(r"# (\S+\.yaml)\n", text))}
    for name, text in written.items():
        path = folder / "edited" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    miniature("my_source", raw, "--manifests", folder / "edited/manifests")

    def edit(_: Command) -> None:
        assert (folder / "manifests/my_source.yaml").exists(), "`sources add` wrote no manifest"
        shutil.copytree(folder / "edited", folder, dirs_exist_ok=True)

    yield World(
        folder, {"/data": str(raw), "OUT=out": f"OUT={folder / 'out'}"},
        more={"make build-dataset": [f"OUT={folder / 'out'}"], "build": ["--workers", "1"]},
        allowed={"sources check": (1,)},  # a miniature holds faults on purpose
        first={"sources check my_source": edit},
        env={"SOURCE": "demo_endoscopy"},  # of the demo; `make` prefers what the command says
    )


@contextmanager
def quality(folder: Path, built: Path) -> Iterator[World]:
    """Pictures of a list: a person in two splits, and one picture in two."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(80), np.arange(100))
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray((ramp + rng.integers(0, 70, ramp.shape)).astype(np.uint8)).save(folder / name)
    with Image.open(folder / "a.png") as picture:
        picture.save(folder / "d.jpg", quality=97)
    rows = ["a.png,p1,train", "b.png,p2,train", "c.png,p2,test", "d.jpg,p3,val"]
    (folder / "list.csv").write_text("\n".join(["path,subject,split", *rows]))
    yield World(folder, allowed={"leakcheck": (1,)})


@contextmanager
def evaluation(folder: Path, built: Path) -> Iterator[World]:
    """Results made from the truth that the command names; those of another split where the page shows an error."""
    shutil.copytree(built / "out", folder / "out")
    annotations = folder / "out/dataset/annotations"
    shutil.copy(annotations / "train.json", folder / "instances.json")
    shutil.copytree(folder / "out/dataset/images", folder / "pictures")

    def results(command: Command) -> None:
        split = "train" if command.fails else _option(command, "--split", "test")
        level = ".labels" if _option(command, "--level", "category") == "label" else ""
        truth = json.loads((annotations / f"{split}{level}.json").read_text())
        if "--truth" in command.words:
            truth = json.loads((folder / "instances.json").read_text())
        for name, score in (("results.json", 0.9), ("other.json", 0.5)):
            found = [{key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": score}
                     for a in truth["annotations"]]  # fmt: skip
            assert found
            (folder / name).write_text(json.dumps(found))

    yield World(folder, more={"evaluate": ["--bootstrap", "20"]}, first={"evaluate": results})


def _option(command: Command, name: str, default: str) -> str:
    return command.words[command.words.index(name) + 1] if name in command.words else default


@contextmanager
def labels(folder: Path, built: Path) -> Iterator[World]:
    """A source without a map, and an endpoint that knows its raw labels."""
    import test_label_suggest as endpoint

    shutil.copytree(built / "out", folder / "out")
    (folder / "manifests").mkdir()
    (folder / "maps/sources").mkdir(parents=True)
    labels = "{1: spleen, 2: right kidney, 3: Leber, 4: Stent}"
    manifest = re.sub(r"labels: \{.*\}", f"labels: {labels}", endpoint.MANIFEST)
    (folder / "manifests/toy_ct.yaml").write_text(manifest)
    laid = ["--manifests", "manifests", "--label-maps", "maps"]
    with pytest.MonkeyPatch.context() as patch, serving(endpoint.Server()) as url:
        for name in ("spleen", "right kidney"):
            patch.setitem(endpoint.RIGHT, name, name)
        yield World(
            folder, {"main..HEAD": "HEAD..HEAD"},
            more={"labels suggest": [*laid, "--cache", "answers.jsonl"], "labels approve": laid[2:]},
            env={"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "x", "NO_PROXY": "*"},
        )  # fmt: skip


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """The address of a server while it answers."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def cluster(folder: Path, built: Path) -> Iterator[World]:
    """A bucket and a scheduler with one worker, on this machine."""
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    import test_cluster

    raw = folder / "shared/raw"
    miniature("kits23", raw)
    env = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch, faulty_s3.serving() as port:
        url = f"http://127.0.0.1:{port}"
        for name, value in (env | {"AWS_ENDPOINT_URL": url}).items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="bucket")
        faulty_s3.put_tree(client, raw, "bucket", "raw")
        with test_cluster.cluster(folder / "cluster", 1) as found:
            schedulers = {f"tcp://{name}:8786": found.address for name in ("10.0.0.5", "login1", "scheduler")}
            yield World(folder, {**schedulers, "/shared/": f"{folder}/shared/"})


SHORT_TRAINING = {"train": ["--steps", "2", "--limit", "4"]}


@contextmanager
def tutorial(folder: Path, built: Path) -> Iterator[World]:
    """A volume; two sources of the demo instead of all, two updates instead of thousands."""
    shutil.copy(built / SCAN, folder / "scan.nii.gz")
    some = ["--source", "demo_ct_chest", "--source", "demo_ct_spine", "--axes", "axial", "--stride", "4"]
    yield World(folder, more={**SHORT_TRAINING, "build": some, "ground": ["--stride", "16"]},
                env={"OMP_NUM_THREADS": "1"})  # fmt: skip


@contextmanager
def trained(folder: Path, built: Path) -> Iterator[World]:
    """A model of two updates, and a picture."""
    train(folder, built)
    Image.fromarray(np.full((60, 80), 90, np.uint8)).save(folder / "chest.png")
    yield World(folder, env={"OMP_NUM_THREADS": "1"})


def train(folder: Path, built: Path) -> None:
    """`folder/run/bundle`: experts for what is in `built/out`."""
    done = medglip("train", built / "out", "--out", folder / "run", "--size", "nano", "--split", "val",
                   *SHORT_TRAINING["train"], "--modality", "xray", "--modality", "ct")  # fmt: skip
    assert done.returncode == 0, done.stderr


@contextmanager
def experiment(folder: Path, built: Path) -> Iterator[World]:
    """Two sources in `/data`; eight people instead of 48."""
    for source in ("segrap2023_ct", "amos2022_mr"):
        miniature(source, folder / "data")
    yield World(folder, {"/data": str(folder / "data"), "48": "8"})


@contextmanager
def held_out(folder: Path, built: Path) -> Iterator[World]:
    """Eight people instead of 48, two updates instead of 800."""
    yield World(folder, {"48": "8", "800": "2"})


@contextmanager
def downstream(folder: Path, built: Path) -> Iterator[World]:
    """Six questions, six reports, two studies; a liver found in every picture; a model of two updates; an endpoint."""
    import test_downstream_data as data
    import test_downstream_endpoint as endpoint
    import test_downstream_metrics as metrics

    train(folder, built)
    slake, reports = folder / "Slake1.0", folder / "iu_xray"
    names = [f"xmlab{n}/source.jpg" for n in range(6)]
    asked = [data.slake_row(qid=n, img_name=name, modality="CT") for n, name in enumerate(names)]
    for name in names:
        data.picture(slake / "imgs" / name)
    for split, some in (("train", asked[:3]), ("validation", []), ("test", asked[3:])):
        (slake / f"{split}.json").write_text(json.dumps(some))
    studies = [{"id": f"CXR{n}", "report": "The heart is normal .", "image_path": [f"CXR{n}/0.png"]} for n in range(6)]
    for study in studies:
        data.picture(reports / "images" / str(study["image_path"][0]))
    split_up = {"train": studies[:3], "val": [], "test": studies[3:]}
    (reports / "annotation.json").write_text(json.dumps(split_up))
    (folder / "annotation.json").write_text(json.dumps(data.mlrg_document()))
    for name in ("a", "b"):
        data.picture(folder / f"files/p10/{name}.jpg")
    for name, report in (("test_reports", "the heart is normal"), ("test_reports_without", "the")):
        metrics.results(folder / f"{name}.csv", [(str(n), "the heart is normal", report) for n in range(3)])

    def found(_: Command) -> None:
        images = [*names, *(str(s["image_path"][0]) for s in studies), "p10/a.jpg", "p10/b.jpg"]
        data.found_file(folder / "found", {name: [data.LIVER] for name in images})

    small = ["--epochs", "1", "--width", "16", "--bootstrap", "10"]
    with serving(endpoint.Server()) as url:
        yield World(
            folder, more={"downstream vqa": small, "downstream report": small, "downstream score": small[-2:]},
            first={"downstream": found},
            env={"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "x", "NO_PROXY": "*", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
