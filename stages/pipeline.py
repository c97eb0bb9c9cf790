"""All stages of a build, in order: the inventory, slicing over Dask, table work per source, export."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from etl import geometry, runner, splits, store
from etl.errors import Failure
from etl.frames import QUARANTINE
from etl.labelmap import Mapping, Ontology, load_label_map, load_ontology
from etl.manifest import Manifest
from etl.records import ImageRecord, Ledger, RegionRecord
from stages import bbox, decode, export, harmonize, slice, validate
from stages import filter as filter_stage

STAGES = ("fetch", "decode", "slice", "validate", "filter", "harmonize", "bbox", "export")
SMALL = ["case", "axis", "slice_index", "raw_label", "n", "defined", "height", "width", "x", "y", "w", "h", "area"]


@dataclass(frozen=True, slots=True)
class Options:
    """What a build was asked for. Areas are shares of the image area."""

    raw: Path
    out: Path
    label_maps: tuple[Path, ...]
    workers: int = 2
    scheduler: str | None = None
    min_area: float = 0.015
    encode_from: float | None = None
    min_regions: int = 1
    slicing: slice.SliceParams = field(default_factory=slice.SliceParams)
    only_redistributable: bool = False
    accept_proposed: bool = False
    png: bool | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """One source with its inventory and the units of its cases."""

    manifest: Manifest
    units: tuple[slice.Unit, ...]
    rejected: tuple[dict[str, Any], ...]


def plan(manifests: Iterable[Manifest], options: Options) -> list[Work]:
    """decode: the inventory of each source that has a folder below `raw`."""
    works = []
    for manifest in manifests:
        root = manifest.root(options.raw)
        if root is None:
            continue
        found = decode.run(manifest, root)
        folder = options.out / "stages" / "slice" / manifest.slug
        encode = options.min_area if options.encode_from is None else options.encode_from
        units = tuple(
            slice.Unit(c, manifest, root, folder, slice.unit_key(c, manifest, root, options.slicing),
                       options.slicing, encode)
            for c in found.cases
        )
        rows = tuple(decode.rejected(found))
        listing = {"cases": [asdict(c) for c in found.cases], "rejected": rows}
        store.write_json(options.out / "stages" / "decode" / manifest.slug / "cases.json", listing)
        works.append(Work(manifest, units, rows))
    return works


def slice_all(works: list[Work], options: Options) -> None:
    """slice: run the units without a usable result."""
    pending = [u for w in works for u in w.units if slice.done(u.folder, u.key, u.encode_from) is None]
    reused = sum(len(w.units) for w in works) - len(pending)
    say(f"slice: {len(pending)} cases to do, {reused} reused")
    started = time.monotonic()
    for n, (unit, report) in enumerate(
        runner.run(slice.run, pending, workers=options.workers, scheduler=options.scheduler), 1
    ):
        if report is None:
            slice.lost(unit)
        if n % 50 == 0 or n == len(pending):
            rate = n / (time.monotonic() - started)
            say(f"slice: {n}/{len(pending)} cases, {rate:.1f} cases/s, {(len(pending) - n) / rate:.0f} s left")


def tables(work: Work, mapping: dict[str, Mapping], options: Options, last: str = "bbox") -> dict[str, Any]:
    """validate, filter, harmonize, bbox of a source; each reuses its result if nothing it reads changed."""
    root = options.out / "stages"
    slug = work.manifest.slug
    key = store.digest([sorted(u.key for u in work.units), 1])
    steps: list[tuple[str, Any, Callable[[pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]]]] = [
        ("validate", None, validate.process),
        ("filter", options.min_area, lambda t: filter_stage.process(t, options.min_area)),
        ("harmonize", [{k: v.model_dump(mode="json") for k, v in mapping.items()}, options.accept_proposed],
         lambda t: harmonize.process(t, mapping, options.accept_proposed)),
        ("bbox", None, lambda t: (bbox.process(t), t.iloc[:0][["case"]])),
    ]
    books: dict[str, Any] = {}
    read: Callable[[], pd.DataFrame] = partial(_slice_regions, work)
    for name, settings, process in steps:
        folder = root / name / slug
        key = store.digest([key, name, settings])
        report = store.read_json(folder / "report.json")
        if report is None or report["key"] != key:
            before = read()
            kept, rejected = process(before)
            store.write_table(folder / "regions.parquet", pa.Table.from_pandas(kept, preserve_index=False))
            store.write_table(folder / "rejected.parquet", pa.Table.from_pandas(rejected, preserve_index=False))
            report = {"key": key, "in": len(before), "out": len(kept), "quarantined": len(rejected)}
            store.write_json(folder / "report.json", report)
        books[name] = {k: report[k] for k in ("in", "out", "quarantined")}
        read = partial(pd.read_parquet, folder / "regions.parquet")
        if name == last:
            break
    return books


def _slice_regions(work: Work) -> pd.DataFrame:
    parts = [pq.read_table(u.folder / f"{u.key}.regions.parquet", columns=SMALL) for u in work.units]
    table = pa.concat_tables(parts) if parts else slice.REGIONS.empty_table().select(SMALL)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def run_export(works: list[Work], known: dict[str, Manifest], options: Options) -> dict[str, Any]:
    """export: dataset/ and quarantine/ of exactly these sources."""
    ontology = load_ontology(*options.label_maps)
    maps = {w.manifest.slug: load_label_map(w.manifest.slug, *options.label_maps) for w in works}
    books = {w.manifest.slug: tables(w, maps[w.manifest.slug], options) for w in works}
    subjects = splits.assign(
        [(w.manifest, [u.case for u in w.units]) for w in works], splits.families(known.values())
    )
    shutil.rmtree(options.out / "quarantine", ignore_errors=True)
    few = {w.manifest.slug: _few(w, options) for w in works}

    def records() -> Iterator[ImageRecord]:
        for work in sorted(works, key=lambda w: w.manifest.slug + "/"):
            if not _withheld(work.manifest, options):
                yield from _records(work, maps[work.manifest.slug], ontology, subjects, few[work.manifest.slug])

    ledger = _ledger(works, books, few, options)
    manifests = {w.manifest.slug: w.manifest for w in works}
    png = options.png if options.png is not None else sum(1 for _ in _image_keys(works)) <= 100_000
    stats = export.export(records, manifests, ontology, options.out, png=png, ledger=ledger)
    if not stats["images"]:
        raise Failure("no image came out of this build; `medglip-etl quarantine OUT` says why")
    return stats


def _withheld(manifest: Manifest, options: Options) -> bool:
    return options.only_redistributable and manifest.license.redistribution != "allowed"


def _image_keys(works: list[Work]) -> Iterator[tuple[str, str, int]]:
    for work in works:
        path = work.units[0].folder.parents[1] / "bbox" / work.manifest.slug / "regions.parquet" if work.units else None
        if path is not None:
            frame = pd.read_parquet(path, columns=["case", "axis", "slice_index"]).drop_duplicates()
            yield from frame.itertuples(index=False, name=None)


def _few(work: Work, options: Options) -> set[tuple[str, str, int]]:
    """Images of a source with fewer regions than asked for."""
    if options.min_regions <= 1:
        return set()
    frame = pd.read_parquet(options.out / "stages" / "bbox" / work.manifest.slug / "regions.parquet")
    count = frame.groupby(["case", "axis", "slice_index"]).size()
    return set(count[count < options.min_regions].index)


def _ledger(
    works: list[Work], books: dict[str, Any], few: dict[str, set[Any]], options: Options
) -> Ledger:
    """The quarantine files, and the books: in = out + quarantined at each stage."""
    cases = {"decode": {"in": 0, "out": 0, "quarantined": 0}}
    regions: dict[str, dict[str, int]] = {}
    slices = background = 0
    small: dict[str, dict[str, int]] = {}
    for work in works:
        reports = [store.read_json(u.folder / f"{u.key}.json") for u in work.units]
        rows = [*work.rejected, *(r for report in reports for r in report["rejected"])]
        loaded = sum(1 for report in reports if report["images"])
        lost = len(work.units) - loaded + len(work.rejected)
        cases["decode"]["in"] += len(work.units) + len(work.rejected)
        cases["decode"]["out"] += loaded
        cases["decode"]["quarantined"] += lost
        slices += sum(i["slices"] for report in reports for i in report["images"])
        background += sum(i["background"] for report in reports for i in report["images"])
        for stage, book in books[work.manifest.slug].items():
            total = regions.setdefault(stage, {"in": 0, "out": 0, "quarantined": 0})
            for k, v in book.items():
                total[k] += v
        frames = [pd.DataFrame(rows, columns=QUARANTINE[1:])]
        for stage in ("validate", "filter", "harmonize"):
            frames.append(pd.read_parquet(options.out / "stages" / stage / work.manifest.slug / "rejected.parquet"))
        frames.append(_withheld_rows(work, options) if _withheld(work.manifest, options) else _few_rows(work, few))
        _count_small(small, frames[2], work, options)
        _write_quarantine(work.manifest.slug, frames, options)
    for stage, book in [*cases.items(), *regions.items()]:
        if book["in"] != book["out"] + book["quarantined"]:
            raise Failure(f"the books of {stage} do not balance: {book}")
    cases["slice"] = {"in": slices, "out": slices - background, "quarantined": 0, "background": background}
    return Ledger(books={"cases": cases, "regions": regions}, too_small=small, extra={})


def _few_rows(work: Work, few: dict[str, set[Any]]) -> pd.DataFrame:
    detail = "fewer regions than --min-regions"
    return pd.DataFrame(
        [(c, a, i, None, "export", "low_quality", detail, None) for c, a, i in sorted(few[work.manifest.slug])],
        columns=QUARANTINE[1:],
    )


def _withheld_rows(work: Work, options: Options) -> pd.DataFrame:
    detail = f"licence {work.manifest.license.name}: redistribution {work.manifest.license.redistribution}"
    return pd.DataFrame(
        [(u.case.case, None, None, None, "export", "not_redistributable", detail, None) for u in work.units],
        columns=QUARANTINE[1:],
    )


def _count_small(small: dict[str, dict[str, int]], rejected: pd.DataFrame, work: Work, options: Options) -> None:
    for what, frame in (
        ("dropped", rejected),
        ("kept", pd.read_parquet(options.out / "stages" / "filter" / work.manifest.slug / "regions.parquet")),
    ):
        for label, n in frame.groupby("raw_label").size().items():
            small.setdefault(str(label), {"kept": 0, "dropped": 0})[what] += int(n)


def _write_quarantine(slug: str, frames: list[pd.DataFrame], options: Options) -> None:
    table = pd.concat([f for f in frames if len(f)] or [pd.DataFrame(columns=QUARANTINE[1:])])
    table = table.assign(source=slug).reindex(columns=QUARANTINE)
    table = table.sort_values(QUARANTINE[1:-1], kind="stable", na_position="first", key=_as_text)
    text = ["source", "case", "axis", "raw_label", "stage", "reason", "detail"]
    schema = pa.schema([(c, pa.string() if c in text else pa.int32() if c == "slice_index" else pa.float32())
                        for c in QUARANTINE])
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    store.write_table(options.out / "quarantine" / f"{slug}.parquet", pa.Table.from_pylist(rows, schema))


def _as_text(column: pd.Series) -> pd.Series:
    return column if column.name == "slice_index" else column.astype("string")


def _records(
    work: Work, mapping: dict[str, Mapping], ontology: Ontology, subjects: dict[tuple[str, str], str], few: set[Any]
) -> Iterator[ImageRecord]:
    """The image records of a source in key order, one case's pixels at a time."""
    slug = work.manifest.slug
    if not work.units:
        return
    kept = pd.read_parquet(work.units[0].folder.parents[1] / "bbox" / slug / "regions.parquet")
    by_case = {str(case): frame for case, frame in kept.groupby("case", sort=False)}
    images = []
    for unit in work.units:
        report = store.read_json(unit.folder / f"{unit.key}.json")
        images += [(image["case"], unit, image) for image in report["images"] if image["case"] in by_case]
    for name, unit, image in sorted(images, key=lambda x: f"{slug}/{x[0]}/"):
        yield from _of_case(unit, name, image, by_case[name], mapping, ontology, subjects[slug, unit.case.case], few)


