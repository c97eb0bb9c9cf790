"""The demo, built whole: exactly the boxes that were drawn come out."""

from pathlib import Path

import pandas as pd
import pytest
from program import build, medglip, tree


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert medglip("demo", folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def built(demo: Path) -> Path:
    build(demo, demo / "out")
    return demo / "out"


def boxes(frame: pd.DataFrame) -> set[tuple[object, ...]]:
    return {
        (r.source, r.case, r.axis, int(r.slice_index), r.label, *(int(v) for v in r.bbox), int(r.area))
        for r in frame.itertuples()
    }


def exported(out: Path) -> pd.DataFrame:
    images = pd.read_parquet(out / "dataset" / "shards")
    rows = images[["source", "case", "axis", "slice_index", "regions"]].explode("regions").reset_index(drop=True)
    return rows.join(pd.DataFrame(rows["regions"].tolist())[["label", "bbox", "area"]])


def test_every_expected_box_and_no_other(demo: Path, built: Path) -> None:
    expected = boxes(pd.read_parquet(demo / "expected.parquet"))
    got = boxes(exported(built))
    assert sorted(expected - got, key=str)[:5] == []
    assert sorted(got - expected, key=str)[:5] == []


def test_same_bytes_from_another_folder_and_one_worker(demo: Path, built: Path, tmp_path: Path) -> None:
    build(demo, tmp_path / "elsewhere", "--workers", 1)
    assert tree(built) == tree(tmp_path / "elsewhere")


def test_the_books_in_the_docs_are_those_of_the_demo(built: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/concepts.md").read_text()
    shown = page.split("## The books")[1].split("```text\n")[1].split("```")[0]
    assert shown in medglip("stats", built).stdout


def test_a_higher_area_threshold_touches_no_pixel(demo: Path, built: Path) -> None:
    before = tree(built)
    assert "slice: 0 cases to do" in build(demo, built, "--min-area", 0.05).stderr
    assert tree(built) != before
    assert "slice: 0 cases to do" in build(demo, built).stderr
    assert tree(built) == before


def test_wrong_use_exits_with_2(demo: Path, tmp_path: Path) -> None:
    for more in (["--source", "nothing"], ["--min-area", "0.1", "--profile", "all"], ["--axes", "oblique"]):
        done = medglip("build", "--raw", demo / "raw", "--out", tmp_path, "--manifests", demo / "manifests", *more)
        assert (done.returncode, done.stdout) == (2, "")
