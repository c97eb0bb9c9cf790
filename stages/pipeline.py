"""All stages of a build, in order: the inventory, slicing over Dask, table work per source, export."""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from etl import runner, store
from etl.errors import Failure, UsageError
from etl.labels.maps import Ontology, load_label_map, load_ontology
from etl.manifests.manifest import Manifest
from etl.progress import Progress
from etl.release.records import Ledger, Page, Refused
from etl.results import Committed, Result, read
from etl.sources import splits
from etl.yamlfile import suggestion
from stages import STAGES, books, duplicates, export, flags, plan, sizes, slice, tables
from stages.plan import Options, Work
from stages.records import Naming, pages
from stages.select import select, slices_of

CLUSTER_BYTES = 16 * 2**20  # of files: less is sliced in a second or two, which a cluster takes to start
NOT_FETCHED = (
    "fetch has not run: nothing of these sources below {raw}; `medglip-etl stage fetch --source S --raw {raw}` first"
)


def build(chosen: list[Manifest], known: dict[str, Manifest], options: Options, *, named: bool) -> dict[str, Any]:
    """All stages for these sources; those without a single pair are left out unless they were `named`."""
    works, faults = plan.plan(chosen, known, options)
    if not named:
        works = [w for w in works if w.units]
    if not works:
        raise Failure("\n".join([
            *faults, f"nothing of these sources below {options.raw}; "
            f"`medglip-etl sources check S --raw {options.raw}` says why"
        ]))  # fmt: skip
    ontology = load_ontology(*options.label_maps)
    for work in works:
        naming(work, ontology, options)  # a wrong label map is told before the work, not after it
    plan.record(works, options)
    slice_all(works, options)
    stats = run_export(works, known, options)
    if faults:
        raise Failure("\n".join(["the dataset was built without these sources:", *faults]))
    return stats


def slice_all(works: list[Work], options: Options) -> None:
    """slice: run the cases without a usable result, in batches."""
    todo = [(work, plan.pending(work, options)) for work in works]
    total = sum(len(units) for _, units in todo)
    say(f"slice: {total} cases to do, {sum(len(w.units) for w in works) - total} reused")
    if not total:
        return
    for work in works:
        store.sweep(work.folder)
    batches = (batch for work, units in todo for batch in plan.batches(work, units, options))
    size = sum(unit.size for _, units in todo for unit in units)
    with _pool(options, total, size) as pool, Progress() as progress:
        for work, units in todo:
            progress.expect(work.slug, len(units))
        suspects = []
        for batch, accounts in pool.map(slice.run, batches):
            if accounts is None:
                suspects.append(batch)
            else:
                progress.add(batch.manifest.slug, accounts)
        for batch, accounts in pool.map(slice.run, _singly(suspects), alone=True):
            progress.add(batch.manifest.slug, accounts or slice.lost(batch))


def _pool(options: Options, cases: int, size: int) -> AbstractContextManager[runner.Pool | runner.Here]:
    """Who slices so many cases, whose files have so many bytes."""
    workers = min(options.workers, cases)
    if options.scheduler is None and (workers == 1 or size < CLUSTER_BYTES):
        return nullcontext(runner.Here())
    return runner.pool(workers, options.scheduler)


def _singly(batches: Iterable[slice.Batch]) -> Iterator[slice.Batch]:
    """Each case of these batches alone, to find the one that kills its worker."""
    for b in batches:
        for unit in b.units:
            yield replace(b, units=(unit,))


