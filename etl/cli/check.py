"""Commands that look at a built dataset: leakcheck, diff, report."""

import json
from pathlib import Path
from typing import Annotated

import typer

from etl.cli.common import AsJson, Manifests, manifests_of, told


@told
def leakcheck(
    paths: Annotated[list[Path], typer.Argument(help="Built datasets, or CSV files with path, subject, split.")],
    manifests: Manifests = None,
    as_json: AsJson = False,
) -> None:
    """Subjects and near-identical images that splits share; exit 1 when there are any.

    Example: medglip-etl leakcheck out
    """
    from etl.quality.leakcheck import leaks
    from etl.sources.splits import families

    found = leaks(paths, families(manifests_of(manifests).values()))
    if as_json:
        print(json.dumps(found))
    else:
        for s in found["subjects"]:
            print(f"subject {s['subject']}: {', '.join(s['splits'])} ({s['n']} images)")
        for pair in found["near_identical"]:
            print(f"near identical: {pair['a']} ({pair['splits'][0]}) and {pair['b']} ({pair['splits'][1]})")
        print(f"{found['leaks']} leaks")
    if found["leaks"]:
        raise typer.Exit(1)


@told
def diff(one: Path, two: Path, as_json: AsJson = False) -> None:
    """What the second dataset has more, less and otherwise than the first, by key.

    Example: medglip-etl diff out-before out-after
    """
    from etl.quality.compare import compare

    found = compare(one, two)
    if as_json:
        print(json.dumps(found))
        return
    for what in ("images", "regions"):
        print(f"{what:8} " + ", ".join(f"{n} {kind}" for kind, n in found[what].items()))
    print(f"{found['moved_split']} images in another split")
    for row in found["labels"]:
        print(f"{row['label']:40} +{row['added']} -{row['removed']} changed {row['changed']}")


@told
def report(out: Path) -> None:
    """Write the HTML page of a built dataset again, and say where it is.

    Example: medglip-etl report out
    """
    from etl.quality.report import rewrite

    print(rewrite(out))