def _of_case(
    unit: slice.Unit, name: str, image: dict[str, Any], kept: pd.DataFrame, mapping: dict[str, Mapping],
    ontology: Ontology, split: str, few: set[Any],
) -> Iterator[ImageRecord]:
    everything = pq.read_table(unit.folder / f"{unit.key}.regions.parquet", filters=[("case", "=", name)]).to_pylist()
    pngs = pq.read_table(unit.folder / f"{unit.key}.images.parquet", filters=[("case", "=", name)]).to_pylist()
    found, groups, pixels = _by_slice(everything), _by_slice(kept.to_dict("records")), _by_slice(pngs)
    for at in sorted(groups, key=lambda k: f"{k[0]}/{k[1]}"):
        if (name, *at) not in few:
            data = pixels[at][0]["png"]
            yield _record(unit, name, image, at, groups[at], found[at], data, mapping, ontology, split)


def _by_slice(rows: Iterable[dict[Any, Any]]) -> dict[tuple[str, int], list[dict[Any, Any]]]:
    groups: dict[tuple[str, int], list[dict[Any, Any]]] = {}
    for row in rows:
        groups.setdefault((row["axis"], int(row["slice_index"])), []).append(row)
    return groups


def _record(
    unit: slice.Unit, name: str, image: dict[str, Any], at: tuple[str, int], kept: list[Any], found: list[Any],
    data: bytes, mapping: dict[str, Mapping], ontology: Ontology, split: str,
) -> ImageRecord:
    axis, index = at
    case, manifest = unit.case, unit.manifest
    key = f"{manifest.slug}/{name}/{axis}/{index}"
    rle = {(r["raw_label"], r["n"]): r["rle"] for r in found}
    regions = [_region(key, r, rle[r["raw_label"], r["n"]], manifest, ontology) for r in kept]
    regions.sort(key=lambda r: r.key)
    annotated, negative, partial = _known(image["annotated"], found, kept, mapping, ontology)
    return ImageRecord(
        key=key, source=manifest.slug, modality=manifest.modality, case=name, subject=case.subject, split=split,
        axis=axis, slice_index=index, width=int(kept[0]["width"]), height=int(kept[0]["height"]),
        spacing=_spacing(image, axis), image=data, license=case.facts.get("license", manifest.license.name),
        redistribution=manifest.license.redistribution, annotated_label_ids=annotated, neg_label_ids=negative,
        not_exhaustive_label_ids=partial, sex=case.facts.get("sex"), age=case.facts.get("age"),
        diagnosis=case.facts.get("diagnosis"), regions=regions,
    )


