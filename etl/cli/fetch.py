"""`sources fetch`, and what `stage fetch` shares with it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.cli.common import AsJson, Manifests, manifests_of, named, told
from etl.errors import Failure

Target = Annotated[Path, typer.Option("--raw", help="The folder that gets one folder per source; made if missing.")]


@told
def sources_fetch(source: str, raw: Target, manifests: Manifests = None, as_json: AsJson = False) -> None:
    """Download and unpack a source or group; where that needs a person, say what to do. Exit 0 if its files are there.

    Example: medglip-etl sources fetch amos2022 --raw /data
    """
    known = manifests_of(manifests)
    bring(named(known, [source]), known, raw, as_json=as_json)


def bring(chosen: Iterable[Any], known: Mapping[str, Any], raw: Path, *, as_json: bool = False) -> None:
    """Fetch these sources and print how each came out.

    Raises:
        Failure: some of them are not there now.
    """
    from stages import fetch

    raw.mkdir(parents=True, exist_ok=True)
    reports = fetch.run(chosen, known, raw)
    if as_json:
        rows = [{"slug": r.slug, "folder": str(r.folder), "state": r.state, "lines": r.lines} for r in reports]
        print(json.dumps({"sources": rows}))
    else:
        print("\n".join(r.text for r in reports))
    missing = [r.slug for r in reports if r.state != "there"]
    if missing:
        raise Failure(f"not there: {', '.join(missing)}")
