"""`decode` and `demo`: raw files without a manifest, and raw files to try with."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from etl.cli.common import told
from etl.errors import Failure, UsageError


@told
def decode(path: Path, out_dir: Path) -> None:
    """Decode every image below PATH without a manifest; JSON lines on stdout.

    Example: medglip-etl decode downloads/ decoded/
    """
    from stages.convert import convert

    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    reports = list(_printed(convert(path, out_dir)))
    if not any(report["output"] for report in reports):
        raise Failure(f"no image below {path} could be decoded")


def _printed(reports: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for report in reports:
        print(json.dumps(report), flush=True)
        yield report


@told
def demo(folder: Path) -> None:
    """Write the embedded demo: raw files, manifests, label maps and the boxes to expect.

    Example: medglip-etl demo demo
    """
    from etl.demo.build import write_demo

    if folder.is_file():
        raise UsageError(f"{folder}: is a file; name a folder")
    write_demo(folder)
    print(f"demo written to {folder}")
