"""Images that are in the dataset twice: equal pixels, copies that look alike, volumes published again.

What is compared are the images that would be exported. Neighbouring slices of one case are no duplicates of each
other; frames and visits of one subject of a source only if their pixels are equal.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from etl import store
from etl.frames import REJECTED, numbers_by_name
from etl.pixels import geometry
from etl.quality import nearby
from etl.results import Committed, by_batch, open_part, read
from stages.plan import Work
from stages.select import SLICE, Selection

AXES = (*geometry.AXES, "native")
COLUMNS = ["case", "axis", "slice_index", "pixels", "coarse", "fine"]
VERSION = 1
SHARED_VOLUME = 6  # of 24 numbers of a sketch that two volumes must share: a quarter, which a third of a volume has
SHARED_PICTURE = 12  # and two pictures: half, since all pictures of a device share its writing
COMMON = 100  # a number that more images have is writing or padding
EQUALS = 8  # equal images that each is compared with


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one source of so many cases, by row.

    `batch` numbers `batches`, whose files are in `folder`; `case` numbers the entries of `cases`.
    """

    slug: str
    size: int
    folder: Path
    cases: list[_Case]
    batches: list[str]
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
    work: Work, chosen: list[Committed], kept: pa.Table, selection: Selection, splits: dict[tuple[str, str], str]
) -> Images:
    """The images of a source that would be exported: those of `kept` regions that `selection` does not leave out."""
    cases: list[_Case] = []
    number: dict[str, int] = {}
    held: list[int] = []  # the number of the batch of each case
    groups = by_batch(chosen)
    batch_of = {path: n for n, path in enumerate(groups)}
    for result, case in zip(read(chosen), work.cases, strict=True):
        for facts in result.images:
            number[facts["case"]] = len(cases)
            held.append(batch_of[result.batch])
            sketch = np.frombuffer(base64.b64decode(facts["seen"]["sketch"]), np.uint64)
            cases.append(_Case(facts["case"], case.subject, splits[work.slug, case.case], facts["native"],
                               tuple(facts["shape"]), sketch))  # fmt: skip
    wanted = _codes(kept.group_by(SLICE).aggregate([]), number)
    gone = np.array([_code(number[case], AXES.index(axis), i) for case, axis, i in selection.left_out], np.int64)
    wanted = np.setdiff1d(wanted, gone)
    parts, batch = [NO_ROWS], np.array([*held, -1], np.int32)
    for n, rows in enumerate(store.each(_hashes, groups)):
        code = _codes(rows, number)
        near = np.searchsorted(wanted, code).clip(max=max(0, wanted.size - 1))  # `isin` would sort all of them again
        use = (wanted[near] == code if wanted.size else np.zeros(code.size, bool)) & (batch[code >> CASE_BITS] == n)
        told = b"".join(p or bytes(16) for p in rows["pixels"].filter(pa.array(use)).to_pylist())
        parts.append((code[use], np.full(use.sum(), n, np.int32), np.frombuffer(told, np.uint64).reshape(-1, 2),
                      *(rows[name].to_numpy()[use] for name in ("coarse", "fine"))))  # fmt: skip
    at, place, pixels, coarse, fine = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Images(work.slug, len(work.units), work.folder, cases, [path.name for path in groups],
                  (at >> CASE_BITS).astype(np.int32), (at >> AXIS_BITS & 0xFF).astype(np.int8),
                  (at & 0xFFFFFFFF).astype(np.int32), place, pixels, coarse, fine)  # fmt: skip


def _hashes(batch: Path) -> pa.Table:
    return open_part(batch, "images").read(COLUMNS, use_threads=False)


CASE_BITS, AXIS_BITS = 40, 32
NO_ROWS = (np.empty(0, np.int64), np.empty(0, np.int32), np.empty((0, 2), np.uint64), np.empty(0, np.uint64),
           np.empty(0, np.uint64))  # fmt: skip


def _code(case: int, axis: int, index: int) -> int:
    return case << CASE_BITS | axis << AXIS_BITS | index


def _codes(table: pa.Table, number: dict[str, int]) -> NDArray[np.int64]:
    """One number for each (case, axis, index); -1 where the case is none of these."""
    case = numbers_by_name(table["case"], number)
    axis = numbers_by_name(table["axis"], {name: n for n, name in enumerate(AXES)})
    index = table["slice_index"].to_numpy().astype(np.int64)
    return np.where(case < 0, -1, case << CASE_BITS | axis << AXIS_BITS | index)


