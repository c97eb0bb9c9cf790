"""The command line: the only place where stages, settings and terminal meet."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.cli import check as cli_check
from etl.cli import downstream as cli_downstream
from etl.cli import evaluate as cli_evaluate
from etl.cli import experiment as cli_experiment
from etl.cli import explore as cli_explore
from etl.cli import export as cli_export
from etl.cli import fetch as cli_fetch
from etl.cli import labels as cli_labels
from etl.cli import sources as cli_sources
from etl.cli import train as cli_train
from etl.cli.common import BUNDLED, AsJson, Built, Manifests, Maps, Out, Raw, Source, manifests_of, named, told
from etl.errors import Failure, UsageError
from etl.objects import is_remote
from stages import STAGES

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for some reads every installed package: 15 ms
app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,  # drawing boxes costs a third of the time of `--help`
)
cli_sources.app.command("fetch")(cli_fetch.sources_fetch)
app.add_typer(cli_sources.app, name="sources")
cli_train.register(app)
cli_experiment.register(app)
app.add_typer(cli_labels.labels_app, name="labels")
app.add_typer(cli_downstream.downstream_app, name="downstream")
for command in (cli_check.leakcheck, cli_check.diff, cli_check.report, cli_evaluate.evaluate, cli_explore.explore,
                cli_export.export):  # fmt: skip
    app.command()(command)

BOOK = ("in", "out", "quarantined", "background")
PROFILES = {"paper": 0.015, "small": 0.001, "all": 0.0}


def _area(min_area: float | None, profile: str | None) -> float:
    if min_area is not None and profile is not None:
        raise UsageError("--min-area and --profile say the same thing twice; give one of them")
    if profile is not None and profile not in PROFILES:
        raise UsageError(f"--profile {profile}: it is one of {', '.join(PROFILES)}")
    if min_area is not None and not 0 <= min_area <= 1:
        raise UsageError(f"--min-area {min_area:g}: it is a share of the image area, from 0 to 1")
    return PROFILES[profile] if profile else 0.015 if min_area is None else min_area


def _bytes(text: str | None) -> int | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([MG])(i?)B?", text or "")
    if text is not None and not found:
        raise UsageError(f"--memory-limit {text}: a number with MB, GB, MiB or GiB, as 8GB")
    if not found:
        return None
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** {"M": 2, "G": 3}[found[2]])


def _axes(text: str) -> tuple[str, ...]:
    axes = tuple(a.strip() for a in text.split(",") if a.strip())
    wrong = [a for a in axes if a not in ("axial", "coronal", "sagittal")]
    if wrong or not axes:
        raise UsageError(f"--axes {text}: a list of axial, coronal, sagittal")
    return axes


@app.command()
@told
def build(
    raw: Raw,
    source: Source = None,
    out: Out = Path("out"),
    manifests: Manifests = None,
    label_maps: Maps = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes on this machine.")] = 2,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler.")] = None,
    memory_limit: Annotated[str | None, typer.Option(help="Memory a worker may take for a case, as 8GB.")] = None,
    min_area: Annotated[float | None, typer.Option(help="Least share of the image area [0.015].")] = None,
    profile: Annotated[str | None, typer.Option(help="paper (0.015), small (0.001) or all (0).")] = None,
    encode_from: Annotated[float | None, typer.Option(help="Encode slices from this share [min-area].")] = None,
    min_regions: Annotated[int, typer.Option(min=1)] = 1,
    axes: Annotated[str, typer.Option()] = "axial,coronal,sagittal",
    stride: Annotated[int, typer.Option(min=1)] = 1,
    min_side: Annotated[int, typer.Option(min=1)] = 32,
    only_redistributable: Annotated[bool, typer.Option("--only-redistributable")] = False,
    accept_proposed: Annotated[bool, typer.Option("--accept-proposed")] = False,
    png: Annotated[bool | None, typer.Option("--png/--no-png")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the stage results of these sources.")] = False,
) -> None:
    """All stages, then export.

    Example: medglip-etl build --source amos2022 --raw /data --out out
    """
    from stages import pipeline

    options, known, chosen = _settled(locals())
    if fresh:
        pipeline.forget(chosen, options)
    stats = pipeline.build(chosen, known, options, named=bool(source))
    print(f"{stats['images']} images, {stats['regions']} regions in {out / 'dataset'}")


@app.command()
@told
def stage(
    name: Annotated[str, typer.Argument(help="fetch, decode, slice, validate, filter, harmonize, bbox or export.")],
    raw: Raw,
    source: Source = None,
    out: Out = Path("out"),
    manifests: Manifests = None,
    label_maps: Maps = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes on this machine.")] = 2,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler.")] = None,
    memory_limit: Annotated[str | None, typer.Option(help="Memory a worker may take for a case, as 8GB.")] = None,
    min_area: Annotated[float | None, typer.Option(help="Least share of the image area [0.015].")] = None,
    profile: Annotated[str | None, typer.Option(help="paper (0.015), small (0.001) or all (0).")] = None,
    encode_from: Annotated[float | None, typer.Option(help="Encode slices from this share [min-area].")] = None,
    min_regions: Annotated[int, typer.Option(min=1)] = 1,
    axes: Annotated[str, typer.Option()] = "axial,coronal,sagittal",
    stride: Annotated[int, typer.Option(min=1)] = 1,
    min_side: Annotated[int, typer.Option(min=1)] = 32,
    only_redistributable: Annotated[bool, typer.Option("--only-redistributable")] = False,
    accept_proposed: Annotated[bool, typer.Option("--accept-proposed")] = False,
    png: Annotated[bool | None, typer.Option("--png/--no-png")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the stage results of these sources.")] = False,
) -> None:
    """One stage, on the results of the stages before it.

    Example: medglip-etl stage slice --source amos2022 --raw /data --out out
    """
    from stages import pipeline

    if name not in STAGES:
        raise UsageError(f"no stage '{name}'; the stages are {' '.join(STAGES)}")
    if name == "fetch":
        return _fetch(raw, source, manifests)
    options, known, chosen = _settled(locals())
    if fresh:
        pipeline.forget(chosen, options)
    print(pipeline.run_stage(name, chosen, known, options))


def _fetch(raw: Path, source: list[str] | None, manifests: Path | None) -> None:
    """`stage fetch`: never all sources at once by mistake, they are terabytes."""
    if not source:
        raise UsageError("fetch: name what to fetch, with --source S for each source or group")
    if is_remote(raw):
        raise UsageError(f"--raw {raw}: fetch brings files to a folder of this machine; copy that to the store")
    known = manifests_of(manifests)
    cli_fetch.bring(named(known, source), known, raw)


def _settled(given: dict[str, Any]) -> tuple[Any, dict[str, Any], list[Any]]:
    """(options, known manifests, chosen manifests) from the arguments of `build` and `stage`."""
    from stages.plan import Options
    from stages.slice import SliceParams

    if not given["raw"].is_dir():
        raise UsageError(f"--raw {given['raw']}: no such folder")
    more = [given["label_maps"]] if given["label_maps"] else []
    same = ("raw", "out", "workers", "scheduler", "encode_from", "min_regions", "only_redistributable",
            "accept_proposed", "png")
    options = Options(
        label_maps=(BUNDLED / "label_maps", *more), memory_limit=_bytes(given["memory_limit"]),
        min_area=_area(given["min_area"], given["profile"]),
        slicing=SliceParams(_axes(given["axes"]), given["stride"], given["min_side"]), **{k: given[k] for k in same},
    )
    known = manifests_of(given["manifests"])
    return options, known, named(known, given["source"])


@app.command()
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


@app.command()
@told
def locate(out: Built, region: str, as_json: AsJson = False) -> None:
    """A region (id or key) in its source: file, SHA-256, voxel and patient coordinates (mm, RAS+).

    Example: medglip-etl locate out 17
    """
    from stages.locate import locate as find

    print(json.dumps(find(out, region), indent=None if as_json else 1))


@app.command()
@told
def demo(folder: Path) -> None:
    """Write the embedded demo: raw files, manifests, label maps and the boxes to expect.

    Example: medglip-etl demo demo
    """
    from etl.demo.build import write_demo

    write_demo(folder)
    print(f"demo written to {folder}")


@app.command()
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


@app.command()
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


if __name__ == "__main__":
    app()
