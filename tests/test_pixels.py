"""Grey values, PNG bytes and regions against independent readers."""

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask

from etl.pixels import intensity, png
from etl.pixels.regions import regions

PICTURES = hnp.arrays(np.uint8, st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))


@given(PICTURES)
def test_png_is_lossless(image: np.ndarray) -> None:
    with Image.open(io.BytesIO(png.encode(image))) as back:
        np.testing.assert_array_equal(np.asarray(back), image)


@given(hnp.arrays(np.int16, (5, 6)))
def test_window_is_the_formula(plane: np.ndarray) -> None:
    got = intensity.to_uint8(plane, intensity.window_bounds(40, 400))
    want = np.rint(255 * np.clip((plane.astype(float) + 160) / 400, 0, 1))
    np.testing.assert_array_equal(got, want)


def test_non_finite_and_constant_give_black() -> None:
    plane = np.array([[np.nan, np.inf], [1.0, 3.0]])
    np.testing.assert_array_equal(intensity.to_uint8(plane, (0, 2)), [[0, 0], [128, 255]])
    assert not intensity.to_uint8(plane, (5, 5)).any()


@given(hnp.arrays(np.uint8, (12, 9), elements=st.integers(0, 3)), st.booleans())
def test_regions_cover_the_mask_tightly(plane: np.ndarray, split: bool) -> None:
    found = list(regions(plane, frozenset({1, 2, 3} if split else ())))
    rebuilt = np.zeros_like(plane)
    for r in found:
        mask = coco_mask.decode({"size": [12, 9], "counts": r.rle}).astype(bool)
        assert not rebuilt[mask].any()
        rebuilt[mask] = r.value
        assert r.area == mask.sum()
        rows, columns = np.nonzero(mask)
        assert (r.x, r.y) == (columns.min(), rows.min())
        assert (r.width, r.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
    np.testing.assert_array_equal(rebuilt, plane)


def test_a_diagonal_is_one_component() -> None:
    assert len(list(regions(np.eye(4, dtype=np.uint8), frozenset({1})))) == 1


@given(hnp.arrays(np.bool_, (7, 5)))
def test_rle_is_pycocotools_own(mask: np.ndarray) -> None:
    for found in regions(mask.astype(np.uint8)):
        assert found.rle == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@given(hnp.arrays(np.int32, (6, 6), elements=st.sampled_from([0, -7, 5, 70_000])))
def test_any_integer_is_a_label(plane: np.ndarray) -> None:
    found = {r.value: r.area for r in regions(plane)}
    assert found == {int(v): int((plane == v).sum()) for v in np.unique(plane) if v}


@given(hnp.arrays(st.sampled_from([np.int16, np.uint16, np.uint8]), st.integers(1, 60)), st.floats(0, 49))
def test_counted_percentiles_are_numpys(values: np.ndarray, low: float) -> None:
    above = values[values > values.min()].astype(float)
    want = np.percentile(above, [low, 99.5]) if above.size else (0, 0)
    np.testing.assert_allclose(intensity.percentile_bounds(values, low, 99.5), want, rtol=1e-12, atol=1e-9)
