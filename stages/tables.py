"""validate, filter, harmonize, bbox of a source: table work, redone only where something it reads has changed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl import store
from etl.labelmap import Mapping
from etl.results import REGIONS, Result
from stages import bbox, harmonize, validate
from stages import filter as filter_stage
from stages.plan import Options, Work

VERSION = 2
TABLE_STAGES = ("validate", "filter", "harmonize", "bbox")
SMALL = [name for name in REGIONS.names if name != "rle"]
Process = Callable[[pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]]


def run(
    work: Work, results: list[Result], mapping: dict[str, Mapping], options: Options, *, last: str = "bbox"
) -> dict[str, dict[str, int]]:
    """The books (regions in, out, quarantined) of the table stages up to `last`."""
    steps: list[tuple[str, Any, Process]] = [
        ("validate", None, validate.process),
        ("filter", options.min_area, lambda t: filter_stage.process(t, options.min_area)),
        ("harmonize", [{k: v.model_dump(mode="json") for k, v in mapping.items()}, options.accept_proposed],
         lambda t: harmonize.process(t, mapping, options.accept_proposed)),
        ("bbox", None, lambda t: (bbox.process(t), t.iloc[:0][["case"]])),
    ]
    key = store.digest([sorted(r.key for r in results), VERSION])
    read: Callable[[], pd.DataFrame] = partial(_sliced, results)
    books: dict[str, dict[str, int]] = {}
    for name, settings, process in steps:
        key = store.digest([key, name, settings])
        folder = options.stage(name, work.slug)
        report = store.read_json(folder / "report.json")
        if report is None or report["key"] != key:
            report = {"key": key, **_step(folder, read(), process)}
            store.write_json(folder / "report.json", report)
        books[name] = {k: report[k] for k in ("in", "out", "quarantined")}
        read = partial(pd.read_parquet, folder / "regions.parquet")
        if name == last:
            break
    return books


def _step(folder: Any, before: pd.DataFrame, process: Process) -> dict[str, int]:
    kept, rejected = process(before)
    (folder / "report.json").unlink(missing_ok=True)  # the tables are no longer what it tells of
    store.write_table(folder / "regions.parquet", pa.Table.from_pandas(kept, preserve_index=False))
    store.write_table(folder / "rejected.parquet", pa.Table.from_pandas(rejected, preserve_index=False))
    return {"in": len(before), "out": len(kept), "quarantined": len(rejected)}


def _sliced(results: list[Result]) -> pd.DataFrame:
    """The regions of these results, without their run lengths."""
    tables = [REGIONS.empty_table().select(SMALL)]
    for _, members in by_batch(results).items():
        table = members[0].table("regions", SMALL)
        wanted = pa.array([i["case"] for r in members for i in r.images], pa.string())
        tables.append(table.filter(pc.is_in(table["case"], wanted)))
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame


def by_batch(results: list[Result]) -> dict[Any, list[Result]]:
    """The results by the batch that holds them, in order."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(result.batch, []).append(result)
    return groups
