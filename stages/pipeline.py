"""All stages of a build, in order: the inventory, slicing over Dask, table work per source, export."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from etl import runner, splits, store
from etl.errors import Failure
from etl.labelmap import load_label_map, load_ontology
from etl.manifest import Manifest
from etl.progress import Progress
from etl.records import ImageRecord
from stages import books, export, plan, slice, tables
from stages.plan import Options, Work
from stages.records import Naming, kept_regions, records
from stages.select import select

STAGES = ("fetch", "decode", "slice", "validate", "filter", "harmonize", "bbox", "export")
PNG_LIMIT = 100_000


def build(chosen: list[Manifest], known: dict[str, Manifest], options: Options, *, named: bool) -> dict[str, Any]:
    """All stages for these sources; those without a single pair are left out unless they were `named`."""
    works, faults = plan.plan(chosen, options)
    if not named:
        works = [w for w in works if w.units]
    if not works:
        raise Failure("\n".join([
            *faults, f"nothing of these sources below {options.raw}; "
            f"`medglip-etl sources check S --raw {options.raw}` says why"
        ]))  # fmt: skip
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
    with runner.pool(min(options.workers, total), options.scheduler) as pool, Progress() as progress:
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


def _singly(batches: Iterable[slice.Batch]) -> Iterator[slice.Batch]:
    """Each case of these batches alone, to find the one that kills its worker."""
    for b in batches:
        for unit in b.units:
            yield slice.Batch((unit,), b.manifest, b.root, b.folder, b.params, b.encode_from)


def run_export(works: list[Work], known: dict[str, Manifest], options: Options) -> dict[str, Any]:
    """The table stages, then export: dataset/ and quarantine/ of exactly these sources."""
    ontology = load_ontology(*options.label_maps)
    split_of = splits.assign([(w.manifest, w.cases) for w in works], splits.families(known.values()))
    folder = options.out / "quarantine"
    aside = folder.with_name("quarantine.tmp")
    export.recover(folder)
    shutil.rmtree(aside, ignore_errors=True)
    ledger = books.Books()
    streams = []
    images = regions = 0
    for work in sorted(works, key=lambda w: w.slug + "/"):
        results = work.results(options)
        mapping = load_label_map(work.slug, *options.label_maps)
        done = tables.run(work, results, mapping, options)
        kept = kept_regions(work, options)
        selection = select(work, kept, options)
        rows = books.quarantine(work, results, selection, options)
        books.write_quarantine(aside, work.slug, rows)
        ledger.add(work, results, done, selection, rows, options)
        images += len(kept[["case", "axis", "slice_index"]].drop_duplicates()) - len(selection.left_out)
        regions += len(kept) - selection.regions
        streams.append(partial(_stream, work, Naming(mapping, ontology), split_of, selection.left_out, options))
    stats = export.export(
        lambda: (record for stream in streams for record in stream()),
        {w.slug: w.manifest for w in works}, ontology, options.out,
        png=images <= PNG_LIMIT if options.png is None else options.png, ledger=ledger.ledger(regions, {}),
    )  # fmt: skip
    export.swap(aside, folder)
    if stats["regions"] != regions:
        raise Failure(f"export wrote {stats['regions']} regions, {regions} went in")
    if not stats["images"]:
        raise Failure("no image came out of this build; `medglip-etl quarantine OUT` says why")
    return stats


def _stream(
    work: Work, naming: Naming, split_of: dict[tuple[str, str], str], left_out: frozenset[Any], options: Options
) -> Iterator[ImageRecord]:
    kept = kept_regions(work, options)
    yield from records(work, work.results(options), kept, naming, splits=split_of, left_out=left_out)


def forget(manifests: Iterable[Manifest], options: Options) -> None:
    """Remove the stage results of these sources."""
    for manifest in manifests:
        for folder in (options.out / "stages").glob(f"*/{manifest.slug}"):
            shutil.rmtree(folder)


def run_stage(name: str, chosen: list[Manifest], known: dict[str, Manifest], options: Options) -> str:
    """One stage for these sources; what it did, in a line.

    Raises:
        Failure: an earlier stage has not run; says which.
    """
    if name == "fetch":
        raise Failure("fetch: these sources have no download yet; put their files below --raw")
    listed = {m.slug for m in chosen if plan.listing(m.slug, options.out).exists()}
    works, faults = plan.plan(chosen, options)
    works = [w for w in works if w.units or w.rejected]
    if faults or not works:
        raise Failure("\n".join(faults or [f"fetch has not run: nothing of these sources below {options.raw}"]))
    if name == "decode":
        return f"decode: {sum(len(w.units) for w in works)} cases, {sum(len(w.rejected) for w in works)} quarantined"
    _require(name, works, listed, options)
    if name == "slice":
        slice_all(works, options)
        return f"slice: {sum(len(w.units) for w in works)} cases"
    if name == "export":
        stats = run_export(works, known, options)
        return f"export: {stats['images']} images, {stats['regions']} regions"
    lines = []
    for work in works:
        mapping = load_label_map(work.slug, *options.label_maps)
        done = tables.run(work, work.results(options), mapping, options, last=name)
        lines.append(f"{name} {work.slug}: {done[name]}")
    return "\n".join(lines)


def _require(name: str, works: list[Work], listed: set[str], options: Options) -> None:
    """Raise Failure naming the first stage before `name` without a result."""
    for work in works:
        if work.slug not in listed:
            raise Failure(f"{work.slug}: decode has not run; `medglip-etl stage decode --source {work.slug}` first")
        if name != "slice":
            work.results(options)
        for before in STAGES[3 : STAGES.index(name)]:
            if not (options.stage(before, work.slug) / "report.json").exists():
                raise Failure(
                    f"{work.slug}: {before} has not run; `medglip-etl stage {before} --source {work.slug}` first"
                )


def say(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
