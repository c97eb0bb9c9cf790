"""`export`: other formats from a built dataset."""

import json
from pathlib import Path
from typing import Annotated

import typer

from etl.cli.common import AsJson, Built, placed, told
from etl.exports import FORMATS

Format = Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")]
To = Annotated[Path | None, typer.Option("--to", parser=placed, metavar="DIR_OR_URL",
                                         help="The folder, or s3:// prefix, it goes to. Default: OUT/exports/FORMAT.")]
Split = Annotated[list[str] | None, typer.Option("--split", help="train, val or test; may be repeated. Default: all.")]
Level = Annotated[str, typer.Option(help="What the classes are: category (38) or label (198).")]
Images = Annotated[bool, typer.Option("--images/--no-images", help="Without: file names are below OUT/dataset/images.")]


@told
def export(
    out: Built,
    name: Format,
    to: To = None,
    split: Split = None,
    level: Level = "category",
    images: Images = True,
    as_json: AsJson = False,
) -> None:
    """Write a built dataset in the format of another tool; docs/exports.md says how to load each.

    Example: medglip-etl export out --format cvat --to for-cvat --split val
    """
    from etl.exports.run import export as write
    from etl.release.records import SPLITS

    done = write(out, name, to=to, splits=split or SPLITS, level=level, images=images)
    print(json.dumps(done) if as_json else f"{done['images']} images, {done['regions']} regions in {done['to']}")
