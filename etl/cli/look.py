"""`stats`, `quarantine`, `locate`: what is in a built dataset, what is not, and where it came from."""

import json

from etl.cli.common import AsJson, Built, told
from etl.errors import Failure
from stages import STAGES

BOOK = ("in", "out", "quarantined", "background")


@told
def stats(out: Built, as_json: AsJson = False) -> None:
    """The numbers of a built dataset.

    Example: medglip-etl stats out
    """
    from etl.store import read_json

    path = out / "dataset" / "stats.json"
    numbers = read_json(path)
    if numbers is None:
        raise Failure(f"{path} is not there; run `medglip-etl build` first")
    if as_json:
        print(json.dumps(numbers))
        return
    print(f"{numbers['images']} images, {numbers['regions']} regions")
    for what in ("modality", "source", "split"):
        for name, n in numbers["by"][what].items():
            print(f"{what:10} {name:40} {n['images']:9} images {n['regions']:9} regions")
    for level, books in numbers["books"].items():
        for stage, book in sorted(books.items(), key=lambda item: STAGES.index(item[0])):
            print(f"{level:10} {stage:12} " + ", ".join(f"{book[k]} {k}" for k in BOOK if k in book))


@told
def quarantine(out: Built, as_json: AsJson = False) -> None:
    """What came in and was not used, by source, stage and reason.

    Example: medglip-etl quarantine out
    """
    import pandas as pd

    from etl.store import opened

    files = sorted((out / "quarantine").glob("*.parquet"))
    if not files:
        raise Failure(f"no quarantine below {out}; run `medglip-etl build` first")
    rows = pd.concat([pd.read_parquet(opened(f), columns=["source", "stage", "reason"]) for f in files])
    by = rows.groupby(["source", "stage", "reason"]).size().reset_index(name="n")
    if as_json:
        print(json.dumps({"rows": len(rows), "by": by.to_dict("records")}))
    else:
        print(by.to_string(index=False))
        print(f"{len(rows)} rows; each with its detail in {out / 'quarantine'}")


@told
def locate(out: Built, region: str, as_json: AsJson = False) -> None:
    """A region (id or key) in its source: file, SHA-256, voxel and patient coordinates (mm, RAS+).

    Example: medglip-etl locate out 17
    """
    from stages.locate import locate as find

    print(json.dumps(find(out, region), indent=None if as_json else 1))
