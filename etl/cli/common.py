"""What all commands share: options with one meaning, errors told in one way, the manifests that are known."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.errors import Failure, MedglipError, UsageError
from etl.objects import place

BUNDLED = Path(__file__).resolve().parents[2]


def placed(text: str | Path) -> Path:
    """A folder, or a prefix on an object store, as an option says it."""
    if isinstance(text, Path):  # a default
        return text
    try:
        return place(text)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error


Source = Annotated[list[str] | None, typer.Option("--source", help="A source or group; may be repeated.")]
Raw = Annotated[Path, typer.Option("--raw", parser=placed, metavar="DIR_OR_URL",
                                   help="The folder, or s3:// prefix, that holds one folder per source.")]
RawFolder = Annotated[Path, typer.Option("--raw", help="The folder that holds one folder per source.")]
Out = Annotated[Path, typer.Option("--out", parser=placed, metavar="DIR_OR_URL",
                                   help="The folder, or s3:// prefix, where the dataset goes.")]
Built = Annotated[Path, typer.Argument(parser=placed, metavar="OUT", help="A built dataset: a folder or s3:// prefix.")]

Manifests = Annotated[Path | None, typer.Option("--manifests", help="More manifests, laid over the bundled ones.")]
Maps = Annotated[Path | None, typer.Option("--label-maps", help="More label maps, laid over the bundled ones.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def told(command: Callable[..., None]) -> Callable[..., None]:
    """Errors as one line on stderr: exit 2 for usage, 1 for everything else."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from etl.privacy import quiet

        quiet()
        try:
            command(*args, **kwargs)
        except MedglipError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None

    return run


def manifests_of(extra: Path | None) -> dict[str, Any]:
    """The bundled manifests by slug, with those of a folder laid over them."""
    from etl.manifests.load import load_manifests

    return dict(load_manifests(*(BUNDLED / "manifests", *([extra] if extra else []))))


def maps_of(extra: Path | None) -> tuple[Path, ...]:
    """The folders of label maps: the bundled one, and one laid over it."""
    if extra is not None and not extra.is_dir():
        raise UsageError(f"--label-maps {extra}: no such folder")
    return (BUNDLED / "label_maps", *([extra] if extra else []))


def named(known: dict[str, Any], wanted: list[str] | None) -> list[Any]:
    """The manifests of these sources and groups; all without any."""
    if not wanted:
        return list(known.values())
    found = [m for m in known.values() if m.slug in wanted or m.group in wanted]
    for name in wanted:
        if not any(name in (m.slug, m.group) for m in found):
            raise UsageError(f"no source or group '{name}'; `medglip-etl sources list` shows them")
    return found


def require_torch() -> None:
    """Failure with the way out where the packages of the model are missing."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        hint = "pip install 'medglip-etl[train]'"
        raise Failure(f"the model needs more packages ({error.name} is missing): {hint}") from error
