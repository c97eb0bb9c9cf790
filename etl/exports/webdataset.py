"""WebDataset: tar shards, in which an image and its facts are neighbours of one name."""

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from etl.errors import UsageError
from etl.exports.job import Job, Row
from etl.release.shards import SHARD_BYTES


def write(job: Job, folder: Path) -> None:
    """`<split>-000000.tar`, …: `<source>/<case>/<axis>-<index>.png` and `.json` (the row of the shard without pixels).

    Raises:
        UsageError: without images.
    """
    if not job.images:
        raise UsageError("--no-images: a tar shard is nothing without its images")
    for split in job.splits:
        rows = job.rows(split)
        row, number = next(rows, None), 0
        while row is not None or number == 0:
            with shard(folder / f"{split}-{number:06d}.tar") as tar:
                while row is not None and tar.offset < SHARD_BYTES:
                    add(tar, row)
                    row = next(rows, None)
            number += 1


@contextmanager
def shard(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar file to fill."""
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        yield tar


def add(tar: tarfile.TarFile, row: Row) -> None:
    """Adds an image: the bytes depend on nothing but the row."""
    facts = {name: value for name, value in row.items() if name != "image"}
    name = row["file_name"].removesuffix(".png")
    for suffix, data in (("json", orjson.dumps(facts)), ("png", row["image"]["bytes"])):
        member = tarfile.TarInfo(f"{name}.{suffix}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
