"""Columns made without Arrow's own conversion are those that it makes, and a process that slices needs no pandas."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from program import write_source
from test_faults import volume

from etl import columns
from etl.pixels.regions import Columns
from etl.regiontable import Part, joined, table

TEXTS = st.lists(st.none() | st.text(max_size=5), max_size=20)


@given(TEXTS, st.lists(st.none() | st.binary(max_size=5), max_size=20), st.lists(st.booleans(), max_size=20))
def test_columns(words: list[str | None], blobs: list[bytes | None], flags: list[bool]) -> None:
    assert columns.texts(words, pa.string()) == pa.array(words, pa.string())
    assert columns.texts(blobs, pa.binary()) == pa.array(blobs, pa.binary())
    assert columns.flags(np.array(flags, np.bool_)) == pa.array(flags, pa.bool_())


@given(hnp.arrays(np.int64, st.integers(0, 9), elements=st.integers(0, 2)))
def test_columns_of_numbers_and_names(codes: np.ndarray) -> None:
    assert columns.numbers(codes, pa.int32()) == pa.array(codes.tolist(), pa.int32())
    names = ["a", "bü", ""]
    assert columns.labels(codes, names) == pa.array([names[n] for n in codes.tolist()], pa.string())
    listed = [names[:n] for n in codes.tolist()]
    assert columns.lists(listed) == pa.array(listed, pa.list_(pa.string()))


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=9), min_size=1, max_size=3))
def test_regions_of_a_plane_follow_each_other_layer_by_layer(layers: list[list[tuple[int, int]]]) -> None:
    names = {1: ("a", True), 2: ("b", False), 3: ("a", True)}  # two values of one name
    layers = [sorted(layer) for layer in layers]
    parts = [
        Part(Columns(np.array([p for p, _ in layer], np.int64), np.array([v for _, v in layer], np.int64),
                     np.arange(5 * len(layer), dtype=np.int32).reshape(-1, 5), [None] * len(layer)),
             names.__getitem__, (9, 7))
        for layer in layers
    ]  # fmt: skip
    want, seen = [], dict[tuple[int, str], int]()
    for plane, value in (row for index in range(4) for layer in layers for row in layer if row[0] == index):
        name, defined = names[value]
        want.append((plane, name, defined, seen.setdefault((plane, name), 0)))
        seen[plane, name] += 1
    regions = joined(parts)
    made = table([("one", "axial", regions), ("two", "axial", joined(parts[:0])), ("three", "axial", regions)])
    rows = made.select(["slice_index", "raw_label", "defined", "n"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == 2 * want
    assert made["case"].to_pylist() == ["one"] * len(want) + ["three"] * len(want)


def test_slicing_loads_no_pandas(tmp_path: Path) -> None:
    write_source(tmp_path, "ct", "ct")
    volume(tmp_path / "raw" / "ct", "a")
    code = """
import sys
from pathlib import Path
from etl.sources.inventory import inventory
from etl.manifests.load import load_manifest
from stages import cut, slice
manifest, root, how = load_manifest(Path("manifests/ct.yaml")), Path("raw/ct"), slice.SliceParams()
units = slice.units(inventory(manifest, root).cases, manifest, root, how)
done = cut.run(slice.Batch(tuple(units), manifest, root, Path("out"), how, 0.0), {})
assert done[0]["images"], done
sys.exit("pandas" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
