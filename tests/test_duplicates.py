"""Copies are found whatever their format, size, orientation and cut; other pictures are not taken for them."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from program import build, medglip, write_source
from scipy import ndimage

from etl.pixels import hashes
from etl.quality import nearby
from stages import duplicates

RNG = np.random.default_rng(11)


def picture(seed: int, noise: float = 6) -> Any:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((150, 180)), 8)
    values = 120 + 50 * smooth / smooth.std() + noise * rng.standard_normal((150, 180))
    return np.clip(values, 0, 255).astype(np.uint8)


def encoded(array: Any, kind: str = "PNG", size: tuple[int, int] | None = None, **options: Any) -> bytes:
    image = Image.fromarray(array)
    buffer = io.BytesIO()
    (image.resize(size) if size else image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("copy", [
    encoded(picture(1), "JPEG", quality=80), encoded(picture(1), size=(135, 112)),
    encoded((picture(1) * 0.7 + 30).astype(np.uint8)), encoded(np.stack([picture(1)] * 3, axis=2)),
])  # fmt: skip
def test_a_copy_of_another_encoding_size_or_contrast(copy: bytes) -> None:
    assert nearby.alike(encoded(picture(1)), copy)
    one, two = (hashes.perceptual(np.asarray(Image.open(io.BytesIO(d)))) for d in (encoded(picture(1)), copy))
    assert (one[0] ^ two[0]).bit_count() <= nearby.COARSE_BITS
    assert (one[1] ^ two[1]).bit_count() <= nearby.FINE_BITS


def test_a_second_scan_is_no_copy() -> None:
    again = np.clip(picture(1, 0) + 6 * np.random.default_rng(2).standard_normal((150, 180)), 0, 255).astype(np.uint8)
    assert not nearby.alike(encoded(picture(1)), encoded(again))
    assert not nearby.alike(encoded(picture(1)), encoded(picture(3)))


@given(st.permutations(range(3)), st.lists(st.booleans(), min_size=3, max_size=3), st.integers(0, 4))
def test_a_sketch_outlives_turning_cutting_and_the_type(order: list[int], flips: list[bool], cut: int) -> None:
    volume = np.random.default_rng(5).integers(-900, 900, (24, 28, 32)).astype(np.int16)
    turned = volume.transpose(order)[tuple(slice(None, None, -1 if f else 1) for f in flips)].astype(np.float64)
    np.testing.assert_array_equal(hashes.sketch(turned), hashes.sketch(volume))
    part = hashes.sketch(turned[cut:, : 24 - cut])
    assert np.intersect1d(part, hashes.sketch(volume)).size >= duplicates.SHARED_VOLUME
    assert not np.intersect1d(hashes.sketch(volume + np.int16(1)), hashes.sketch(volume)).size


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=30), st.data())
def test_every_close_pair_is_found(base: list[int], data: st.DataObject) -> None:
    coarse = base + [h ^ sum(1 << n for n in data.draw(st.sets(st.integers(0, 63), max_size=4))) for h in base]
    fine = np.zeros(len(coarse), np.uint64)
    codes, groups = np.array(coarse, np.uint64), np.arange(len(coarse), dtype=np.int32)
    close = {(i, j) for j in range(len(coarse)) for i in range(j) if (coarse[i] ^ coarse[j]).bit_count() <= 4}
    assert {(int(i), int(j)) for i, j in nearby.candidates(codes, fine, groups)} == close


def scan(folder: Path, name: str, image: Any, mask: Any, affine: Any = None, kind: Any = np.int16) -> None:
    for part, array in (("images", image.astype(kind)), ("labels", mask.astype(np.uint8))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), folder / part / f"{name}.nii.gz")


def volume(seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((44, 48, 40)), 3)
    mask = np.zeros((44, 48, 40), bool)
    mask[10:34, 8:36, 12:30] = True
    return 40 + 60 * smooth / smooth.std() + 25 * rng.standard_normal(mask.shape) + 40 * mask, mask


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`large` has five volumes and five pictures of its own; `small` holds copies of some, changed."""
    folder = tmp_path_factory.mktemp("copies")
    for slug in ("large", "small"):
        write_source(folder, slug, "ct")
    for slug in ("large_2d", "small_2d"):
        write_source(folder, slug, "dermoscopy", "images/{case}.png", "labels/{case}.png", kind="binary")
    raw = folder / "raw"
    for n in range(5):
        image, mask = volume(n)
        scan(raw / "large", f"v{n}", image, mask)
    turned = np.array([[0, 0, -1, 43], [1, 0, 0, 0], [0, -1, 0, 39], [0, 0, 0, 1.0]])
    image, mask = volume(0)
    scan(raw / "small", "reoriented", image[::-1].transpose(1, 2, 0)[:, ::-1], mask[::-1].transpose(1, 2, 0)[:, ::-1],
         turned, np.int16)  # fmt: skip
    image, mask = (a.astype(np.int16) for a in volume(1))
    scan(raw / "small", "unknown_turn", image.transpose(2, 0, 1)[::-1], mask.transpose(2, 0, 1)[::-1], None, np.float32)
    image, mask = (a.astype(np.int16) for a in volume(2))
    scan(raw / "small", "cropped", image[4:, 4:46, 6:], mask[4:, 4:46, 6:])
    for slug, seeds in (("large_2d", range(5)), ("small_2d", range(3))):
        for part in ("images", "labels"):
            (raw / slug / part).mkdir(parents=True)
        for n in seeds:
            shape = (150, 180)
            lossy = slug == "small_2d" and n > 0
            data = encoded(picture(n), "JPEG", quality=85) if lossy else encoded(picture(n))
            Image.open(io.BytesIO(data)).save(raw / slug / "images" / f"p{n}.png")
            half = np.zeros(shape, np.uint8)
            half[40:100, 50:120] = 255
            Image.fromarray(half).save(raw / slug / "labels" / f"p{n}.png")
    done = medglip("build", "--raw", raw, "--manifests", folder / "manifests", "--label-maps", folder / "label_maps",
                   "--out", folder / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "out"


def left_out(out: Path) -> pd.DataFrame:
    rows = pd.concat(pd.read_parquet(p) for p in sorted((out / "quarantine").glob("*.parquet")))
    return rows[rows.reason == "duplicate"]


def test_copies_leave_the_larger_source(copied: Path) -> None:
    rows = left_out(copied)
    assert set(zip(rows.source, rows.case, strict=True)) == {
        ("large", "v0"), ("large", "v1"), ("large", "v2"), ("large_2d", "p0"), ("large_2d", "p1"), ("large_2d", "p2"),
    }  # fmt: skip
    keys = set(pd.concat(pd.read_parquet(p, columns=["key"]) for p in (copied / "dataset").rglob("*.parquet"))["key"])
    assert {detail.rsplit(" of ", 1)[1] for detail in rows.detail} <= keys
    how = {(r.case, r.detail.rsplit(" of ", 1)[0]) for r in rows.itertuples()}
    assert {("v0", "equal"), ("v1", "copied volume"), ("p0", "equal"), ("p1", "near copy")} <= how


def test_a_reoriented_copy_points_at_the_same_slice(copied: Path) -> None:
    rows = left_out(copied).query("case == 'v0'")
    assert [d.rsplit(" of ", 1)[1] for d in rows.detail] == [
        f"small/reoriented/{r.axis}/{int(r.slice_index)}" for r in rows.itertuples()
    ]


def test_the_copy_in_a_test_split_stays(copied: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(copied.parent, folder)
    path = folder / "manifests" / "large_2d.yaml"
    path.write_text(path.read_text().replace("kind: binary", "kind: binary, split: test"))
    done = medglip("build", "--raw", folder / "raw", "--manifests", folder / "manifests", "--label-maps",
                   folder / "label_maps", "--out", folder / "out", "--source", "large_2d", "--source", "small_2d")
    assert done.returncode == 0, done.stderr
    assert set(left_out(folder / "out")["source"]) == {"small_2d"}


def test_no_false_alarm_in_the_demo(tmp_path: Path) -> None:
    assert medglip("demo", tmp_path).returncode == 0
    build(tmp_path, tmp_path / "out")
    assert left_out(tmp_path / "out").empty
    assert json.loads((tmp_path / "out" / "dataset" / "stats.json").read_text())["duplicates"] == {}
