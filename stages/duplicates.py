"""Images that are in the dataset twice: equal pixels, copies that look alike, volumes published again.

What is compared are the images that would be exported. Neighbouring slices of one case are no duplicates of each
other; frames and visits of one subject of a source only if their pixels are equal.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from etl import geometry, nearby
from etl.frames import REJECTED
from etl.results import Result, open_part
from stages.plan import Work
from stages.select import SLICE, Selection, slices_of
from stages.tables import by_batch

AXES = (*geometry.AXES, "native")
COLUMNS = ["case", "axis", "slice_index", "pixels", "coarse", "fine"]
SHARED_VOLUME = 6  # of 24 numbers of a sketch that two volumes must share: a quarter, which a third of a volume has
SHARED_PICTURE = 12  # and two pictures: half, since all pictures of a device share its writing
COMMON = 100  # a number that more images have is writing or padding
EQUALS = 8  # equal images that each is compared with


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one source, by row; `batch` numbers its results' batches, `case` the entries of `cases`."""

    work: Work
    cases: list[_Case]
    batches: list[Path]
    case: NDArray[np.int32]
    axis: NDArray[np.int8]
    index: NDArray[np.int32]
    batch: NDArray[np.int32]
    pixels: NDArray[np.uint64]  # (rows, 2); 0, 0 for an image of one value
    coarse: NDArray[np.uint64]
    fine: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Case:
    """One image of a case: what decides which copy stays, and what its copies are known by."""

    name: str
    subject: str
    split: str
    native: bool
    shape: tuple[int, ...]
    sketch: NDArray[np.uint64]


def images(
    work: Work, results: list[Result], kept: pa.Table, selection: Selection, splits: dict[tuple[str, str], str]
) -> Images:
    """The images of a source that would be exported: those of `kept` regions that `selection` does not leave out."""
    cases: list[_Case] = []
    number: dict[str, int] = {}
    for result, case in zip(results, work.cases, strict=True):
        for facts in result.images:
            number[facts["case"]] = len(cases)
            sketch = np.frombuffer(base64.b64decode(facts["seen"]["sketch"]), np.uint64)
            cases.append(_Case(facts["case"], case.subject, splits[work.slug, case.case], facts["native"],
                               tuple(facts["shape"]), sketch))  # fmt: skip
    wanted = slices_of(kept) - selection.left_out
    parts: list[pd.DataFrame] = []
    batches: list[Path] = []
    for members in by_batch(results).values():
        rows = open_part(members[0].batch, "images").read(COLUMNS, use_threads=False)
        for place, name in enumerate(("case", "axis")):
            rows = rows.set_column(place, name, rows[name].cast(pa.string()))
        own = pa.array([i["case"] for r in members for i in r.images], pa.string())
        frame = rows.filter(pc.is_in(rows["case"], own)).to_pandas()
        chosen = np.array([row in wanted for row in frame[COLUMNS[:3]].itertuples(index=False, name=None)], bool)
        parts.append(frame[chosen].assign(batch=len(batches)))
        batches.append(members[0].batch)
    frame = pd.concat(parts) if parts else pd.DataFrame(columns=[*COLUMNS, "batch"])
    joined = b"".join(frame["pixels"].map(lambda p: p or bytes(16)))
    return Images(
        work, cases, batches, np.asarray(frame["case"].map(number), np.int32),
        frame["axis"].map(AXES.index).to_numpy(np.int8), frame["slice_index"].to_numpy(np.int32),
        frame["batch"].to_numpy(np.int32), np.frombuffer(joined, np.uint64).reshape(-1, 2),
        frame["coarse"].to_numpy(np.uint64), frame["fine"].to_numpy(np.uint64),
    )  # fmt: skip


