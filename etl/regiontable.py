"""The regions of an image under their raw labels, as columns: what `slice` decides by and what it commits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from etl import columns
from etl.pixels.regions import Columns, least_area
from etl.schemas import REGIONS

Name = tuple[str, bool]
"""A raw label, and whether the manifest defines it."""


@dataclass(frozen=True, slots=True)
class Part:
    """The regions of one layer along an axis, what each value is called, and the planes' (rows, columns)."""

    found: Columns
    named: Callable[[int], Name]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions of all layers along an axis, plane by plane: `found` of all, `names` of the labels, the `code` of
    each region's name there, whether it is `defined`, its number `n` among those of its name on its plane, and the
    `size` (rows, columns) of its plane."""

    found: Columns
    names: list[str]
    code: NDArray[np.int64]
    defined: NDArray[np.bool_]
    n: NDArray[np.int64]
    size: NDArray[np.int64]

    def worth(self, share: float) -> list[int]:
        """The planes with a defined region that takes this share of them."""
        least = least_area(share, tuple(self.size.T))
        planes: list[int] = np.unique(self.found.plane[self.defined & (self.found.box[:, 0] >= least)]).tolist()
        return planes


Placed = tuple[str, str, Regions]
"""The case and the axis of regions, and these."""


def table(placed: Sequence[Placed]) -> pa.Table:
    """The rows of `etl.schemas.REGIONS`; of many small images together, as a table takes longer than its few rows."""
    counts = [len(regions.code) for _, _, regions in placed]
    places = np.repeat(np.arange(len(placed)), counts)
    labels: dict[str, int] = {}
    codes = [np.array([labels.setdefault(name, len(labels)) for name in regions.names], np.int64)[regions.code]
             for _, _, regions in placed]  # fmt: skip
    size, box = (np.concatenate(arrays) for arrays in zip(*((r.size, r.found.box) for _, _, r in placed), strict=True))
    plane, n, defined = (np.concatenate(arrays) for arrays in
                         zip(*((r.found.plane, r.n, r.defined) for _, _, r in placed), strict=True))  # fmt: skip
    kinds = {name: REGIONS.field(name).type for name in REGIONS.names}
    plain = {"slice_index": plane, "n": n, "height": size[:, 0], "width": size[:, 1],
             **dict(zip(("area", "x", "y", "w", "h"), box.T, strict=True))}  # fmt: skip
    made = {name: columns.numbers(values, kinds[name]) for name, values in plain.items()}
    made |= {"case": columns.labels(places, [case for case, _, _ in placed]),
             "axis": columns.labels(places, [axis for _, axis, _ in placed]),
             "raw_label": columns.labels(np.concatenate(codes), list(labels)), "defined": columns.flags(defined),
             "rle": columns.texts((code for _, _, r in placed for code in r.found.rle), kinds["rle"])}  # fmt: skip
    return pa.Table.from_arrays([made[name] for name in REGIONS.names], schema=REGIONS)


def joined(parts: Sequence[Part]) -> Regions:
    """The regions of some layers; on a plane those of one layer follow those of the one before."""
    labels: dict[str, int] = {}
    codes, known = zip(*(_named(part, labels) for part in parts), strict=True) if parts else ((), ())
    size = [np.broadcast_to(np.array(part.size), (len(part.found.plane), 2)) for part in parts]
    whole = Columns(_together([p.found.plane for p in parts]), _together([p.found.value for p in parts]),
                    np.concatenate([np.empty((0, 5), np.int32), *(p.found.box for p in parts)]),
                    [code for part in parts for code in part.found.rle])  # fmt: skip
    order = np.argsort(whole.plane, kind="stable")
    found = Columns(whole.plane[order], whole.value[order], whole.box[order], [whole.rle[n] for n in order.tolist()])
    code = _together(codes)[order]
    defined = _together(known).astype(np.bool_)[order]
    sizes = np.concatenate([np.empty((0, 2), np.int64), *size])[order]
    return Regions(found, list(labels), code, defined, _counted(found.plane, code), sizes)


def _together(arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *arrays])


def _named(part: Part, labels: dict[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The code of each region's name, new ones put into `labels`, and whether it is defined."""
    values, inverse = np.unique(part.found.value, return_inverse=True)
    names = [part.named(value) for value in values.tolist()]
    both = np.array([(labels.setdefault(name, len(labels)), defined) for name, defined in names], np.int64)
    return both.reshape(-1, 2)[inverse, 0], both.reshape(-1, 2)[inverse, 1]


def _counted(plane: NDArray[np.int64], code: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many regions of the same name come before each one on its plane."""
    if plane.size == 0:
        return plane
    order = np.lexsort((code, plane))  # stable
    first = np.ones(plane.size, np.bool_)
    first[1:] = (np.diff(plane[order]) != 0) | (np.diff(code[order]) != 0)
    at = np.arange(plane.size)
    counts = np.empty(plane.size, np.int64)
    counts[order] = at - np.maximum.accumulate(np.where(first, at, 0))
    return counts
