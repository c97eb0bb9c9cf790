"""Broken files among good ones: the build ends well and each is in quarantine with its reason."""

import contextlib
import gzip
import random
import shutil
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image
from program import PROGRAM, tree, write_source


def volume(folder: Path, name: str, shape: tuple[int, ...] = (40, 44, 36), seed: int = 0) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(-200, 200, shape).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[8:30, 10:30, 5:25] = 1
    nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "images" / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / "labels" / f"{name}.nii.gz")


def arguments(folder: Path, out: Path) -> list[str]:
    return [PROGRAM, "build", "--raw", str(folder / "raw"), "--manifests", str(folder / "manifests"),
            "--label-maps", str(folder / "label_maps"), "--out", str(out)]


def test_each_fault_has_its_reason(tmp_path: Path) -> None:
    write_source(tmp_path, "ct", "ct")
    write_source(tmp_path, "skin", "dermoscopy", "images/{case}.png", "labels/{case}.png", kind="binary")
    ct, skin = tmp_path / "raw" / "ct", tmp_path / "raw" / "skin"
    for name in ("good", "truncated", "other_shape", "empty", "undefined", "zero_bytes", "not_gzip"):
        volume(ct, name, seed=len(name))
    cut = ct / "images" / "truncated.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-2000])
    (ct / "images" / "zero_bytes.nii.gz").write_bytes(b"")
    (ct / "images" / "not_gzip.nii.gz").write_bytes(b"hello" * 100)
    nib.save(nib.Nifti1Image(np.ones((40, 44, 35), np.uint8), np.eye(4)), ct / "labels" / "other_shape.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((40, 44, 36), np.uint8), np.eye(4)), ct / "labels" / "empty.nii.gz")
    odd = np.zeros((40, 44, 36), np.uint8)
    odd[5:30, 5:30, 5:30], odd[31:39, 5:30, 5:30] = 1, 7
    nib.save(nib.Nifti1Image(odd, np.eye(4)), ct / "labels" / "undefined.nii.gz")
    for part in ("images", "labels"):
        (skin / part).mkdir(parents=True)
        for name in ("good", "broken"):
            Image.fromarray(np.pad(np.full((30, 30), 255, np.uint8), 9)).save(skin / part / f"{name}.png")
    (skin / "images" / "broken.png").write_bytes((skin / "images" / "good.png").read_bytes()[:60])
    subprocess.run(arguments(tmp_path, tmp_path / "out"), check=True, capture_output=True)
    rows = pd.concat(pd.read_parquet(p) for p in (tmp_path / "out" / "quarantine").iterdir())
    got = set(rows[["source", "case", "reason"]].itertuples(index=False, name=None))
    assert got >= {
        ("ct", "truncated", "unreadable"), ("ct", "zero_bytes", "unreadable"), ("ct", "not_gzip", "unreadable"),
        ("ct", "other_shape", "shape_mismatch"), ("ct", "empty", "empty_mask"),
        ("ct", "undefined", "undefined_label"), ("skin", "broken", "unreadable"),
    }
    assert not {"good"} & set(rows["case"])
    images = pd.read_parquet(tmp_path / "out" / "dataset" / "shards", columns=["source", "case"])
    assert set(images.itertuples(index=False, name=None)) == {("ct", "good"), ("ct", "undefined"), ("skin", "good")}


def start(folder: Path, out: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(arguments(folder, out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


READER, WORKER = ("etl.isolate",), ("spawn_main", "dask worker")  # words of their command lines


def kill_one(build: "subprocess.Popen[bytes]", moments: random.Random, words: tuple[str, ...]) -> bool:
    """Kill -9 one of the build's processes of this kind, if there is one at this moment."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(build.pid).children(True)
        workers = [p for p in children if any(word in " ".join(p.cmdline()) for word in words)]
        if workers:
            moments.choice(workers).kill()
            return True
    return False


def test_killed_at_any_moment_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    write_source(tmp_path, "ct", "ct")
    for n in range(12):
        volume(tmp_path / "raw" / "ct", f"case{n:02d}", (64, 64, 60), n)
    subprocess.run(arguments(tmp_path, tmp_path / "calm"), check=True, capture_output=True)
    moments = random.Random(7)
    readers_killed = 0
    for n in range(10):
        build = start(tmp_path, tmp_path / "killed")
        time.sleep(moments.uniform(0.3, 4.5))
        if n % 2:
            while build.poll() is None and not kill_one(build, moments, READER):
                time.sleep(0.05)
            readers_killed += build.poll() is None
            time.sleep(moments.uniform(0, 1))
        build.kill()
        build.wait()
    assert readers_killed
    subprocess.run(arguments(tmp_path, tmp_path / "killed"), check=True, capture_output=True)
    assert tree(tmp_path / "killed") == tree(tmp_path / "calm")


def test_a_build_outlives_its_workers(tmp_path: Path) -> None:
    write_source(tmp_path, "ct", "ct")
    for n in range(12):
        volume(tmp_path / "raw" / "ct", f"case{n:02d}", (128, 128, 80), n)
    subprocess.run(arguments(tmp_path, tmp_path / "calm"), check=True, capture_output=True)
    moments = random.Random(3)
    build = start(tmp_path, tmp_path / "hurt")
    killed = 0
    while build.poll() is None and killed < 3:
        time.sleep(0.1)
        if any((tmp_path / "hurt" / "stages" / "slice").rglob("*.tmp")):  # in the middle of a batch
            killed += kill_one(build, moments, WORKER)
            time.sleep(0.5)
    assert killed
    assert build.wait() == 0
    assert tree(tmp_path / "hurt") == tree(tmp_path / "calm")


def test_a_second_source_redoes_nothing_of_the_first(tmp_path: Path) -> None:
    write_source(tmp_path, "one", "ct")
    volume(tmp_path / "raw" / "one", "a")
    subprocess.run(arguments(tmp_path, tmp_path / "out"), check=True, capture_output=True)
    write_source(tmp_path, "two", "ct")
    volume(tmp_path / "raw" / "two", "b", seed=1)
    done = subprocess.run(arguments(tmp_path, tmp_path / "out"), check=True, capture_output=True, text=True)
    assert "slice: 1 cases to do, 1 reused" in done.stderr


@pytest.mark.parametrize("compressed", [True, False])
def test_compression_changes_nothing(tmp_path: Path, compressed: bool) -> None:
    suffix = "nii.gz" if compressed else "nii"
    write_source(tmp_path, "ct", "ct", f"images/{{case}}.{suffix}", f"labels/{{case}}.{suffix}")
    volume(tmp_path / "raw" / "ct", "a")
    if not compressed:
        for path in list((tmp_path / "raw" / "ct").rglob("*.nii.gz")):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    subprocess.run(arguments(tmp_path, tmp_path / "out"), check=True, capture_output=True)
    assert len(pd.read_parquet(tmp_path / "out" / "dataset" / "shards")) == 20 + 20 + 22
    shutil.rmtree(tmp_path / "out")


def test_a_source_whose_files_collide_stops_no_other(tmp_path: Path) -> None:
    for slug in ("one", "two"):
        write_source(tmp_path, slug, "ct")
        volume(tmp_path / "raw" / slug, "a")
    path = tmp_path / "manifests" / "two.yaml"
    path.write_text(path.read_text().replace("kind:", "case: same, kind:"))
    volume(tmp_path / "raw" / "two", "b")
    done = subprocess.run(arguments(tmp_path, tmp_path / "out"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "two images have the case name 'same': images/a.nii.gz and images/b.nii.gz" in done.stderr
    images = pd.read_parquet(tmp_path / "out" / "dataset" / "shards", columns=["source"])
    assert set(images["source"]) == {"one"}


def test_a_source_without_an_image_stops_no_other(tmp_path: Path) -> None:
    for slug in ("one", "two"):
        write_source(tmp_path, slug, "ct")
        volume(tmp_path / "raw" / slug, "a")
    (tmp_path / "raw" / "two" / "images" / "a.nii.gz").write_bytes(b"")
    subprocess.run(arguments(tmp_path, tmp_path / "out"), check=True, capture_output=True)
    rows = pd.read_parquet(tmp_path / "out" / "quarantine" / "two.parquet")
    assert rows[["case", "reason"]].to_numpy().tolist() == [["a", "unreadable"]]
