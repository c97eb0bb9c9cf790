"""The outline of a mask as one polygon."""

import numpy as np
import numpy.typing as npt
from export_readers import filled
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from etl.exports.outline import outline


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_an_outline_is_the_mask(mask: npt.NDArray[np.uint8]) -> None:
    if not mask.any():
        return
    points = outline(mask)
    rows, columns = np.nonzero(mask)
    assert points.min(0).tolist() == [columns.min(), rows.min()]
    assert points.max(0).tolist() == [columns.max() + 1, rows.max() + 1]
    assert np.array_equal(filled(points, *mask.shape), mask)
