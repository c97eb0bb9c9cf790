"""fetch: the files of a source below `--raw`: downloaded and unpacked, or, behind a registration, what to do.

What a source's downloads have brought is kept in the hidden folder `.fetch` of its folder: one JSON file a finished
entry with its files, the parts of unfinished ones beside. An entry is done again only if its files are gone.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from etl import store
from etl.download import Patience, download
from etl.errors import Failure, MedglipError, UsageError
from etl.manifests.manifest import Fetch, Manifest
from etl.manifests.patterns import compile_pattern, example
from etl.progress import Transfers
from etl.sources.inventory import inventory
from etl.unpack import Refused, move_in, unpack

STATE = ".fetch"
DOWNLOADS = 4  # at a time
SHOWN = 3  # rules whose paths a person is shown


@dataclass(frozen=True, slots=True)
class Fetched:
    """How a source came out: `there` (its files are at hand), `by hand` or `failed`; `lines` say it to a person."""

    slug: str
    folder: Path
    state: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join((f"{self.slug}: {self.lines[0]}", *self.lines[1:]))


@dataclass(frozen=True, slots=True)
class _Job:
    """One download of a source's folder."""

    root: Path
    entry: Fetch

    @property
    def name(self) -> str:
        """The name of its files in the state folder: another address, checksum or place is another job."""
        return store.digest(self.entry.model_dump(mode="json"))

    @property
    def state(self) -> Path:
        return self.root / STATE

    @property
    def record(self) -> Path:
        return self.state / f"{self.name}.json"

    def done(self) -> bool:
        """Whether it was done and everything it brought is still there."""
        record = store.read_json(self.record)
        return record is not None and all(_size(self.root / path) == size for path, size in record["files"].items())


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def run(
    chosen: Iterable[Manifest], known: Mapping[str, Manifest], raw: Path, patience: Patience = Patience()
) -> list[Fetched]:
    """Fetches these sources into their folders below `raw`; one report each, in their order.

    Sources of a group that share a download share the group's folder, and it is made once.
    """
    chosen = list(chosen)
    places = {m.slug: folder(m, known.values(), raw) for m in chosen}
    jobs: dict[str, list[_Job]] = {}
    reports: dict[str, Fetched] = {}
    for manifest in chosen:
        place = places[manifest.slug]
        reports[manifest.slug] = _at_hand(manifest, place)
        if reports[manifest.slug].state == "download":
            jobs[manifest.slug] = [_Job(place, entry) for entry in manifest.fetch]
    faults = _run({(j.root, j.name): j for js in jobs.values() for j in js}, patience)
    for manifest in chosen:
        if manifest.slug in jobs:
            found = [faults[j.root, j.name] for j in jobs[manifest.slug] if (j.root, j.name) in faults]
            reports[manifest.slug] = _outcome(manifest, places[manifest.slug], found)
    return [reports[m.slug] for m in chosen]


def folder(manifest: Manifest, known: Iterable[Manifest], raw: Path) -> Path:
    """Where the files of a source belong: the folder it has, else `folder`, the slug, or the group if it shares."""
    there = manifest.root(raw)
    if there is not None:
        return there
    if manifest.folder:
        return raw / manifest.folder
    urls = {entry.url for entry in manifest.fetch}
    shared = any(
        other.slug != manifest.slug and other.group == manifest.group and not other.folder
        and urls & {entry.url for entry in other.fetch}
        for other in known
    )  # fmt: skip
    return raw / (manifest.group if shared else manifest.slug)


def _at_hand(manifest: Manifest, place: Path) -> Fetched:
    """The report on a source before any download: there already, to be got by hand, or to be downloaded."""
    if not (place / STATE).exists() and (pairs := _pairs(manifest, place)):
        return Fetched(manifest.slug, place, "there", (f"{pairs} cases in {place}, put there by hand",))
    if manifest.access != "open" or not manifest.fetch:
        return Fetched(manifest.slug, place, "by hand", tuple(_by_hand(manifest, place)))
    return Fetched(manifest.slug, place, "download", ())


def _pairs(manifest: Manifest, place: Path) -> int:
    return len(inventory(manifest, place).cases) if place.is_dir() else 0


