"""`build` and `stage`: from raw files to the dataset."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from etl.cli import fetch
from etl.cli.common import Manifests, Maps, Out, Raw, Source, manifests_of, maps_of, named, told
from etl.errors import UsageError
from etl.objects import is_remote
from stages import STAGES

Workers = Annotated[int, typer.Option(min=1, help="Worker processes on this machine.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a running Dask scheduler.")]
MemoryLimit = Annotated[str | None, typer.Option(help="Memory a worker may take for a case, as 8GB.")]
MinArea = Annotated[float | None, typer.Option(help="Least share of the image area [0.015].")]
Profile = Annotated[str | None, typer.Option(help="paper (0.015), small (0.001) or all (0).")]
EncodeFrom = Annotated[float | None, typer.Option(help="Encode slices from this share [min-area].")]
MinRegions = Annotated[int, typer.Option(min=1, help="Least regions of an image.")]
Axes = Annotated[str, typer.Option(help="Of volumes: axial, coronal, sagittal.")]
Stride = Annotated[int, typer.Option(min=1, help="Take every n-th slice of a volume.")]
MinSide = Annotated[int, typer.Option(min=1, help="Least height and width of an image, in pixels.")]
OnlyRedistributable = Annotated[bool, typer.Option(
    "--only-redistributable", help="Only sources whose license lets anyone pass the images on.")]  # fmt: skip
AcceptProposed = Annotated[bool, typer.Option("--accept-proposed", help="Use label mappings that nobody has reviewed.")]
Png = Annotated[bool | None, typer.Option("--png/--no-png", help="Images as files too [up to 100,000].")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget the stage results of these sources.")]
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


@told
def build(
    raw: Raw, source: Source = None, out: Out = Path("out"), manifests: Manifests = None, label_maps: Maps = None,
    workers: Workers = 2, scheduler: Scheduler = None, memory_limit: MemoryLimit = None,
    min_area: MinArea = None, profile: Profile = None, encode_from: EncodeFrom = None, min_regions: MinRegions = 1,
    axes: Axes = "axial,coronal,sagittal", stride: Stride = 1, min_side: MinSide = 32,
    only_redistributable: OnlyRedistributable = False, accept_proposed: AcceptProposed = False,
    png: Png = None, fresh: Fresh = False,
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


@told
def stage(
    name: Annotated[str, typer.Argument(help="fetch, decode, slice, validate, filter, harmonize, bbox or export.")],
    raw: Raw, source: Source = None, out: Out = Path("out"), manifests: Manifests = None, label_maps: Maps = None,
    workers: Workers = 2, scheduler: Scheduler = None, memory_limit: MemoryLimit = None,
    min_area: MinArea = None, profile: Profile = None, encode_from: EncodeFrom = None, min_regions: MinRegions = 1,
    axes: Axes = "axial,coronal,sagittal", stride: Stride = 1, min_side: MinSide = 32,
    only_redistributable: OnlyRedistributable = False, accept_proposed: AcceptProposed = False,
    png: Png = None, fresh: Fresh = False,
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
    fetch.bring(named(known, source), known, raw)


def _settled(given: dict[str, Any]) -> tuple[Any, dict[str, Any], list[Any]]:
    """(options, known manifests, chosen manifests) from the arguments of `build` and `stage`."""
    from stages.plan import Options
    from stages.slice import SliceParams

    if not given["raw"].is_dir():
        raise UsageError(f"--raw {given['raw']}: no such folder")
    if given["out"].is_file():
        raise UsageError(f"--out {given['out']}: is a file; name a folder")
    same = ("raw", "out", "workers", "scheduler", "encode_from", "min_regions", "only_redistributable",
            "accept_proposed", "png")
    options = Options(
        label_maps=maps_of(given["label_maps"]), memory_limit=_bytes(given["memory_limit"]),
        min_area=_area(given["min_area"], given["profile"]),
        slicing=SliceParams(_axes(given["axes"]), given["stride"], given["min_side"]), **{k: given[k] for k in same},
    )
    known = manifests_of(given["manifests"])
    return options, known, named(known, given["source"])