def _spacing(image: dict[str, Any], axis: str) -> tuple[float, float] | None:
    if image["spacing"] is None:
        return None
    i, j, k = image["spacing"]
    return (i, j) if axis == "native" else geometry.plane_spacing((i, j, k), axis)


def _region(key: str, row: dict[str, Any], rle: bytes, manifest: Manifest, ontology: Ontology) -> RegionRecord:
    label = ontology.labels[row["label"]]
    category = ontology.categories[label.category]
    raw = row["raw_label"]
    return RegionRecord(
        key=f"{key}/{raw}/{row['n']}", label_id=label.id, label=label.name, category_id=category.id,
        category=category.name, body_region=category.body_region, raw_label=raw, phrase=row["phrase"],
        bbox=[row["x"], row["y"], row["w"], row["h"]], area=int(row["area"]), area_fraction=row["area_fraction"],
        derived=raw in manifest.derive,
        segmentation={"size": [int(row["height"]), int(row["width"])], "counts": rle.decode()},
    )


def _known(
    annotated: list[str], found: list[Any], kept: list[Any], mapping: dict[str, Mapping], ontology: Ontology
) -> tuple[list[int], list[int], list[int]]:
    """(annotated, negative, not exhaustive) label ids of an image."""
    label_of = {raw: m.label for raw, m in mapping.items() if m.label and m.status != "rejected"}
    labels = {label_of[raw] for raw in annotated if raw in label_of}
    present = {label_of[r["raw_label"]] for r in found if r["raw_label"] in label_of}
    whole = {(r["raw_label"], r["n"]) for r in kept}
    partial = {
        label_of[r["raw_label"]]
        for r in found
        if r["raw_label"] in label_of and (r["raw_label"], r["n"]) not in whole
    }

    def ids(names: set[str]) -> list[int]:
        return sorted(ontology.labels[name].id for name in names)

    return ids(labels), ids(labels - present), ids(partial)


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
    works = [w for w in plan(chosen, options) if w.units or w.rejected]
    if not works:
        raise Failure(f"nothing of these sources below {options.raw}")
    if name == "decode":
        return f"decode: {sum(len(w.units) for w in works)} cases, {sum(len(w.rejected) for w in works)} quarantined"
    if name == "slice":
        slice_all(works, options)
        return f"slice: {sum(len(w.units) for w in works)} cases"
    _require(name, works, options)
    if name == "export":
        stats = run_export(works, known, options)
        return f"export: {stats['images']} images, {stats['regions']} regions"
    lines = []
    for work in works:
        books = tables(work, load_label_map(work.manifest.slug, *options.label_maps), options, last=name)
        lines.append(f"{name} {work.manifest.slug}: {books[name]}")
    return "\n".join(lines)


def _require(name: str, works: list[Work], options: Options) -> None:
    """Raise Failure naming the first stage before `name` without a result."""
    for work in works:
        slug = work.manifest.slug
        if any(slice.done(u.folder, u.key, u.encode_from) is None for u in work.units):
            raise Failure(f"{slug}: slice has not run; `medglip-etl stage slice --source {slug}` first")
        for before in STAGES[3 : STAGES.index(name)]:
            if not (options.out / "stages" / before / slug / "report.json").exists():
                raise Failure(f"{slug}: {before} has not run; `medglip-etl stage {before} --source {slug}` first")


def say(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
