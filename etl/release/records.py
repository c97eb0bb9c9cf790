"""What `export` is given: pages of images in key order with their regions, and the books of the stages before it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from etl import store

SPLITS = ("train", "val", "test")
NAME = pa.dictionary(pa.int32(), pa.string())
LABEL_IDS = pa.list_(pa.int16())

# `spacing` is (row, column) in mm.
IMAGES = pa.schema(
    [("key", pa.string()), ("source", NAME), ("modality", NAME), ("case", NAME), ("subject", NAME), ("split", NAME),
     ("axis", NAME), ("slice_index", pa.int32()), ("width", pa.int32()), ("height", pa.int32()),
     ("spacing", pa.list_(pa.float32())), ("png", pa.binary()), ("license", NAME), ("redistribution", NAME),
     ("annotated_label_ids", LABEL_IDS), ("neg_label_ids", LABEL_IDS), ("not_exhaustive_label_ids", LABEL_IDS),
     ("sex", NAME), ("age", NAME), ("diagnosis", NAME), ("scanner", NAME), ("contrast_phase", NAME),
      ("flags", pa.list_(pa.string()))]
)  # fmt: skip
# `image` is the row of the image in its page, the box is in pixels, `rle` COCO run lengths, null for a given box.
REGIONS = pa.schema(
    [("image", pa.int32()), ("key", pa.string()), ("label_id", pa.int16()), ("raw_label", NAME), ("phrase", NAME),
     ("x", pa.int32()), ("y", pa.int32()), ("w", pa.int32()), ("h", pa.int32()), ("area", pa.int64()),
     ("area_fraction", pa.float64()), ("derived", pa.bool_()), ("rle", pa.string())]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """Neighbouring images of a source in key order (columns of IMAGES) and their regions in key order (of REGIONS).

    `export` adds columns: `image_id`, `file_name`, `caption`; `region_id` and the `start` and `end` of the phrase
    in the caption, in code points.
    """

    images: pa.Table
    regions: pa.Table

    @property
    def image_of(self) -> npt.NDArray[np.int32]:
        """The row of each region's image."""
        return array(self.regions, "image")

    @property
    def source(self) -> str:
        """The source of all images."""
        return str(self.images["source"][0])

    def rows(self, n: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Image n and its regions as plain rows."""
        regions = self.regions.filter(pc.equal(self.regions["image"], n))
        return self.images.slice(n, 1).to_pylist()[0], regions.to_pylist()

    def by_split(self) -> Iterator[tuple[str, "Page"]]:
        """The images of each split."""
        splits = self.images["split"].combine_chunks()
        code = splits.indices.to_numpy()
        for number in np.unique(code):
            name, inside = splits.dictionary[int(number)].as_py(), code == number
            if inside.all():
                yield name, self
                return
            place = pa.array(np.cumsum(inside, dtype=np.int32) - 1)
            regions = self.regions.filter(pa.array(inside[self.image_of]))
            regions = regions.set_column(0, "image", place.take(regions["image"]))
            yield name, Page(self.images.filter(pa.array(inside)), regions)


def array(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column of numbers without nulls as an array."""
    values: npt.NDArray[Any] = table[name].combine_chunks().to_numpy(zero_copy_only=False)
    return values


def id_lists(present: npt.NDArray[np.bool_]) -> pa.ListArray:
    """Which ids are set in each row of a matrix (rows, ids)."""
    offsets = np.r_[0, np.cumsum(present.sum(axis=1))].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.nonzero(present)[1].astype(np.int16)))


def id_matrix(lists: pa.ChunkedArray, width: int) -> npt.NDArray[np.bool_]:
    """The matrix (rows, ids) of `id_lists`."""
    present = np.zeros((len(lists), width), bool)
    column = lists.combine_chunks()
    present[pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column).to_numpy()] = True
    return present


REFUSED = pa.schema([(n, pa.string()) for n in ("reason", "key", "detail")] + [("png", pa.binary())])


@dataclass(frozen=True, slots=True)
class Refused:
    """A picture that went to quarantine, and why."""

    reason: str
    key: str
    detail: str
    png: bytes

    @staticmethod
    def table(rows: list["Refused"]) -> pa.Table:
        """These pictures as a table."""
        return pa.Table.from_pylist([asdict(row) for row in rows], REFUSED)

    @staticmethod
    def read(path: Path) -> list["Refused"]:
        """The pictures of a file that holds such a table."""
        return [Refused(**row) for row in store.read_table(path).to_pylist()]


@dataclass(slots=True)
class Ledger:
    """The books of all stages, as `stats.json` shows them."""

    books: dict[str, Any] = field(default_factory=dict)
    too_small: dict[str, dict[str, int]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
