"""All stages of a build, in order: the inventory, slicing over Dask, table work per source, export."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from etl import runner, splits, store
from etl.errors import Failure, UsageError
from etl.labelmap import load_label_map, load_ontology
from etl.manifest import Manifest
from etl.progress import Progress
from etl.records import Page
from etl.yamlfile import suggestion
from stages import STAGES, books, duplicates, export, flags, plan, sizes, slice, tables
from stages.plan import Options, Work
from stages.records import Naming, pages
from stages.select import SLICE, Selection, select, slices_of

PNG_LIMIT = 100_000
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
    for work in works:
        naming(work, options)  # a wrong label map is told before the work, not after it
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
    split_of = splits.assign([(w.manifest, w.cases) for w in works], splits.families(known.values()))
    folder = options.out / "quarantine"
    aside = folder.with_name("quarantine.tmp")
    export.recover(folder)
    shutil.rmtree(aside, ignore_errors=True)
    works = sorted(works, key=lambda w: w.slug + "/")
    parts = [_selected(work, split_of, options) for work in works]
    copies = duplicates.find(part.images for part in parts)
    ledger, seen, measured = books.Books(), flags.Summary(), sizes.Sizes()
    streams = []
    images = regions = 0
    for work, part in zip(works, parts, strict=True):
        results, kept = work.results(options), tables.regions_of("bbox", work, options)
        selection = copies.added(work.slug, part.selection, kept)
        rows = books.quarantine(work, results, selection, options)
        books.write_quarantine(aside, work.slug, rows)
        ledger.add(work, results, part.done, selection, rows, options)
        found = flags.flags(work, results, kept, part.names, options)
        seen.add(work.slug, found, slices_of(kept) - selection.left_out)
        measured.add(work, results, part.names, kept, selection, rows, options)
        images += len(kept.group_by(SLICE).aggregate([])) - len(selection.left_out)
        regions += len(kept) - selection.regions
        if len(kept) > selection.regions:
            streams.append(partial(_stream, work, part.names, split_of, selection.left_out, found, options))
    stats = export.export(
        (page for stream in streams for page in stream()),
        {w.slug: w.manifest for w in works}, load_ontology(*options.label_maps), options.out,
        png=images <= PNG_LIMIT if options.png is None else options.png,
        ledger=ledger.ledger(
            regions, measured.result(options) | {"duplicates": copies.counts(), "flags": seen.result()},
            measured.refused(options),
        ),
    )  # fmt: skip
    export.swap(aside, folder)
    if stats["regions"] != regions:
        raise Failure(f"export wrote {stats['regions']} regions, {regions} went in")
    if not stats["images"]:
        raise Failure("no image came out of this build; `medglip-etl quarantine OUT` says why")
    return stats


@dataclass(frozen=True, slots=True)
class _Selected:
    """What the table stages made of a source: its books, and the images that would go into the dataset."""

    names: Naming
    done: dict[str, dict[str, int]]
    selection: Selection
    images: duplicates.Images


def _selected(work: Work, split_of: dict[tuple[str, str], str], options: Options) -> _Selected:
    results, names = work.results(options), naming(work, options)
    done = tables.run(work, results, names.mapping, options)
    kept = tables.regions_of("bbox", work, options)
    selection = select(work, kept, options)
    return _Selected(names, done, selection, duplicates.images(work, results, kept, selection, split_of))


def naming(work: Work, options: Options) -> Naming:
    """The label map of a source and the ontology that it speaks of.

    Raises:
        UsageError: the map names a label that the ontology has not.
    """
    ontology = load_ontology(*options.label_maps)
    mapping = load_label_map(work.slug, *options.label_maps)
    for raw, entry in mapping.items():
        if entry.label is not None and entry.label not in ontology.labels:
            near = suggestion(entry.label, ontology.labels)
            raise UsageError(f"label map of {work.slug}: '{raw}' is mapped to '{entry.label}', which is no label of "
                             f"the ontology{near}; `medglip-etl labels list` shows them")
    return Naming(mapping, ontology, options.accept_proposed)


def _stream(
    work: Work, naming: Naming, split_of: dict[tuple[str, str], str], left_out: frozenset[Any], flagged: flags.Flags,
    options: Options,
) -> Iterator[Page]:
    kept, found = (tables.regions_of(stage, work, options) for stage in ("bbox", "validate"))
    for page in pages(work, work.results(options), kept, found, naming, splits=split_of, left_out=left_out):
        yield flagged.on(page)


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
    lines = []
    for work in works:
        done = tables.run(work, work.results(options), naming(work, options).mapping, options, last=name)
        lines.append(f"{name} {work.slug}: {done[name]}")
    return "\n".join(lines)


def _require(name: str, works: list[Work], options: Options) -> None:
    """Raise Failure naming the first stage before `name` without a result."""
    for work in works:
        if not plan.listing(work.slug, options.out).exists():
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
