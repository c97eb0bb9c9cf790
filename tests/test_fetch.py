"""`stage fetch` and `sources fetch`: from a server to a folder that builds, once; or what a person has to do."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from faulty_server import Site, serving
from typer.testing import CliRunner

from etl.cli import app

MANIFEST = """
slug: {slug}
group: {group}
title: A title
year: 2024
modality: dermoscopy
body_regions: [skin]
homepage: https://example.org/set
license: {{name: CC0-1.0, redistribution: allowed}}
access: {access}
evidence: [written here]
status: verified
files:
  - {{image: "{part}/{{case:s_\\\\d+}}.png", mask: "labels/{{case}}.png", kind: binary}}
labels: {{1: mole}}
fetch: {fetch}
"""
IMAGES = {f"images/s_{n}.png": b"image%d" % n for n in range(3)}
LABELS = {f"labels/s_{n}.png": b"label%d" % n for n in range(3)}


def zipped(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        for name, body in files.items():
            packed.writestr(name, body)
    return data.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as packed:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            packed.addfile(info, io.BytesIO(body))
    return data.getvalue()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as found:
        labels = {name.removeprefix("labels/"): data for name, data in LABELS.items()}
        found.files = {"images.zip": zipped(IMAGES), "labels.tgz": tarred(labels), "facts.csv": b"id,age\n"}
        yield found


def manifest(folder: Path, slug: str, fetch: list[dict[str, str]], access: str = "open", group: str = "",
             part: str = "images") -> None:
    (folder / "manifests").mkdir(exist_ok=True)
    text = MANIFEST.format(slug=slug, group=group or slug, access=access, fetch=json.dumps(fetch), part=part)
    (folder / "manifests" / f"{slug}.yaml").write_text(text)


def entries(site: Site) -> list[dict[str, str]]:
    digest = hashlib.sha256(site.files["images.zip"]).hexdigest()
    return [{"url": site.url("images.zip?download=1"), "sha256": digest, "unpack": "zip"},
            {"url": site.url("labels.tgz"), "unpack": "tar", "into": "labels"},
            {"url": site.url("facts.csv"), "into": "tables/new"}]  # fmt: skip


def run(folder: Path, *arguments: str) -> Result:
    more = ["--raw", str(folder / "raw"), "--manifests", str(folder / "manifests")]
    return CliRunner().invoke(app, [*arguments, *more])


def tree(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and ".fetch" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_downloads_unpacks_and_does_nothing_twice(site: Site, tmp_path: Path) -> None:
    manifest(tmp_path, "skin", entries(site))
    site.faults.append({"tear": 100})
    done = run(tmp_path, "sources", "fetch", "skin")
    assert (done.exit_code, done.stdout) == (0, f"skin: 3 cases in {tmp_path / 'raw' / 'skin'}\n"), done.stderr
    assert tree(tmp_path / "raw") == {
        f"skin/{k}": v for k, v in {**IMAGES, **LABELS, "tables/new/facts.csv": b"id,age\n"}.items()
    }
    kept = [p.name for p in (tmp_path / "raw" / "skin" / ".fetch").iterdir() if p.suffix not in (".json", ".lock")]
    assert kept == []  # archives and parts do not stay
    asked = len(site.asked)
    assert run(tmp_path, "stage", "fetch", "--source", "skin").exit_code == 0
    assert len(site.asked) == asked
    (tmp_path / "raw" / "skin" / "labels" / "s_1.png").unlink()
    assert run(tmp_path, "stage", "fetch", "--source", "skin").exit_code == 0
    assert [path for path, _ in site.asked[asked:]] == ["/labels.tgz"]
    assert (tmp_path / "raw" / "skin" / "labels" / "s_1.png").read_bytes() == b"label1"


def test_one_fault_leaves_the_rest_and_the_next_run_ends_it(site: Site, tmp_path: Path) -> None:
    good = site.files["labels.tgz"]
    site.files["labels.tgz"] = tarred({"../evil": b"x"})
    manifest(tmp_path, "skin", entries(site))
    done = run(tmp_path, "sources", "fetch", "skin")
    assert done.exit_code == 1
    assert "member '../evil': leaves its folder" in done.stdout
    assert sorted(tree(tmp_path / "raw")) == sorted([f"skin/{k}" for k in IMAGES] + ["skin/tables/new/facts.csv"])
    assert not (tmp_path / "raw" / "evil").exists()
    site.files["labels.tgz"], asked = good, len(site.asked)
    assert run(tmp_path, "sources", "fetch", "skin").exit_code == 0
    assert [path for path, _ in site.asked[asked:]] == ["/labels.tgz"]


def test_sources_that_share_a_download_share_a_folder(site: Site, tmp_path: Path) -> None:
    for slug in ("set_a", "set_b"):
        manifest(tmp_path, slug, entries(site), group="set")
    done = run(tmp_path, "sources", "fetch", "set", "--json")
    assert done.exit_code == 0, done.stderr
    assert [r["folder"] for r in json.loads(done.stdout)["sources"]] == [str(tmp_path / "raw" / "set")] * 2
    assert len(site.asked) == 3


@pytest.mark.parametrize(("access", "why"), [("registration", "registration"), ("request", "on request"),
                                             ("open", "no download address")])
def test_behind_a_registration_it_says_what_to_do(site: Site, tmp_path: Path, access: str, why: str) -> None:
    manifest(tmp_path, "skin", [] if access == "open" else entries(site), access)
    done = run(tmp_path, "stage", "fetch", "--source", "skin")
    assert done.exit_code == 1
    assert site.asked == []
    for text in (why, "https://example.org/set", str(tmp_path / "raw" / "skin"), "images/<case>.png",
                 "labels/<case>.png", "sources check skin"):
        assert text in done.stdout
    for name, body in {**IMAGES, **LABELS}.items():
        path = tmp_path / "raw" / "skin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    done = run(tmp_path, "stage", "fetch", "--source", "skin")
    assert (done.exit_code, "3 cases" in done.stdout) == (0, True)


def test_nothing_is_written_over(site: Site, tmp_path: Path) -> None:
    manifest(tmp_path, "skin", entries(site))
    own = tmp_path / "raw" / "skin" / "images" / "s_0.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    done = run(tmp_path, "sources", "fetch", "skin")
    assert (done.exit_code, "another file is there" in done.stdout) == (1, True)
    assert own.read_bytes() == b"mine"


def test_usage(site: Site, tmp_path: Path) -> None:
    manifest(tmp_path, "skin", [{"url": "file:///etc/hostname"}])
    done = run(tmp_path, "sources", "fetch", "skin")
    assert (done.exit_code, "must begin with https://" in done.stdout) == (1, True)
    assert run(tmp_path, "stage", "fetch").exit_code == 2
    assert run(tmp_path, "sources", "fetch", "skim").exit_code == 2
