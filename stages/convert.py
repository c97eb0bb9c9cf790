"""Decoding without a manifest: every image below a folder to NIfTI (volumes) or PNG (2D)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from etl import isolate, store
from etl.dicom.file import is_dicom_file
from etl.errors import ItemError
from etl.formats import Raster, read
from etl.formats.nifti import save
from etl.pixels import geometry, intensity, png
from etl.sources.inventory import stem, walk

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif",
            ".pgm", ".ppm")
EMPTY = {"output": None, "kind": None, "shape": None, "spacing": None, "reason": None}


def convert(source: Path, target: Path) -> Iterator[dict[str, Any]]:
    """Decode all images below `source`; one report for each: inputs, output, kind, shape, spacing, reason.

    Volumes are written canonical (RAS+) as NIfTI, pictures as PNG, a sequence of frames as a folder of PNGs. DICOM
    files are known by content and joined by series. What cannot be read has output null and a reason.
    """
    root, names = (source.parent, [source.name]) if source.is_file() else (source, sorted(walk(source)))
    used: set[str] = set()
    dicom = [name for name in names if is_dicom_file(root / name)]
    for name in names:
        if name not in dicom and (source.is_file() or name.lower().endswith(SUFFIXES)):
            yield from _isolated([name], _one, (root / name, target / _unused(stem(name), used)))
    if not dicom:
        return
    for group in isolate.call(_series, [root / name for name in dicom]):
        inputs = [str(Path(path).relative_to(root)) for path in group]
        yield from _isolated(inputs, _group, (root, group, target, _unused(_name(inputs), used)))


def _name(inputs: list[str]) -> str:
    """What the output of these files is called: as the file, or as the folder of a series."""
    return stem(inputs[0]) if len(inputs) == 1 else str(Path(inputs[0]).parent).replace("/", "-").strip(".") or "series"


def _unused(name: str, used: set[str]) -> str:
    name = name.replace("/", "-")
    chosen = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(used) + 3))) if n not in used)
    used.add(chosen)
    return chosen


def _isolated(inputs: list[str], work: Any, job: Any) -> Iterator[dict[str, Any]]:
    """The reports of some files from the child that reads them; its death is their reason."""
    try:
        for report in isolate.call(work, job):
            yield {"inputs": inputs} | EMPTY | report
    except isolate.Died as died:
        yield {"inputs": inputs} | EMPTY | {"reason": died.error.reason, "detail": died.error.detail}


def _series(paths: list[Path]) -> list[list[str]]:
    from etl.dicom import read as dicom

    return [[str(path) for path in group] for group in dicom.series(paths)]


def _one(job: tuple[Path, Path]) -> list[dict[str, Any]]:
    path, target = job
    try:
        return [_write(read(path), target)]
    except ItemError as error:
        return [{"reason": error.reason, "detail": error.detail}]


def _group(job: tuple[Path, list[str], Path, str]) -> list[dict[str, Any]]:
    """The images of the files of one DICOM series."""
    from etl.dicom import read as dicom

    root, group, target, name = job
    images, refused = dicom.find([Path(path) for path in group])
    several = len(images) > 1
    reports = []
    for number, image in enumerate(images, 1):
        files = {"inputs": _below(root, image.files)}
        try:
            reports.append(files | _write(image.read(), target / (f"{name}-{number}" if several else name)))
        except ItemError as error:
            reports.append(files | {"reason": error.reason, "detail": error.detail})
    lost = {"inputs": sorted(set(_below(root, map(Path, group))) - {f for r in reports for f in r["inputs"]})}
    for item in refused:
        reports.append(lost | {"reason": item.error.reason, "detail": f"{item.title}: {item.error.detail}"})
    return reports


def _below(root: Path, paths: Iterable[Path]) -> list[str]:
    return [str(path.relative_to(root)) for path in paths]


def _write(raster: Raster, target: Path) -> dict[str, Any]:
    if raster.affine is not None and raster.array.ndim >= 3:
        to = geometry.orientation(raster.affine)
        array = geometry.canonical(raster.array, to)
        affine = geometry.canonical_affine(raster.affine, raster.array.shape, to)
        path = target.with_name(target.name + ".nii.gz")
        save(path, array, affine)
        return {"output": path.name, "kind": "volume", "shape": list(array.shape),
                "spacing": list(geometry.spacing(affine))}
    array = raster.array if raster.affine is None else raster.array.T
    view, invert = _view(raster), bool(raster.scan and raster.scan.invert)
    spacing = None if raster.spacing is None else list(raster.spacing)
    if raster.scan is not None and raster.scan.cine:
        for number, frame in enumerate(array):
            isolate.alive()
            store.write_bytes(target / f"{number:04d}.png", png.encode(intensity.to_grey(frame, view, invert=invert)))
        return {"output": target.name, "kind": "frames", "shape": list(array.shape), "spacing": spacing}
    path = target.with_name(target.name + ".png")
    store.write_bytes(path, png.encode(intensity.to_grey(array, view, invert=invert)))
    return {"output": path.name, "kind": "image", "shape": list(array.shape), "spacing": spacing}


def _view(raster: Raster) -> intensity.View | None:
    """The grey view of a picture: 8 bit as it is, a DICOM file's own, else percentiles."""
    if raster.array.dtype == np.uint8:
        return None
    own = raster.scan and (raster.scan.window or raster.scan.curve)
    return own or intensity.percentile_bounds(raster.array, 0.5, 99.5)
