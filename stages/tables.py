"""validate, filter, harmonize, bbox of a source: table work, redone only where something it reads has changed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl import store
from etl.frames import MEASURED, REJECTED
from etl.labels.maps import Mapping
from etl.results import Committed, by_batch, open_part, read
from etl.schemas import REGIONS
from stages import bbox, harmonize, validate
from stages import filter as filter_stage
from stages.plan import Options, Work

VERSION = 3
SMALL = [name for name in REGIONS.names if name != "rle"]
Process = Callable[[pa.Table], tuple[pa.Table, pa.Table]]


def run(
    work: Work, results: list[Committed], mapping: dict[str, Mapping], options: Options, *, last: str = "bbox"
) -> dict[str, dict[str, int]]:
    """The books (regions in, out, quarantined) of the table stages up to `last`."""
    steps: list[tuple[str, Any, Process]] = [
        ("validate", None, validate.process),
        ("filter", options.min_area, lambda t: filter_stage.process(t, options.min_area)),
        ("harmonize", [{k: v.model_dump(mode="json") for k, v in mapping.items()}, options.accept_proposed],
         lambda t: harmonize.process(t, mapping, options.accept_proposed)),
        ("bbox", None, lambda t: (bbox.process(t), REJECTED.empty_table())),
    ]
    key = store.digest([sorted([r.key, r.batch.name] for r in results), VERSION])
    before: Callable[[], pa.Table] = partial(_sliced, results)
    books: dict[str, dict[str, int]] = {}
    for name, settings, process in steps:
        key = store.digest([key, name, settings])
        folder = options.stage(name, work.slug)
        report = store.read_json(folder / "report.json")
        if report is None or report["key"] != key:
            report = {"key": key, **_step(folder, before(), process)}
            store.write_json(folder / "report.json", report)
        books[name] = {k: report[k] for k in ("in", "out", "quarantined")}
        before = partial(regions_of, name, work, options)
        if name == last:
            break
    return books


def key_of(stage: str, work: Work, options: Options) -> str:
    """The digest of what the tables of a stage were made from."""
    return str(store.read_json(options.stage(stage, work.slug) / "report.json")["key"])


def regions_of(stage: str, work: Work, options: Options) -> pa.Table:
    """The regions that a stage let through, each column in one piece."""
    return store.read_table(options.stage(stage, work.slug) / "regions.parquet").unify_dictionaries().combine_chunks()


def _step(folder: Any, before: pa.Table, process: Process) -> dict[str, int]:
    kept, rejected = process(before)
    (folder / "report.json").unlink(missing_ok=True)  # the tables are no longer what it tells of
    store.write_table(folder / "regions.parquet", kept)
    store.write_table(folder / "rejected.parquet", rejected)
    return {"in": len(before), "out": len(kept), "quarantined": len(rejected)}


def _sliced(results: list[Committed]) -> pa.Table:
    """The regions of these results, in the columns of MEASURED."""
    tables = [MEASURED.empty_table()]
    groups = by_batch(results)
    for number, (members, table) in enumerate(zip(groups.values(), store.each(_measured, groups), strict=True)):
        places = np.full(len(table), number, np.int32), np.arange(len(table), dtype=np.int32)
        table = pa.table([*table.columns, *map(pa.array, places)], schema=MEASURED)
        tables.append(table if len(members) == members[0].rows else _of_cases(table, members))
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _measured(batch: Path) -> pa.Table:
    return open_part(batch, "regions").read(SMALL, use_threads=False)


def _of_cases(table: pa.Table, members: list[Committed]) -> pa.Table:
    """The rows of these cases of a batch."""
    names = pa.array({image["case"] for result in read(members) for image in result.images}, pa.string())
    return table.filter(pc.is_in(table["case"].cast(pa.string()), names))