def noted(folder: Path, key: str, make: Callable[[], Images]) -> str:
    """The digest of a source's images, which are noted in a folder; made again if they are not those of `key`."""
    report = store.read_json(folder / "report.json")
    if report is not None and report["key"] == key:
        return str(report["content"])
    found = make()
    state = hashlib.sha256()
    for column in (found.case, found.axis, found.index, found.pixels, found.coarse, found.fine):
        state.update(np.ascontiguousarray(column).tobytes())
    cases = [[c.name, c.subject, c.split, c.native, list(c.shape), base64.b64encode(c.sketch.tobytes()).decode()]
             for c in found.cases]  # fmt: skip
    state.update(orjson.dumps([found.slug, found.size, cases]))
    (folder / "report.json").unlink(missing_ok=True)
    pixels = pa.array([bytes(p) for p in found.pixels], pa.binary(16))
    rows = pa.table({"case": found.case, "axis": found.axis, "index": found.index, "batch": found.batch,
                     "pixels": pixels, "coarse": found.coarse, "fine": found.fine})  # fmt: skip
    store.write_table(folder / "rows.parquet", rows)
    store.write_bytes(folder / "cases.json", orjson.dumps(cases))
    report = {"key": key, "content": state.hexdigest(), "slug": found.slug, "size": found.size,
              "batches": found.batches}  # fmt: skip
    store.write_json(folder / "report.json", report)
    return str(report["content"])


def _loaded(folder: Path, batches: Path) -> Images:
    """The images noted in a folder; the files of their batches are in `batches`."""
    report, rows = store.read_json(folder / "report.json"), store.read_table(folder / "rows.parquet")
    cases = [_Case(name, subject, split, native, tuple(shape), np.frombuffer(base64.b64decode(sketch), np.uint64))
             for name, subject, split, native, shape, sketch in orjson.loads((folder / "cases.json").read_bytes())]
    pixels = np.frombuffer(b"".join(rows["pixels"].to_pylist()), np.uint64).reshape(-1, 2)
    case, axis, index, batch, coarse, fine = (
        rows[name].to_numpy() for name in ("case", "axis", "index", "batch", "coarse", "fine")
    )
    return Images(report["slug"], report["size"], batches, cases, report["batches"], case, axis, index, batch, pixels,
                  coarse, fine)  # fmt: skip


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


