"""slice: pixels are read once; every region is measured, and slices worth it are encoded.

A unit of work is a batch of cases: one volume, or many small images. `stages.cut` does it, in a child process of the
worker, and `etl.results` says what it commits.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from etl import isolate, store
from etl.errors import Failure, ItemError
from etl.manifests.casenames import faulty_labels
from etl.manifests.manifest import Manifest
from etl.objects import S3Path, Stat, is_remote
from etl.pixels import geometry
from etl.results import BatchWriter, files_of
from etl.sources.casefiles import bring, files_of_case
from etl.sources.inventory import Case

VERSION = 10
TRIES = 4  # of a case whose process somebody else kills


@dataclass(frozen=True, slots=True)
class SliceParams:
    """What changes the pixels and regions of a case."""

    axes: tuple[str, ...] = geometry.AXES
    stride: int = 1
    min_side: int = 32


@dataclass(frozen=True, slots=True)
class Unit:
    """A case, the key of its result, and the bytes of its files."""

    case: Case
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Cases of a source that are sliced together and committed together in `folder`; `memory_limit` are the bytes that
    the process may take for them beyond its libraries."""

    units: tuple[Unit, ...]
    manifest: Manifest
    root: Path
    folder: Path
    params: SliceParams
    encode_from: float
    origin: str | None = None  # where `root` is a copy of
    memory_limit: int | None = None

    @property
    def name(self) -> str:
        """The name of its files: the same cases with the same settings have the same."""
        return store.digest([[u.key for u in self.units], self.encode_from])


def units(cases: Iterable[Case], manifest: Manifest, root: Path, params: SliceParams) -> list[Unit]:
    """Each case with its key: its files (path, size, time) and the settings that matter for it."""
    used = manifest.model_dump(
        mode="json",
        include={"slug", "modality", "labels", "components", "derive", "view", "channels", "third_axis", "fourth_axis"},
    )
    rules = [r.model_dump(mode="json", exclude={"split", "subject"}) for r in manifest.files]
    base = store.digest([VERSION, used, asdict(params)])
    there = store.names(root) if is_remote(root) else None
    found = []
    for case in cases:
        files = files_of_case(case, root)
        prints = [(f, *_stamp(root / f if there is None else there.get(f))) for f in files]
        masks = [[m.path, m.label, rules[m.rule]] for m in case.masks]
        key = store.digest([base, case.case, case.image, prints, masks, faulty_labels(manifest, case.case)])
        found.append(Unit(case, key, sum(size for _, size, _ in prints)))
    return found


def _stamp(file: Path | os.stat_result | Stat | None) -> tuple[int, int]:
    """Size and time of a file; a link that leads nowhere has neither."""
    if file is None:
        return 0, 0
    try:
        found = file.stat() if isinstance(file, Path) else file
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def run(batch: Batch) -> list[dict[str, Any]]:
    """Slice the cases of a batch and commit them together; returns a short account of each.

    A fault of a case becomes its quarantine row, also one that kills or hangs the process that reads it.
    """
    with _near(batch, (name for unit in batch.units for name in files_of_case(unit.case, batch.root))) as near:
        return _run(near)


def _run(batch: Batch) -> list[dict[str, Any]]:
    fatal: dict[str, tuple[str, str]] = {}
    keys, killed = {unit.key for unit in batch.units}, Counter[str]()
    while True:
        try:
            accounts: list[dict[str, Any]] = isolate.call(_in_child, (batch, fatal), isolate.limits(batch.memory_limit))
        except isolate.Died as died:
            killed[died.at] += died.killed
            if died.killed and killed[died.at] < TRIES:  # by a person, or for what its neighbours took
                continue
            if died.at not in keys or died.at in fatal:
                raise Failure(f"the process that reads images does not work: {died.error.detail}") from died
            fatal[died.at] = (died.error.reason, died.error.detail)
        else:
            return accounts


@contextmanager
def _near(batch: Batch, names: Iterable[str]) -> Iterator[Batch]:
    """The batch with these raw files on this machine; what it leaves in its folder is put to where it belongs."""
    if not is_remote(batch.root) and not is_remote(batch.folder):
        yield batch
        return
    with tempfile.TemporaryDirectory(prefix="medglip-") as place:
        near = replace(batch, origin=str(batch.root.resolve()))
        if isinstance(batch.root, S3Path):
            near = replace(near, root=Path(place, "raw"))
            bring(batch.root, near.root, names)
        if isinstance(batch.folder, S3Path):
            near = replace(near, folder=Path(place, "out"))
        yield near
        if isinstance(batch.folder, S3Path):
            for path in files_of(near.folder / near.name):
                (batch.folder / path.name).upload(path)


def _in_child(job: tuple[Batch, dict[str, tuple[str, str]]]) -> list[dict[str, Any]]:
    """`run` in the child; cases that killed a child before have their error in the second part of the job."""
    from stages import cut  # what decodes and cuts is loaded in the child only

    return cut.run(*job)


def row(unit: Unit, batch: Batch, images: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> dict[str, Any]:
    """The case of a batch in the columns of `etl.schemas.CASES`: the facts of its images, its quarantine rows."""
    return {"key": unit.key, "case": unit.case.case, "encode_from": batch.encode_from,
            "root": batch.origin or str(batch.root.resolve()),
            "files": [*unit.case.files, *(m.path for m in unit.case.masks)], "images": images, "rejected": rejected}


def lost(batch: Batch) -> list[dict[str, Any]]:
    """Commit the cases of a batch that killed its workers."""
    with _near(batch, ()) as near:
        writer = BatchWriter(near.folder, near.name)
        for unit in near.units:
            error = ItemError("worker_lost", f"{unit.case.image}: the worker process died on this case each time")
            writer.case(row(unit, near, [], [reject(unit.case.case, error)]), [])
        writer.commit()
    return [{"images": 0, "quarantined": 1} for _ in batch.units]


def reject(case: str, error: ItemError, axis: str | None = None) -> dict[str, Any]:
    """The quarantine row of a case, or of one axis of it."""
    stage = "decode" if axis is None else "slice"
    return {"case": case, "axis": axis, "stage": stage, "reason": error.reason, "detail": error.detail}
