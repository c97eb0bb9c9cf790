"""An export as a whole: its folder is there complete or not at all."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from etl.errors import UsageError
from etl.exports import cvat, fiftyone, glip, hf_datasets, llava, lvis, odvg, webdataset, yolo
from etl.exports.job import Job, open_job
from etl.store import read_json, write_json

WRITERS: dict[str, Callable[[Job, Path], None]] = {
    "datasets": hf_datasets.write,
    "webdataset": webdataset.write,
    "fiftyone": fiftyone.write,
    "cvat": cvat.write,
    "tao": odvg.write_tao,
    "odvg-mmdet": odvg.write_mmdet,
    "odvg-open-groundingdino": odvg.write_open_groundingdino,
    "glip": glip.write,
    "lvis": lvis.write,
    "yolo": yolo.write_boxes,
    "yolo-segment": yolo.write_polygons,
    "llava": llava.write,
}
MARK = ".medglip-export.json"  # hidden: no reader takes it for its own


def export(out: Path, name: str, *, to: Path | None, splits: Iterable[str], level: str, images: bool) -> dict[str, Any]:
    """What it wrote: `{format, to, level, splits, images, regions}`; `to` is `out/exports/<format>` if None.

    An earlier export at `to` is replaced by a rename.

    Raises:
        Failure: no built dataset, or no image in these splits.
        UsageError: no such format, level or split, or something else is at `to`.
    """
    if name not in WRITERS:
        raise UsageError(f"--format {name}: it is one of {', '.join(WRITERS)}")
    to = to or out / "exports" / name
    if to.exists() and not (to.is_dir() and (read_json(to / MARK) or not any(to.iterdir()))):
        raise UsageError(f"--to {to}: there is something that is no export; name a new folder")
    job = open_job(out, splits, level, images=images)
    fresh = to.with_name(f".{to.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        WRITERS[name](job, fresh)
        done = {"format": name, "level": level, "splits": list(job.splits), **job.counts}
        write_json(fresh / MARK, done)
        swap(fresh, to)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return done | {"to": str(to)}


def swap(fresh: Path, to: Path) -> None:
    """Puts a finished folder in its place."""
    old = to.with_name(f".{to.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if to.exists():
        to.rename(old)
    fresh.rename(to)
    shutil.rmtree(old, ignore_errors=True)
