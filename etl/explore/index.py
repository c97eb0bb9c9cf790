"""The index of a dataset: its filter columns without pixels, a DuckDB file in the user's cache, made once."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from etl import store
from etl.errors import Failure
from etl.explore.dataset import Dataset

VERSION = 1
MEMORY, TO_MAKE = "256MB", "300MB"  # that DuckDB may use for answers, and to make the index
GROUPS = 64  # row groups read at once
EXAMPLES = 6  # images remembered for each raw label
IMAGE = ("image_id", "source", "modality", "case", "subject", "split", "axis", "slice_index", "width", "height",
         "license", "sex", "age", "diagnosis", "flags")
REGION = ("label_id", "label", "category", "body_region", "raw_label", "area_fraction")
ENUMS = ("source", "modality", "split", "axis")


def opened(data: Dataset, tell: Callable[[str], None]) -> duckdb.DuckDBPyConnection:
    """A connection to the index of a dataset, which is made if it is not there or the dataset has changed."""
    path = cache() / f"{store.digest([data.name])[:16]}-{version(data)}.duckdb"
    if not path.exists():
        tell(f"making the index of {data.name}")
        _make(data, path)
        for old in path.parent.glob(f"{path.name.partition('-')[0]}-*.duckdb"):
            if old != path:  # of what the dataset was before
                old.unlink(missing_ok=True)
    return duckdb.connect(str(path), read_only=True, config={"memory_limit": MEMORY, "threads": 2})


def version(data: Dataset) -> str:
    """A digest of the shards: another one means another dataset."""
    return store.digest([VERSION, data.stamp()])[:16]


def cache() -> Path:
    """The folder of indexes: the user's cache, or a temporary one where that cannot be written."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medglip-etl" / "explore"
    try:
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError:
        home = Path(tempfile.gettempdir()) / f"medglip-etl-{os.getuid()}" / "explore"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return home


def _make(data: Dataset, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / "index.duckdb"
        config: Any = {"memory_limit": TO_MAKE, "threads": 2, "temp_directory": folder,
                       "preserve_insertion_order": "false"}
        with contextlib.closing(duckdb.connect(str(unfinished), config=config)) as base:
            _stage(data, base)
            for statement in _SHAPE.split(";"):
                base.execute(statement)
            _forget(base)
        unfinished.replace(path)


def _stage(data: Dataset, base: duckdb.DuckDBPyConnection) -> None:
    """The columns as the shards hold them."""
    started = False
    for number, name in enumerate(data.shards()):
        for images, regions in _columns(data, name, number):
            base.register("images_now", images)
            base.register("regions_now", regions)
            how = "INSERT INTO {} SELECT * FROM {}" if started else "CREATE TABLE {} AS SELECT * FROM {}"
            base.execute(how.format("raw_images", "images_now"))
            base.execute(how.format("raw_regions", "regions_now"))
            started = True
    if not started:
        raise Failure(f"{data.name}: the dataset has no image")


def _columns(data: Dataset, name: str, number: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """(images, regions) of a shard, some row groups at a time."""
    file, row = data.opened(name), 0
    wanted = [*IMAGE, *(f"regions.list.element.{column}" for column in REGION)]
    missing = [c for c in IMAGE if c not in file.schema_arrow.names]
    if missing:
        raise Failure(f"{name}: no column {', '.join(missing)}; built by an older version, build it again")
    for start in range(0, file.num_row_groups, GROUPS):
        groups = list(range(start, min(start + GROUPS, file.num_row_groups)))
        table = file.read_row_groups(groups, wanted, use_threads=False).combine_chunks()
        lists = table["regions"].combine_chunks()
        parent, inner = pc.list_parent_indices(lists), pc.list_flatten(lists)
        regions = {column: pc.struct_field(inner, column) for column in REGION}
        regions |= {name: table[name].take(parent) for name in ("image_id", "source")}
        images = table.drop_columns(["regions"])
        images = images.append_column("shard", pa.repeat(pa.scalar(number, pa.int32()), len(table)))
        images = images.append_column("row", pa.array(range(row, row + len(table)), pa.int32()))
        images = images.append_column("regions", pc.list_value_length(lists))
        row += len(table)
        if len(table):
            yield images, pa.table(regions)


def _forget(base: duckdb.DuckDBPyConnection) -> None:
    for name in ("raw_images", "raw_regions"):
        base.execute(f"DROP TABLE {name}")
    base.execute("CHECKPOINT")


_SHAPE = f"""
{"".join(f"CREATE TYPE {e}_name AS ENUM (SELECT DISTINCT {e} FROM raw_images ORDER BY {e});" for e in ENUMS)}
CREATE TABLE cases AS SELECT (row_number() OVER (ORDER BY source, "case"))::INTEGER AS case_id, source, "case",
  any_value(subject) AS subject, any_value(license) AS license,
  lower(concat_ws(' ', source || '/' || "case", any_value(subject), any_value(sex), any_value(age),
  any_value(diagnosis))) AS words FROM raw_images GROUP BY source, "case";
CREATE TABLE names AS SELECT (row_number() OVER (ORDER BY source, raw_label, label_id))::INTEGER AS name_id, *,
  lower(concat_ws(' ', raw_label, label, category, body_region)) AS words FROM
  (SELECT source, raw_label, label_id, any_value(label) AS label, any_value(category) AS category,
  any_value(body_region) AS body_region FROM raw_regions GROUP BY source, raw_label, label_id);
CREATE TABLE images AS SELECT image_id::INTEGER AS image_id, source::source_name AS source,
  modality::modality_name AS modality, split::split_name AS split, axis::axis_name AS axis, case_id, slice_index,
  width, height, shard, "row", regions::INTEGER AS regions, flags,
  (row_number() OVER (ORDER BY hash(image_id)))::INTEGER AS mixed
  FROM raw_images JOIN cases USING (source, "case") ORDER BY image_id;
CREATE TABLE regions AS SELECT image_id::INTEGER AS image_id, name_id, area_fraction
  FROM raw_regions JOIN names USING (source, raw_label, label_id) ORDER BY image_id;
CREATE TABLE examples AS SELECT name_id, image_id, place::TINYINT AS place FROM
  (SELECT name_id, image_id, row_number() OVER (PARTITION BY name_id ORDER BY area_fraction * (1 + hash(image_id) % 97)
   DESC, image_id) AS place FROM regions) WHERE place <= {EXAMPLES};
CREATE TABLE flag_names AS SELECT flag, count(*) AS images FROM (SELECT unnest(flags) AS flag FROM images)
  GROUP BY flag ORDER BY flag
""".strip()