def run_export(works: list[Work], known: dict[str, Manifest], options: Options) -> dict[str, Any]:
    """The table stages, then export: dataset/ and quarantine/ of exactly these sources."""
    split_of = splits.assign([(w.manifest, w.cases) for w in works], splits.families(known.values()))
    works = sorted(works, key=lambda w: w.slug + "/")
    ontology = load_ontology(*options.label_maps)
    sources = [_source(work, split_of, naming(work, ontology, options), options) for work in works]
    noted = options.out / "stages" / "copies"
    copies = duplicates.find(
        [(noted / work.slug, work.folder) for work in works], [source.images for source in sources],
        noted / "found.json",
    )
    shares = [source.share(copies, split_of, options) for source in sources]
    stats = export.export(
        shares, {w.slug: w.manifest for w in works}, ontology, options.out, png=options.png,
        ledger=partial(_ledger, copies, options),
    )  # fmt: skip
    _swap_quarantine(works, options)
    if not stats["images"]:
        raise Failure("no image came out of this build; `medglip-etl quarantine OUT` says why")
    return stats


def _ledger(
    copies: duplicates.Found, options: Options, accounts: list[dict[str, Any]], folders: list[Path]
) -> Ledger:
    """The books of all sources, from the account of each and what is beside its part of the dataset."""
    ledger, seen, measured, regions = books.Books(), flags.Summary(), sizes.Sizes(), 0
    for account, folder in zip(accounts, folders, strict=True):
        ledger.join(account["books"])
        seen.join(account["flags"])
        measured.join(account["sizes"], Refused.read(folder / "refused.parquet"))
        regions += account["regions"]
    extra = measured.result(options) | {"duplicates": copies.counts(), "flags": seen.result()}
    return ledger.ledger(regions, extra, measured.refused(options))


def _swap_quarantine(works: list[Work], options: Options) -> None:
    folder = options.out / "quarantine"
    aside = store.begun(folder)
    for work in works:
        store.link(options.stage("export", work.slug) / "quarantine.parquet", aside / f"{work.slug}.parquet")
    store.settled(aside, folder)


@dataclass(frozen=True, slots=True)
class _Source:
    """A source whose table stages have run: their books, and digests of their tables and of its images."""

    work: Work
    naming: Naming
    chosen: list[Committed]
    done: dict[str, dict[str, int]]
    tables: str
    images: str

    def share(
        self, copies: duplicates.Found, split_of: dict[tuple[str, str], str], options: Options
    ) -> export.Share:
        """What the source gives to the dataset."""
        work = self.work
        here = sorted([*at, *told] for at, told in copies.copies.get(work.slug, {}).items())
        key = store.digest([
            export.VERSION, self.tables, work.manifest.model_dump(mode="json"), work.rejected, work.private,
            _cases(work, split_of), here, self.naming.ontology.plain(),
            options.min_area, options.min_regions, options.only_redistributable, options.slicing.stride,
        ])  # fmt: skip
        return export.Share(work.slug, key, partial(_made, self, copies, split_of, options))


def _source(work: Work, split_of: dict[tuple[str, str], str], naming: Naming, options: Options) -> _Source:
    chosen = work.committed(options)
    done = tables.run(work, chosen, naming.mapping, options)
    told = tables.key_of("bbox", work, options)
    key = store.digest([duplicates.VERSION, told, work.manifest.license.redistribution, options.min_regions,
                        options.only_redistributable, _cases(work, split_of)])  # fmt: skip

    def images() -> duplicates.Images:
        kept = tables.regions_of("bbox", work, options)
        return duplicates.images(work, chosen, kept, select(work, kept, options), split_of)

    content = duplicates.noted(options.out / "stages" / "copies" / work.slug, key, images)
    return _Source(work, naming, chosen, done, told, content)


