"""The files that hold the pixels of a case, and bringing them from an object store to this machine."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path

from etl.errors import ItemError
from etl.objects import S3Path
from etl.sources.inventory import Case

HEADERS = (".mhd", ".hdr", ".nhdr", ".hdr.gz")
AT_ONCE = 8  # downloads


def files_of_case(case: Case, root: Path) -> list[str]:
    """Every file that holds pixels of the case, also the raw data beside a header."""
    named = [*case.files, *(m.path for m in case.masks)]
    beside = [str(p.relative_to(root)) for f in named if f.endswith(HEADERS) for p in _beside(root / f)]
    return list(dict.fromkeys([*named, *beside]))


def _beside(header: Path) -> list[Path]:
    from etl.formats import companions  # the readers take long to import and few sources need this

    try:
        return companions(header)
    except ItemError:  # the reader proper says what is wrong with it
        return []


def bring(root: S3Path, near: Path, names: Iterable[str]) -> None:
    """Copies these files below `root` to the same names below a folder of this machine; what is missing is left out."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(_brought, repeat(root), repeat(near), dict.fromkeys(names)))


def _brought(root: S3Path, near: Path, name: str) -> None:
    with suppress(FileNotFoundError):  # the readers say what is missing
        (root / name).download(near / name)