def find(folders: list[tuple[Path, Path]], contents: list[str], path: Path) -> Found:
    """The copies among the images of all sources, each with the key of the image that stays.

    `folders` are where the images of each source are noted, and its batches; `contents` what `noted` told of each. What
    was found stays at `path`, and holds while no image changes.
    """
    found, key = Found(), store.digest([VERSION, contents])
    known = store.read_json(path)
    if known is None or known["key"] != key:
        sources = [source for noted, batches in folders if (source := _loaded(noted, batches)).case.size]
        copies = [[slug, *at, *told] for slug, here in _Search(sources).run().copies.items()
                  for at, told in here.items()]  # fmt: skip
        known = {"key": key, "copies": copies}
        store.write_json(path, known)
    for slug, case, axis, index, how, stays in known["copies"]:
        found.copies[slug][case, axis, index] = (how, stays)
    return found


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
        self.person = np.array([people.setdefault((s.slug, c.subject), len(people)) for s, c in owners], np.int32)
        self.gone: dict[int, tuple[int, str]] = {}  # image -> a preferred one, and what it is of it

    def run(self) -> Found:
        """The copies, of whole cases first."""
        if not self.sources:
            return Found()
        self.pixels = np.concatenate([s.pixels for s in self.sources])
        equal = self._equal()
        self._drop_cases(equal)
        self._drop(equal, "equal")
        self._drop(self._similar(), "near copy")
        return self._told()

    def _rows(self) -> Callable[[int], list[int]]:
        """The images of a case, in order."""
        order = np.argsort(self.case, kind="stable")
        ends = np.searchsorted(self.case[order], np.arange(len(self.owners) + 1))
        return lambda case: order[ends[case] : ends[case + 1]].tolist()

    def _equal(self) -> list[tuple[int, int]]:
        """Pairs of images of different cases with equal pixels."""
        order = np.lexsort((self.rank[self.case], self.pixels[:, 1], self.pixels[:, 0]))
        told = self.pixels[order]
        change = np.flatnonzero(np.any(told[1:] != told[:-1], axis=1)) + 1
        pairs = []
        for a, b in _runs(np.concatenate(([0], change)), np.concatenate((change, [order.size])), order.size):
            if told[a].any():
                members = order[a:b].tolist()
                pairs += [(x, y) for n, y in enumerate(members) for x in members[: min(n, EQUALS)]
                          if self.case[x] != self.case[y]]  # fmt: skip
        return pairs

    def _drop_cases(self, equal: list[tuple[int, int]]) -> None:
        """Take out cases that are another one, turned, cut or in another split.

        A copy on the same grid in the same split is left to the comparison of images: its other slices stay.
        """
        aligned = {(int(self.case[a]), int(self.case[b])) for a, b in equal}
        partner = {(b, int(self.case[a])): a for a, b in reversed(equal)}
        copies: set[int] = set()
        rows = self._rows()
        for best, copy in sorted(self._related(), key=lambda p: (self.rank[p[1]], self.rank[p[0]])):
            (_, a), (_, b) = self.owners[best], self.owners[copy]
            same_grid = a.shape == b.shape and (best, copy) in aligned
            if best in copies or copy in copies or not rows(best) or (same_grid and a.split == b.split):
                continue
            copies.add(copy)
            places = {(self._at(n)[1:]): n for n in reversed(rows(best))}
            for row in rows(copy):
                near = places.get(self._at(row)[1:], rows(best)[0])
                self._leave(row, partner.get((row, best), near), "equal" if (row, best) in partner else "copied volume"
                            if not b.native else "copied picture")

    def _related(self) -> list[tuple[int, int]]:
        """(preferred, other) pairs of cases whose sketches have enough in common."""
        values = np.concatenate([c.sketch for _, c in self.owners])
        owner = np.repeat(np.arange(len(self.owners)), [c.sketch.size for _, c in self.owners])
        order = np.lexsort((owner, values))
        values, owner = values[order], owner[order]
        ends = np.concatenate((np.flatnonzero(values[1:] != values[:-1]) + 1, [values.size]))
        begins = np.concatenate(([0], ends[:-1]))
        shared: dict[tuple[int, int], int] = defaultdict(int)
        for begin, end in _runs(begins, ends, COMMON):
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
        stays: NDArray[np.bool_] = np.asarray(self.pixels.any(axis=1))
        stays[list(self.gone)] = False
        left = np.flatnonzero(stays)
        coarse = np.concatenate([s.coarse for s in self.sources])[left]
        fine = np.concatenate([s.fine for s in self.sources])[left]
        pairs = left[nearby.candidates(coarse, fine, self.person[self.case[left]])]
        alike = [(a, b) for a, b in pairs.tolist() if nearby.alike(self._png(a), self._png(b))]
        native = self.axis == AXES.index("native")
        series = np.where(native, -1, self.case.astype(np.int64) * len(AXES) + self.axis)
        return nearby.consistent(alike, series)

    def _png(self, row: int) -> bytes:
        source = int(np.searchsorted(self.start, row, side="right")) - 1
        owner = self.sources[source]
        batch = owner.batches[int(owner.batch[row - int(self.start[source])])]
        return _pictures(owner.folder / batch)[self._at(row)]

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
            found.copies[source.slug][self._at(row)] = (how, f"{stays.slug}/{case}/{axis}/{index}")
        return found

    def _at(self, row: int) -> tuple[str, str, int]:
        source = int(np.searchsorted(self.start, row, side="right")) - 1
        owner, n = self.sources[source], row - int(self.start[source])
        return owner.cases[owner.case[n]].name, AXES[owner.axis[n]], int(owner.index[n])


def _runs(begins: NDArray[Any], ends: NDArray[Any], most: int) -> list[tuple[int, int]]:
    """The runs of at least 2 and at most so many: few of millions, so they are chosen before they become numbers."""
    use = (ends - begins > 1) & (ends - begins <= most)
    return list(zip(begins[use].tolist(), ends[use].tolist(), strict=True))


def _preference(source: Images, case: _Case) -> tuple[Any, ...]:
    """Copies in this order: one in a test split stays, else that of the smallest source."""
    return (case.split != "test", source.size, source.slug, case.name)


def _joined(parts: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)


@lru_cache(maxsize=4)
def _pictures(batch: Path) -> dict[tuple[str, str, int], bytes]:
    """The encoded slices of a batch."""
    rows = open_part(batch, "images").read(["case", "axis", "slice_index", "png"], use_threads=False).to_pylist()
    return {(r["case"], r["axis"], r["slice_index"]): r["png"] for r in rows}
