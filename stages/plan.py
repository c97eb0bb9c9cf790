"""What there is to do: the sources below `--raw`, their cases, and what of them is done already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from etl import privacy, store
from etl.errors import Failure, UsageError
from etl.manifests.manifest import Manifest
from etl.results import Committed, committed
from etl.sources import splits
from etl.sources.inventory import Case
from stages import decode, slice

BATCH_BYTES = 8 * 2**20  # of files; a volume is a batch of its own, small images go together
BATCH_CASES = 64
BATCHES_PER_WORKER = 4
LISTED = pa.schema([(name, pa.string()) for name in ("case", "key", "subject", "split", "image")]
                   + [("masks", pa.list_(pa.string()))])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """What a build was asked for. Areas are shares of the image area, `memory_limit` bytes for a worker's cases."""

    raw: Path
    out: Path
    label_maps: tuple[Path, ...]
    workers: int = 2
    scheduler: str | None = None
    memory_limit: int | None = None
    min_area: float = 0.015
    encode_from: float | None = None
    min_regions: int = 1
    slicing: slice.SliceParams = field(default_factory=slice.SliceParams)
    only_redistributable: bool = False
    accept_proposed: bool = False
    png: bool | None = None

    def __post_init__(self) -> None:
        if self.encode_from is not None and self.encode_from > self.min_area:
            raise UsageError(
                f"--encode-from {self.encode_from:g} is above the least area {self.min_area:g}: regions would be kept "
                "whose slices were never encoded; lower it, or raise --min-area"
            )

    @property
    def encoded_from(self) -> float:
        """The least area share from which slices are encoded."""
        return self.min_area if self.encode_from is None else self.encode_from

    def stage(self, name: str, slug: str) -> Path:
        """The folder of a stage's results for a source."""
        return self.out / "stages" / name / slug


@dataclass(frozen=True, slots=True)
class Work:
    """One source below `--raw`: its cases, and the quarantine rows of what is no case; `private`: under pseudonyms."""

    manifest: Manifest
    root: Path
    units: tuple[slice.Unit, ...]
    rejected: tuple[dict[str, Any], ...]
    folder: Path
    private: bool = False

    @property
    def slug(self) -> str:
        """The source's slug."""
        return self.manifest.slug

    @property
    def cases(self) -> list[Case]:
        """Its cases."""
        return [u.case for u in self.units]

    def committed(self, options: Options) -> list[Committed]:
        """Where the slice results of all cases are, in their order.

        Raises:
            Failure: some case has none.
        """
        done = committed(self.folder, options.encoded_from)
        missing = [u for u in self.units if u.key not in done]
        if missing:
            raise Failure(
                f"{self.slug}: slice has not run on {len(missing)} of its cases from area {options.encoded_from:g} up; "
                f"`medglip-etl stage slice --source {self.slug}` first, with the same options"
            )
        return [done[u.key] for u in self.units]


def plan(manifests: list[Manifest], known: Mapping[str, Manifest], options: Options) -> tuple[list[Work], list[str]]:
    """decode: the inventory of each source that has a folder below `raw`.

    Returns the works, and what is wrong with sources whose folder and manifest do not go together: such a
    source is left out, unless it is the only one. Where one source of a family has pseudonyms all have, so that a
    subject has one name in all of them.
    """
    works, faults = [], []
    family = splits.families(known.values())
    private = {family[m.slug] for m in known.values() if m.pseudonymize}
    roots = {m.slug: m.root(options.raw) for m in manifests}
    key = privacy.subject_key() if any(roots[m.slug] and family[m.slug] in private for m in manifests) else b""
    for manifest in manifests:
        root, of = roots[manifest.slug], family[manifest.slug]
        if root is None:
            continue
        try:
            works.append(_work(manifest, root, options, pseudonyms=(key, of) if of in private else None))
        except UsageError as error:
            if len(manifests) == 1:
                raise
            faults.append(f"{manifest.slug}: {error}")
    return works, faults


def _work(manifest: Manifest, root: Path, options: Options, *, pseudonyms: tuple[bytes, str] | None) -> Work:
    """The work of a source; `pseudonyms` are the key and the family to make its names of."""
    found = decode.run(manifest, root)
    if pseudonyms is not None:
        found = decode.pseudonymized(found, *pseudonyms)
    rows = tuple(decode.rejected(found))
    units = tuple(slice.units(found.cases, manifest, root, options.slicing))
    return Work(manifest, root, units, rows, options.stage("slice", manifest.slug), pseudonyms is not None)


def record(works: Iterable[Work], options: Options) -> None:
    """Write down that `decode` has run for these sources, with the cases that it found."""
    for work in works:
        store.write_table(listing(work.slug, options.out), _listed(work.units))


def listing(slug: str, out: Path) -> Path:
    """The table of a source's cases, with the keys of their results."""
    return out / "stages" / "decode" / slug / "cases.parquet"


def _listed(units: tuple[slice.Unit, ...]) -> pa.Table:
    rows = [
        {"case": u.case.case, "key": u.key, "subject": u.case.subject, "split": u.case.split, "image": u.case.image,
         "masks": [m.path for m in u.case.masks]}
        for u in units
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, LISTED)


def pending(work: Work, options: Options) -> list[slice.Unit]:
    """The cases without a usable slice result."""
    done = committed(work.folder, options.encoded_from)
    return [u for u in work.units if u.key not in done]


def batches(work: Work, todo: list[slice.Unit], options: Options) -> Iterator[slice.Batch]:
    """Cases cut into batches: by the bytes of their files, and small enough that every worker has some."""
    most = max(1, min(BATCH_CASES, len(todo) // (BATCHES_PER_WORKER * max(1, options.workers))))
    group: list[slice.Unit] = []
    for unit in todo:
        if group and (len(group) >= most or sum(u.size for u in group) + unit.size > BATCH_BYTES):
            yield batch(work, group, options)
            group = []
        group.append(unit)
    if group:
        yield batch(work, group, options)


def batch(work: Work, units: Iterable[slice.Unit], options: Options) -> slice.Batch:
    """These cases as one unit of work."""
    return slice.Batch(tuple(units), work.manifest, work.root, work.folder, options.slicing, options.encoded_from,
                       memory_limit=options.memory_limit)  # fmt: skip
