"""Decoding without a manifest: every image below a folder to NIfTI (volumes) or PNG (2D)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from etl import geometry, intensity, png, store
from etl.errors import ItemError
from etl.formats import Raster, read
from etl.inventory import stem, walk
from etl.nifti import save

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif",
            ".pgm", ".ppm")


def convert(source: Path, target: Path) -> Iterator[dict[str, Any]]:
    """Decode all images below `source`; one report for each: inputs, output, kind, shape, spacing, reason.

    Volumes are written canonical (RAS+), pictures as PNG; what cannot be read has output null and a reason.
    """
    root, names = (source.parent, [source.name]) if source.is_file() else (source, sorted(walk(source)))
    for name in names:
        if source.is_file() or name.lower().endswith(SUFFIXES):
            report = {"inputs": [name], "output": None, "kind": None, "shape": None, "spacing": None, "reason": None}
            try:
                yield report | _write(read(root / name), target / stem(name).replace("/", "-"))
            except ItemError as error:
                yield report | {"reason": error.reason, "detail": error.detail}


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
    if array.dtype != np.uint8:
        array = intensity.to_uint8(array, intensity.percentile_bounds(array, 0.5, 99.5))
    path = target.with_name(target.name + ".png")
    store.write_bytes(path, png.encode(np.ascontiguousarray(array, dtype=np.uint8)))
    spacing = None if raster.spacing is None else list(raster.spacing)
    return {"output": path.name, "kind": "image", "shape": list(array.shape), "spacing": spacing}