@dataclass(slots=True)
class Found:
    """Which images are copies: source -> (case, axis, index) -> (how, key of the kept one)."""

    copies: dict[str, dict[tuple[str, str, int], tuple[str, str]]] = field(default_factory=lambda: defaultdict(dict))

    def added(self, slug: str, selection: Selection, kept: pa.Table) -> Selection:
        """The selection of a source with its copies left out too."""
        copies = self.copies.get(slug, {})
        if not copies:
            return selection
        rows = [{"case": c, "axis": a, "slice_index": i, "stage": "export", "reason": "duplicate",
                 "detail": f"{how} of {key}"} for (c, a, i), (how, key) in sorted(copies.items())]  # fmt: skip
        per_slice = kept.group_by(SLICE).aggregate([([], "count_all")]).to_pylist()
        regions = sum(r["count_all"] for r in per_slice if (r["case"], r["axis"], r["slice_index"]) in copies)
        table = pa.concat_tables([selection.rows, pa.Table.from_pylist(rows, REJECTED)])
        return Selection(table, selection.left_out | frozenset(copies), selection.regions + regions)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many images are which kind of copy, by source."""
        result: dict[str, dict[str, int]] = {}
        for slug, copies in sorted(self.copies.items()):
            for how, _ in copies.values():
                counts = result.setdefault(slug, {})
                counts[how] = counts.get(how, 0) + 1
        return result


def find(sources: Iterable[Images]) -> Found:
    """The copies among the images of all sources, each with the key of the image that stays."""
    return _Search([s for s in sources if s.case.size]).run()


class _Search:
    """All images in one row of arrays; cases and images are told by their number in it."""

    def __init__(self, sources: list[Images]) -> None:
        self.sources = sources
        owners = [(s, c) for s in sources for c in s.cases]
        order = sorted(range(len(owners)), key=lambda n: _preference(*owners[n]))
        self.owners = owners
        self.rank = np.empty(len(owners), np.int64)
        self.rank[order] = np.arange(len(owners))
        first = np.cumsum([0, *(len(s.cases) for s in sources)])
        self.case = _joined([s.case + np.int32(f) for s, f in zip(sources, first[:-1], strict=True)], np.int32)
        self.axis = _joined([s.axis for s in sources], np.int8)
        self.start = np.cumsum([0, *(s.case.size for s in sources)])
        people: dict[tuple[str, str], int] = {}
        self.person = np.array([people.setdefault((s.work.slug, c.subject), len(people)) for s, c in owners], np.int32)
        self.gone: dict[int, tuple[int, str]] = {}  # image -> a preferred one, and what it is of it

    def run(self) -> Found:
        """The copies, of whole cases first."""
        if not self.sources:
            return Found()
        self.pixels = np.concatenate([s.pixels for s in self.sources])
        rows = self._rows_by_case()
        equal = self._equal()
        self._drop_cases(rows, equal)
        self._drop(equal, "equal")
        self._drop(self._similar(), "near copy")
        return self._told()

    def _rows_by_case(self) -> dict[int, list[int]]:
        rows: dict[int, list[int]] = defaultdict(list)
        for row, case in enumerate(self.case.tolist()):
            rows[case].append(row)
        return rows

    def _equal(self) -> list[tuple[int, int]]:
        """Pairs of images of different cases with equal pixels."""
        order = np.lexsort((self.rank[self.case], self.pixels[:, 1], self.pixels[:, 0]))
        told = self.pixels[order]
        change = np.flatnonzero(np.any(told[1:] != told[:-1], axis=1)) + 1
        pairs = []
        for a, b in zip(np.concatenate(([0], change)), np.concatenate((change, [order.size])), strict=True):
            if b - a > 1 and told[a].any():
                members = order[a:b].tolist()
                pairs += [(x, y) for n, y in enumerate(members) for x in members[: min(n, EQUALS)]
                          if self.case[x] != self.case[y]]  # fmt: skip
        return pairs

    def _drop_cases(self, rows: dict[int, list[int]], equal: list[tuple[int, int]]) -> None:
        """Take out cases that are another one, turned, cut or in another split.

        A copy on the same grid in the same split is left to the comparison of images: its other slices stay.
        """
        aligned = {(int(self.case[a]), int(self.case[b])) for a, b in equal}
        partner = {(b, int(self.case[a])): a for a, b in reversed(equal)}
        copies: set[int] = set()
        for best, copy in sorted(self._related(), key=lambda p: (self.rank[p[1]], self.rank[p[0]])):
            (_, a), (_, b) = self.owners[best], self.owners[copy]
            same_grid = a.shape == b.shape and (best, copy) in aligned
            if best in copies or copy in copies or not rows[best] or (same_grid and a.split == b.split):
                continue
            copies.add(copy)
            places = {(self._at(n)[1:]): n for n in reversed(rows[best])}
            for row in rows[copy]:
                near = places.get(self._at(row)[1:], rows[best][0])
                self._leave(row, partner.get((row, best), near), "equal" if (row, best) in partner else "copied volume"
                            if not b.native else "copied picture")

    def _related(self) -> list[tuple[int, int]]:
        """(preferred, other) pairs of cases whose sketches have enough in common."""
        codes = [(c.sketch, np.full(c.sketch.size, n, np.int64)) for n, (_, c) in enumerate(self.owners)]
        values, owner = (np.concatenate(part) for part in zip(*codes, strict=True))
        order = np.lexsort((owner, values))
        values, owner = values[order], owner[order]
        ends = np.concatenate((np.flatnonzero(values[1:] != values[:-1]) + 1, [values.size]))
        begins = np.concatenate(([0], ends[:-1]))
        shared: dict[tuple[int, int], int] = defaultdict(int)
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            if 1 < end - begin <= COMMON:
                members = owner[begin:end].tolist()
                for n, a in enumerate(members):
                    for b in members[:n]:
                        if self.person[a] != self.person[b]:
                            shared[b, a] += 1
        pairs = [(a, b) if self.rank[a] < self.rank[b] else (b, a) for (a, b), n in shared.items()
                 if n >= self._enough(a, b)]  # fmt: skip
        return pairs

    def _enough(self, a: int, b: int) -> int:
        one, two = self.owners[a][1], self.owners[b][1]
        return SHARED_PICTURE if one.native or two.native else SHARED_VOLUME

    def _similar(self) -> list[tuple[int, int]]:
        """Pairs of images of different subjects, as `nearby` sees them; those out already are not looked at."""
        left = np.array([n for n in range(self.case.size) if n not in self.gone and self.pixels[n].any()], np.int64)
        coarse = np.concatenate([s.coarse for s in self.sources])[left]
        fine = np.concatenate([s.fine for s in self.sources])[left]
        pairs = left[nearby.candidates(coarse, fine, self.person[self.case[left]])]
        alike = [(a, b) for a, b in pairs.tolist() if nearby.alike(self._png(a), self._png(b))]
        native = self.axis == AXES.index("native")
        series = np.where(native, -1, self.case.astype(np.int64) * len(AXES) + self.axis)
        return nearby.consistent(alike, series.tolist())

    def _png(self, row: int) -> bytes:
        source = int(np.searchsorted(self.start, row, side="right")) - 1
        owner = self.sources[source]
        batch = owner.batches[int(owner.batch[row - int(self.start[source])])]
        return _pictures(batch)[self._at(row)]

    def _drop(self, pairs: list[tuple[int, int]], how: str) -> None:
        """Of each pair the less preferred image goes, unless the other one is gone: what is pointed at stays."""
        rivals: dict[int, list[int]] = defaultdict(list)
        for a, b in pairs:
            a, b = sorted((a, b), key=self._place)
            rivals[b].append(a)
        for row in sorted(rivals, key=self._place):
            better = [n for n in rivals[row] if n not in self.gone]
            if better and row not in self.gone:
                self._leave(row, min(better, key=self._place), how)

    def _place(self, row: int) -> tuple[int, int]:
        return int(self.rank[self.case[row]]), row

    def _leave(self, row: int, kept: int, how: str) -> None:
        self.gone[row] = (kept, how)

    def _told(self) -> Found:
        """Each copy with the key of the image that stays in the end."""
        found = Found()
        for row, (kept, how) in self.gone.items():
            while kept in self.gone:
                kept = self.gone[kept][0]
            (source, _), (stays, _) = self.owners[self.case[row]], self.owners[self.case[kept]]
            case, axis, index = self._at(kept)
            found.copies[source.work.slug][self._at(row)] = (how, f"{stays.work.slug}/{case}/{axis}/{index}")
        return found

    def _at(self, row: int) -> tuple[str, str, int]:
        source = int(np.searchsorted(self.start, row, side="right")) - 1
        owner, n = self.sources[source], row - int(self.start[source])
        return owner.cases[owner.case[n]].name, AXES[owner.axis[n]], int(owner.index[n])


def _preference(source: Images, case: _Case) -> tuple[Any, ...]:
    """Copies in this order: one in a test split stays, else that of the smallest source."""
    return (case.split != "test", len(source.work.cases), source.work.slug, case.name)


def _joined(parts: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)


@lru_cache(maxsize=4)
def _pictures(batch: Path) -> dict[tuple[str, str, int], bytes]:
    """The encoded slices of a batch."""
    rows = open_part(batch, "images").read(["case", "axis", "slice_index", "png"], use_threads=False).to_pylist()
    return {(r["case"], r["axis"], r["slice_index"]): r["png"] for r in rows}
