"""Exports of a small built demo, read back by the very programs they are for, and compared box by box with the shards.

A reader whose requirements do not agree with ours is installed into a folder of its own, once for all runs, without
what we have already. GLIP, LLaVA, Open-GroundingDino and TAO are on no package index: the environment names the folder
that holds clones of their repositories, `MEDGLIP_READERS=FOLDER`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import export_readers as read
import numpy as np
import pytest
from export_site import Make, built, maker
from pycocotools import mask as rle

from etl.release.records import SPLITS

sys.path.insert(0, str(Path(__file__).parent / "readers"))
from shown import digest

SOURCES = ("demo_mri_heart", "demo_fundus_boxes", "demo_us_breast", "demo_us_fetal")
READERS = Path(__file__).parent / "readers"
NO_TORCHVISION = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n"
ODVG = {
    "odvg-open-groundingdino": "Open-GroundingDino/datasets/odvg.py",
    "tao": "tao_pytorch_backend/nvidia_tao_pytorch/cv/grounding_dino/dataloader/odvg.py",
}
Shown = dict[str, read.Boxes]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of volumes and pictures, with masks and given boxes, with images in all splits."""
    return built(tmp_path_factory.mktemp("readers"), SOURCES)


@pytest.fixture(scope="module")
def made(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(out, tmp_path_factory.mktemp("made"))


def shown(reader: str, *arguments: object, packages: Path | None = None) -> Shown:
    """What a program of `readers` tells of an export."""
    command = [sys.executable, str(READERS / f"read_{reader}.py"), *map(str, arguments)]
    home = {"HOME": str(packages), "YOLO_CONFIG_DIR": str(packages)} if packages else {}
    more = {"PYTHONPATH": str(packages or ""), "FIFTYONE_DO_NOT_TRACK": "true", **home}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **more})
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    return {part: {f: [tuple(e) for e in found] for f, found in files.items()} for part, files in told.items()}