def _cases(work: Work, split_of: dict[tuple[str, str], str]) -> str:
    """A digest of what is known of the cases of a source."""
    told = orjson.dumps([[case, split_of[work.slug, case.case]] for case in work.cases], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(told).hexdigest()


def _made(
    source: _Source, copies: duplicates.Found, split_of: dict[tuple[str, str], str], options: Options, folder: Path
) -> tuple[dict[str, Any], Iterator[Page]]:
    """The account of a source and its pages; its quarantine and pictures of it go to `folder`."""
    work, results = source.work, read(source.chosen)
    kept = tables.regions_of("bbox", work, options)
    selection = copies.added(work.slug, select(work, kept, options), kept)
    rows = books.quarantine(work, results, selection, options)
    store.write_table(folder / "quarantine.parquet", rows)
    ledger, seen, measured = books.Books(), flags.Summary(), sizes.Sizes()
    ledger.add(work, results, source.done, selection, rows, options)
    found = flags.flags(work, results, kept, source.naming, options)
    seen.add(work.slug, found, slices_of(kept) - selection.left_out)
    measured.add(work, results, source.naming, kept, selection, rows, options)
    store.write_table(folder / "refused.parquet", Refused.table(measured.pictures))
    account = {"books": ledger.state(), "flags": seen.state(), "sizes": measured.state(),
               "regions": len(kept) - selection.regions}  # fmt: skip
    if account["regions"] == 0:
        return account, iter(())
    return account, _stream(source, results, kept, split_of, selection.left_out, found, options)


def _stream(
    source: _Source, results: list[Result], kept: pa.Table, split_of: dict[tuple[str, str], str],
    left_out: frozenset[Any], flagged: flags.Flags, options: Options,
) -> Iterator[Page]:
    found = tables.regions_of("validate", source.work, options)
    for page in pages(source.work, results, kept, found, source.naming, splits=split_of, left_out=left_out):
        yield flagged.on(page)


def naming(work: Work, ontology: Ontology, options: Options) -> Naming:
    """The label map of a source and the ontology that it speaks of.

    Raises:
        UsageError: the map names a label that the ontology has not.
    """
    mapping = load_label_map(work.slug, *options.label_maps)
    for raw, entry in mapping.items():
        if entry.label is not None and entry.label not in ontology.labels:
            near = suggestion(entry.label, ontology.labels)
            raise UsageError(f"label map of {work.slug}: '{raw}' is mapped to '{entry.label}', which is no label of "
                             f"the ontology{near}; `medglip-etl labels list` shows them")
    return Naming(mapping, ontology, options.accept_proposed)


def forget(manifests: Iterable[Manifest], options: Options) -> None:
    """Remove the stage results of these sources."""
    for manifest in manifests:
        for name in (*STAGES, "copies"):
            store.remove_tree(options.stage(name, manifest.slug))


def run_stage(name: str, chosen: list[Manifest], known: dict[str, Manifest], options: Options) -> str:
    """One stage for these sources; what it did, in a line.

    Raises:
        Failure: an earlier stage has not run; says which.
    """
    works, faults = plan.plan(chosen, known, options)
    works = [w for w in works if w.units or w.rejected]
    if faults or not works:
        raise Failure("\n".join(faults or [NOT_FETCHED.format(raw=options.raw)]))
    if name != "decode":
        _require(name, works, options)
    plan.record(works, options)
    if name == "decode":
        return f"decode: {sum(len(w.units) for w in works)} cases, {sum(len(w.rejected) for w in works)} quarantined"
    if name == "slice":
        slice_all(works, options)
        return f"slice: {sum(len(w.units) for w in works)} cases"
    if name == "export":
        stats = run_export(works, known, options)
        return f"export: {stats['images']} images, {stats['regions']} regions"
    lines, ontology = [], load_ontology(*options.label_maps)
    for work in works:
        done = tables.run(work, work.committed(options), naming(work, ontology, options).mapping, options, last=name)
        lines.append(f"{name} {work.slug}: {done[name]}")
    return "\n".join(lines)


def _require(name: str, works: list[Work], options: Options) -> None:
    """Raise Failure naming the first stage before `name` without a result."""
    for work in works:
        if not plan.listing(work.slug, options.out).exists():
            raise Failure(f"{work.slug}: decode has not run; `medglip-etl stage decode --source {work.slug}` first")
        if name != "slice":
            work.committed(options)
        for before in STAGES[3 : STAGES.index(name)]:
            if not (options.stage(before, work.slug) / "report.json").exists():
                raise Failure(
                    f"{work.slug}: {before} has not run; `medglip-etl stage {before} --source {work.slug}` first"
                )


def say(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