def _by_hand(manifest: Manifest, place: Path) -> Iterator[str]:
    """What a person has to do, line by line."""
    why = {
        "registration": "its publisher wants a registration first",
        "request": "its publisher gives it on request",
        "open": "no download address is known",
    }[manifest.access]
    yield f"cannot be downloaded by this program: {why}"
    where = manifest.homepage or f"a web search for '{manifest.title}'"
    yield f"  1. get it: {where} (licence: {manifest.license.name})"
    for entry in manifest.fetch:
        yield f"     file: {entry.url}" + (f" (SHA-256 {entry.sha256})" if entry.sha256 else "")
    yield f"  2. unpack it in: {place}"
    yield "     so that these files are there:"
    for rule in manifest.files[:SHOWN]:
        image = compile_pattern(rule.image)
        mask = f"  with  {example(compile_pattern(rule.mask, image))}" if rule.mask else ""
        yield f"       {example(image)}{mask}"
    if len(manifest.files) > SHOWN:
        yield f"       and those of {len(manifest.files) - SHOWN} more rules, see `sources show {manifest.slug}`"
    for table in manifest.tables:
        yield f"       {table.file}"
    yield f"  3. check it: medglip-etl sources check {manifest.slug} --raw {place.parent}"


def _run(jobs: Mapping[tuple[Path, str], _Job], patience: Patience) -> dict[tuple[Path, str], str]:
    """Does the jobs, some at a time; what went wrong with which."""
    faults: dict[tuple[Path, str], str] = {}
    todo = {key: job for key, job in jobs.items() if not job.done()}
    stop = threading.Event()
    with Transfers() as progress, ThreadPoolExecutor(DOWNLOADS) as pool:
        futures = {key: pool.submit(_do, job, patience, progress, stop) for key, job in todo.items()}
        try:
            for key, future in futures.items():
                try:
                    future.result()
                except (MedglipError, OSError) as error:
                    faults[key] = str(error)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return faults


def _do(job: _Job, patience: Patience, progress: Transfers, stop: threading.Event) -> None:
    """Download, unpack beside, move in, put on record: whatever is cut off is done again, and nothing twice."""
    entry, name = job.entry, file_name(job.entry.url)
    archive, staged = job.state / f"{job.name}-{name}", job.state / f"{job.name}.unpacked"
    with _locked(job.state, job.name):
        if job.done():
            return
        download(entry.url, archive, sha256=entry.sha256, patience=patience, tell=progress.told(name), stop=stop)
        shutil.rmtree(staged, ignore_errors=True)
        if entry.unpack == "none":
            staged.mkdir()
            archive.rename(staged / name)
        else:
            _unpack(archive, entry, staged)
        files = _listing(staged, PurePosixPath(entry.into))
        move_in(staged, job.root / entry.into)
        store.write_json(job.record, {"url": entry.url, "sha256": entry.sha256, "files": files})
        shutil.rmtree(staged, ignore_errors=True)
        archive.unlink(missing_ok=True)


def _unpack(archive: Path, entry: Fetch, staged: Path) -> None:
    """An archive that is refused stays only if it is the one of the manifest: another one may be there next time."""
    assert entry.unpack != "none"
    try:
        unpack(archive, entry.unpack, staged)
    except Refused:
        if entry.sha256 is None:
            archive.unlink()
        raise


def _listing(staged: Path, into: PurePosixPath) -> dict[str, int]:
    """The files on their way, by their path below the source's folder, with their sizes."""
    files: dict[str, int] = {}
    for path in sorted(staged.rglob("*")):
        if path.is_file():
            place = (into / path.relative_to(staged)).as_posix()
            if place.split("/")[0] == STATE:
                raise Failure(f"{place}: a download must not bring the folder {STATE}")
            files[place] = path.stat().st_size
    return files


@contextmanager
def _locked(state: Path, name: str) -> Iterator[None]:
    """One process at a time does a job; the operating system frees the lock of a process that died."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Failure(f"{state.parent}: another process is fetching this") from error
        yield


def file_name(url: str) -> str:
    """The name of the file at an address, as one safe path part."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name:
        raise UsageError(f"{url}: names no file")
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[-120:] or "file"


def _outcome(manifest: Manifest, place: Path, faults: list[str]) -> Fetched:
    if faults:
        return Fetched(manifest.slug, place, "failed", ("failed", *(f"  {fault}" for fault in faults)))
    pairs = _pairs(manifest, place)
    lines = [f"{pairs} cases in {place}"]
    if not pairs:
        lines.append(f"  they do not lie as the manifest says: `medglip-etl sources check {manifest.slug}` compares")
    return Fetched(manifest.slug, place, "there", tuple(lines))
