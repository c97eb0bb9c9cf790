"""What a process takes beyond its libraries to slice a volume, whatever the types of its files."""

import sys
from pathlib import Path

import numpy as np
import pytest

from etl import isolate
from etl.cli.build import _bytes
from etl.errors import UsageError
from etl.kinds import integral
from etl.pixels import slabs

sys.path.insert(0, str(Path(__file__).parent / "bench"))
import memory

SHAPE = (240, 240, 240)


@pytest.mark.parametrize("name", ["int16, uint8 labels of slope 2", "float64 of integers, float64 labels"])
def test_a_volume_of_any_type_takes_little_more_than_itself(tmp_path: Path, name: str) -> None:
    found = memory.measured(tmp_path, name, SHAPE, encode_from=0.49)
    assert found["images"] > 10
    assert found["volumes"] < 4


def test_gathered_pieces_keep_their_values() -> None:
    pieces = [np.array([1, 2], np.uint8), np.array([-3, 300], np.int16), np.array([0.5], np.float32),
              np.array([70000], np.int32)]  # fmt: skip
    whole = slabs.gathered(iter(pieces), 6)
    assert whole.dtype == np.float64
    assert whole.tolist() == [1, 2, -3, 300, 0.5, 70000]


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0.0, -1000, 3000], np.int16), ([0.0, 40000], np.int32), ([0.5, 1], np.float32), ([0.1, 1], np.float64),
     ([np.nan, 1], np.float32), ([2.0**40, 1], np.float32), ([2.0**40 + 1, 1], np.float64), ([1e300, 1], np.float64)],
)  # fmt: skip
def test_floats_in_the_smallest_type_of_the_same_values(values: list[float], kind: type) -> None:
    found = slabs.narrow(np.array(values))
    assert found.dtype == kind
    np.testing.assert_array_equal(found.astype(np.float64), values)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("step", [1, 2])
def test_parts_come_back_in_place(order: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "VALUES", 7)
    array = np.asarray(np.random.default_rng(0).integers(0, 9, (4, 5, 6)), np.int16, order=order)[::step]
    np.testing.assert_array_equal(slabs.like(array, np.concatenate(list(slabs.parts(array)))), array)
    np.testing.assert_array_equal(slabs.among(array, {2, 5, 700}), np.isin(array, [2, 5]))
    whole = integral(array + 5e-4, "mask")
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole, array)


@pytest.mark.parametrize(("text", "size"), [("8GB", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("300M", 3 * 10**8)])
def test_a_limit_of_memory_in_words(text: str, size: int) -> None:
    assert _bytes(text) == size
    assert isolate.limits(size).memory == size


@pytest.mark.parametrize("text", ["8", "GB", "8 apples", "-1GB", ""])
def test_a_limit_of_memory_that_says_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="as 8GB"):
        _bytes(text)

