"""An export as a whole: its folder is there complete or not at all."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from etl.errors import UsageError
from etl.exports import cvat, fiftyone, glip, hf_datasets, llava, lvis, odvg, webdataset, yolo
from etl.exports.job import Job, open_job
from etl.objects import S3Path
from etl.store import names, read_json, remove_tree, write_json

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
AT_ONCE = 8  # uploads
MARK = ".medglip-export.json"  # hidden: no reader takes it for its own


def export(out: Path, name: str, *, to: Path | None, splits: Iterable[str], level: str, images: bool) -> dict[str, Any]:
    """What it wrote: `{format, to, level, splits, images, regions}`; `to` is `out/exports/<format>` if None.

    An earlier export at `to` is replaced, in a folder by a rename. On an object store `MARK` says `unfinished` until
    all objects are there; the export is made on this machine first.

    Raises:
        Failure: no built dataset, or no image in these splits.
        UsageError: no such format, level or split, or something else is at `to`.
    """
    if name not in WRITERS:
        raise UsageError(f"--format {name}: it is one of {', '.join(WRITERS)}")
    to = to or out / "exports" / name
    if taken(to):
        raise UsageError(f"--to {to}: there is something that is no export; name a new folder")
    job = open_job(out, splits, level, images=images)
    with made(to) as fresh:
        WRITERS[name](job, fresh)
        done = {"format": name, "level": level, "splits": list(job.splits), **job.counts}
        write_json(fresh / MARK, done)
    return done | {"to": str(to)}


def taken(to: Path) -> bool:
    """Whether something is there that is no export, finished or not."""
    if not to.exists() or (to.is_dir() and read_json(to / MARK)):
        return False
    return isinstance(to, S3Path) or not to.is_dir() or any(to.iterdir())


@contextmanager
def made(to: Path) -> Iterator[Path]:
    """An empty folder of this machine, whose content is put in the place of `to` at the end of the block."""
    if isinstance(to, S3Path):
        with tempfile.TemporaryDirectory(prefix="medglip-export-") as folder:
            yield Path(folder)
            upload(Path(folder), to)
        return
    fresh = to.with_name(f".{to.name}.tmp")
    remove_tree(fresh)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        swap(fresh, to)
    finally:
        remove_tree(fresh)


def upload(fresh: Path, to: S3Path) -> None:
    """Puts the files of a folder below a prefix and removes all else there; the mark is put last."""
    new = names(fresh)
    write_json(cast(Path, to / MARK), {"unfinished": True})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        old = (name for name in to.below() if name not in new)
        list(pool.map(lambda name: (to / name).unlink(missing_ok=True), old))
        list(pool.map(lambda name: (to / name).upload(fresh / name), (name for name in new if name != MARK)))
    (to / MARK).upload(fresh / MARK)


def swap(fresh: Path, to: Path) -> None:
    """Puts a finished folder in its place."""
    old = to.with_name(f".{to.name}.old")
    remove_tree(old)
    if to.exists():
        to.rename(old)
    fresh.rename(to)
    remove_tree(old)
