"""`explore`: the local web explorer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.cli.common import Manifests, Maps, manifests_of, maps_of, placed, told
from etl.errors import Failure, UsageError
from etl.objects import place

NEEDED = "explore needs more packages: pip install 'medglip-etl[explore]'"


@told
def explore(
    out: Annotated[str, typer.Argument(help="A built dataset: the folder that --out named, or its s3:// address.")],
    bundle: Annotated[Path | None, typer.Option(help="A trained model, for the Model page.")] = None,
    raw: Annotated[Path | None, typer.Option(parser=placed, metavar="DIR_OR_URL",
                                             help="The raw folders, where they are not as in the build.")] = None,
    manifests: Manifests = None,
    label_maps: Maps = None,
    review: Annotated[bool, typer.Option("--review", help="Decide on label maps: writes to --label-maps.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine's loopback; 0: any free one.")] = 8700,
) -> None:
    """See a dataset in the browser: figures, images, what was not used, labels; with --review, decide on labels.

    Only this machine can reach it. Without --review it writes nothing but its index, into the user's cache.

    Example: medglip-etl explore out --review --label-maps label_maps
    """
    try:
        from etl.explore.app import Settings, serve
    except ImportError as error:
        raise UsageError(f"{NEEDED} ({error.name} is missing)") from error

    for name, folder in (("--raw", raw), ("--bundle", bundle)):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{name} {folder}: no such folder")
    serve(Settings(out, manifests_of(manifests), maps_of(label_maps), raw, review, locator(out), expert(bundle)), port)


def locator(out: str) -> Any:
    """What says where a box of a row comes from."""
    from stages.locate import origin

    return lambda row, bbox: {"bbox": bbox} | origin(place(out), row, bbox)


def expert(bundle: Path | None) -> Any:
    """The model of a bundle for the Model page."""
    if bundle is None:
        return None
    try:
        from glip.ground import Grounder
    except ImportError as error:
        raise UsageError(f"--bundle needs torch: pip install 'medglip-etl[train]' ({error.name} is missing)") from error
    from etl.explore.model import Expert

    grounder, reader = Grounder.load(bundle), ThreadPoolExecutor(1)

    def ground(image: Any, prompt: str, modality: str | None) -> Sequence[Any]:
        return [(b.phrase, b.score, b.bbox) for b in grounder.ground(image, prompt, modality=modality)]

    def read(path: Path, modality: str | None) -> Any:
        return reader.submit(_read, path, modality).result()

    return Expert(bundle.name, grounder.modalities, ground, read)


def _read(path: Path, modality: str | None) -> Any:
    """The picture of an uploaded file, read in a child with limits: a file of others may be anything."""
    import numpy as np

    from etl import isolate

    target = path.with_name("pixels.npy")
    try:
        error = isolate.call(_view, (path, modality, target))
    except isolate.Died as died:
        raise Failure(f"the file cannot be read: {died.error.detail}") from died
    if error:
        raise UsageError(f"the file cannot be read: {error}")
    return np.load(target, allow_pickle=False)


def _view(job: tuple[Path, str | None, Path]) -> str:
    """In the child: the only image of a file, or its middle slice, as a .npy file; what is wrong, or nothing."""
    import numpy as np

    from etl.errors import ItemError
    from glip.slices import views

    path, modality, target = job
    try:
        found = list(views(path, modality))
    except ItemError as error:
        return error.detail
    np.save(target, found[len(found) // 2].image, allow_pickle=False)
    return ""