def packages(name: str, config: pytest.Config) -> Path:
    """The folder with a reader: what `readers/NAME.txt` lists, exactly."""
    listed = READERS / f"{name}.txt"
    folder = Path(config.cache.mkdir("readers")) / f"{name}-{digest(np.frombuffer(listed.read_bytes(), np.uint8))[:8]}"
    if not folder.exists():
        fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
        done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(fresh), "-r",
                               str(listed)], capture_output=True, text=True, check=False)  # fmt: skip
        if done.returncode:
            shutil.rmtree(fresh, ignore_errors=True)
            pytest.skip(f"{name} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
        fresh.rename(folder)
    return folder


def clone(name: str) -> Path:
    """The clone of a reader that is on no package index."""
    folder = Path(os.environ.get("MEDGLIP_READERS", "")) / name
    if "MEDGLIP_READERS" not in os.environ or not folder.is_dir():
        pytest.skip(f"needs a clone of {name} in the folder that MEDGLIP_READERS names")
    return folder


def truth(out: Path, name: str, *, by_split: str = "") -> read.Boxes:
    """The boxes of all splits; `by_split` is put between split and file name, if given."""
    return {
        f"{split}{by_split}{file}" if by_split else file: boxes
        for split in SPLITS
        for file, boxes in read.truth(out, split, name).items()
    }


def masks(out: Path) -> read.Boxes:
    """(category, digest of the mask) of the regions that have one, of images that have some, as split/file name."""
    found: read.Boxes = {}
    for split in SPLITS:
        for row in read.shard_rows(out, split):
            regions = [r for r in row["regions"] if r["segmentation"] is not None]
            if regions:
                found[f"{split}/{row['file_name']}"] = sorted(
                    (r["category"], digest(rle.decode(r["segmentation"]))) for r in regions
                )
    assert sum(map(len, found.values())) > 30
    return found


def lower(boxes: read.Boxes) -> read.Boxes:
    return {file: sorted((name.lower(), *rest) for name, *rest in found) for file, found in boxes.items()}


@pytest.mark.parametrize("level", ["category", pytest.param("label", marks=pytest.mark.slow)])
def test_mmdetection(out: Path, made: Make, level: str) -> None:
    pytest.importorskip("mmdet")
    found = shown("mmdet", made("odvg-mmdet", level))
    assert found["od"] == read.plain(truth(out, level))
    assert lower(found["vg"]) == lower(truth(out, "phrase"))
    assert found["coco"] == read.plain(read.truth(out, "val", level))


@pytest.mark.slow
def test_cvat_by_datumaro(out: Path, made: Make, request: pytest.FixtureRequest) -> None:
    found = shown("datumaro", made("cvat"), packages=packages("datumaro", request.config))
    assert found["boxes"] == truth(out, "category", by_split="/")
    assert found["masks"] == masks(out)


@pytest.mark.slow
def test_fiftyone(out: Path, made: Make, request: pytest.FixtureRequest) -> None:
    found = shown("fiftyone", made("fiftyone"), packages=packages("fiftyone", request.config))
    assert found["boxes"] == truth(out, "category", by_split="/")
    assert found["masks"] == masks(out)


@pytest.mark.slow
def test_yolo_by_ultralytics(out: Path, made: Make, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Its program needs torchvision; its dataset asks only whether and in which version it is there."""
    folder = packages("ultralytics", request.config)
    (folder / "torchvision-0.28.0.dist-info").mkdir(exist_ok=True)
    (folder / "torchvision-0.28.0.dist-info" / "METADATA").write_text(NO_TORCHVISION)
    expected = {
        file.replace("/", "+").replace("+", "/", 1).removesuffix(".png"): boxes
        for file, boxes in truth(out, "category", by_split="/").items()
    }
    for name, task in (("yolo", "detect"), ("yolo-segment", "segment")):
        copy = Path(shutil.copytree(made(name), tmp_path / name))  # it writes its caches there
        found = shown("ultralytics", copy, task, packages=folder)["boxes"]
        assert {file: [entry[:5] for entry in boxes] for file, boxes in found.items()} == expected
    drawn(out, found)


def drawn(out: Path, found: read.Boxes) -> None:
    """The polygons that it holds, filled, are the masks."""
    for split in SPLITS:
        for row in read.shard_rows(out, split):
            entries = found[f"{split}/{row['file_name'].removesuffix('.png').replace('/', '+')}"]
            for region in (r for r in row["regions"] if r["segmentation"] is not None):
                mask = rle.decode(region["segmentation"])
                box = (region["category"], *map(int, region["bbox"]))
                same = [json.loads(entry[5]) for entry in entries if entry[:5] == box]
                assert any(np.array_equal(read.filled(np.array(points), *mask.shape), mask) for points in same)


@pytest.mark.parametrize("level", ["category", "label"])
@pytest.mark.parametrize(("name", "file"), ODVG.items())
def test_odvg(out: Path, made: Make, name: str, file: str, level: str) -> None:
    repository, _, path = file.partition("/")
    found = shown("odvg", clone(repository) / path, made(name, level))
    assert found["od"] == read.plain(truth(out, level))
    assert found["vg"] == truth(out, "phrase")


@pytest.mark.parametrize("level", ["category", "label"])
def test_glip(out: Path, made: Make, level: str) -> None:
    """It leaves out boxes one pixel wide or high; of the 198 labels its prompt of 256 tokens holds the first only."""
    found = shown("glip", clone("GLIP"), made("glip", level))
    assert found["captions"] == wide(truth(out, "phrase"))
    expected = wide(read.plain(truth(out, level)))
    if level == "category":
        assert found["odinw"] == expected
    for file, boxes in found["odinw"].items():
        assert {name for name, *_ in boxes} <= {name for name, *_ in expected[file]} | {""}
        assert sorted(rest for _, *rest in boxes) == sorted(rest for _, *rest in expected[file])


def wide(boxes: read.Boxes) -> read.Boxes:
    return {file: [b for b in found if b[3] > 1 and b[4] > 1] for file, found in boxes.items()}


def test_llava(out: Path, made: Make) -> None:
    """Its boxes have three decimals, of the square that the picture is padded to."""
    found = shown("llava", clone("LLaVA"), made("llava"))["boxes"]
    for split in SPLITS:
        for row in read.shard_rows(out, split):
            left = [(r["phrase"], *map(int, r["bbox"])) for r in row["regions"]]
            width, height = row["width"], row["height"]
            for phrase, side, *corners in found.pop(row["file_name"]):
                assert side == max(width, height)
                pad = [(side - width) // 2, (side - height) // 2] * 2
                x1, y1, x2, y2 = np.subtract(corners, pad)
                near = [b for b in left if b[0] == phrase
                        and np.abs(np.subtract((x1, y1, x2 - x1, y2 - y1), b[1:])).max() <= 0.0011 * side]  # fmt: skip
                left.remove(near[0])
            assert not left
    assert not found


def test_the_readers_say_whole_pixels_only() -> None:
    from shown import whole

    assert whole([3.0004, 2.9999]) == [3, 3]
    with pytest.raises(AssertionError):
        whole([3.4])


def test_digests_tell_masks_apart() -> None:
    one: Any = np.zeros((4, 6), bool)
    assert digest(one) != digest(one.T)
    assert digest(one) != digest(~one)
