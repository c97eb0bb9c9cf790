"""The raw volumes behind the slices: any slice along any axis, in any grey window, where their files are at hand.

A volume is read in a child process with limits, as in a build, and lies in a temporary file as a plain array, so that
a slice is cut without holding the volume in memory.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etl import isolate
from etl.errors import Failure, ItemError
from etl.manifests.manifest import Manifest
from etl.objects import S3Path, is_remote, place
from etl.pixels import geometry, intensity
from etl.sources.casefiles import bring, files_of_case
from etl.sources.inventory import Case, Inventory, inventory
from etl.store import read_table

KEPT = 4  # volumes in temporary files
CT_WINDOW = (40.0, 400.0)
PERCENTILE = (0.5, 99.5)
PRESETS = (("soft tissue", 40, 400), ("lung", -600, 1500), ("bone", 400, 1800), ("brain", 40, 80), ("liver", 70, 150))
"""Usual CT windows: name, centre, width in Hounsfield units."""


@dataclass(frozen=True, slots=True)
class Volume:
    """An RAS+ volume (i, j, k) in a file, and the centre and width of the window that it is first shown in."""

    path: Path
    shape: tuple[int, int, int]
    center: float
    width: float

    def plane(self, axis: str, index: int, center: float, width: float) -> npt.NDArray[np.uint8]:
        """A slice in 8 bit, as the dataset cuts and windows it."""
        volume = np.load(self.path, mmap_mode="r", allow_pickle=False)
        plane = geometry.plane(volume, axis, index)
        return np.ascontiguousarray(intensity.to_uint8(plane, intensity.window_bounds(center, width)))


class Volumes:
    """Finds and reads the raw volumes of cases: below `raw`, else where the build read them."""

    def __init__(self, manifests: Mapping[str, Manifest], raw: Path | None, out: Path | None) -> None:
        self._manifests, self._raw, self._out = manifests, raw, out
        self._folder = tempfile.TemporaryDirectory(prefix="medglip-explore-")
        self._reader = ThreadPoolExecutor(1)  # one child process for all
        self._kept: OrderedDict[tuple[str, str], Volume] = OrderedDict()
        self._number = 0
        self._cases = lru_cache(16)(lambda slug, root: inventory(manifests[slug], root))
        self.root = lru_cache(256)(self._root)

    def _root(self, source: str) -> Path | None:
        """The raw folder of a source, or its prefix on an object store; None if there is no such folder."""
        manifest = self._manifests.get(source)
        if manifest is None:
            return None
        if self._raw is not None:
            return manifest.root(self._raw)
        if self._out is None:
            return None
        for path in sorted((self._out / "stages" / "slice" / source).glob("*.cases.parquet")):
            for root in read_table(path, ["root"])["root"].to_pylist():
                found = place(root)  # a store is asked only when a volume is wanted
                return found if is_remote(found) or found.is_dir() else None
        return None

    def close(self) -> None:
        """Removes the temporary files."""
        self._reader.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def volume(self, source: str, case: str) -> Volume:
        """The volume of a case.

        Raises:
            Failure: its files are not here, or cannot be read, or are no volume; says which.
        """
        root = self.root(source)
        if root is None:
            raise Failure(f"the raw files of {source} are not here; start with --raw, and --manifests for its manifest")
        return self._reader.submit(self._read, source, case, root).result()

    def _read(self, source: str, case: str, root: Path) -> Volume:
        if (source, case) in self._kept:
            self._kept.move_to_end((source, case))
            return self._kept[source, case]
        manifest = self._manifests[source]
        member = case_of(self._cases(source, root), case)
        self._number += 1
        path = Path(self._folder.name) / f"{self._number}.npy"
        try:
            with _near(root, member) as near:
                told = isolate.call(_write, (member, manifest, near, case, path))
        except isolate.Died as died:
            raise Failure(f"{source}/{case}: {died.error.detail}") from died
        if "error" in told:
            raise Failure(f"{source}/{case}: {told['error']}")
        i, j, k = told["shape"]
        found = self._kept[source, case] = Volume(path, (i, j, k), told["center"], told["width"])
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)[1].path.unlink(missing_ok=True)
        return found


@contextmanager
def _near(root: Path, member: Case) -> Iterator[Path]:
    """The raw folder; of one on an object store a copy of the files of this case."""
    if not isinstance(root, S3Path):
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="medglip-") as folder:
        bring(root, Path(folder), files_of_case(member, root))
        yield Path(folder)


def case_of(found: Inventory, name: str) -> Case:
    """The case of this name, or that a channel or time of this name is of."""
    member = next((c for c in found.cases if name == c.case), None)
    member = member or next((c for c in found.cases if name.startswith(f"{c.case}-")), None)
    if member is None:
        raise Failure(f"no raw file of the case {name} is there (sources under pseudonyms are not traced back)")
    return member


def _write(job: tuple[Case, Manifest, Path, str, Path]) -> dict[str, Any]:
    """In the child: the volume of a case as a .npy file; its shape, and the window to begin with, or an error."""
    from etl.sources.case import load

    member, manifest, root, name, path = job
    try:
        loaded = next((item for item in load(member, manifest, root, lambda _, __: None) if item.case == name), None)
        if loaded is None or loaded.volume is None:
            return {"error": "it is a picture, not a volume" if loaded else "its raw file has no image of this name"}
        low, high = _bounds(loaded.volume, manifest)
    except ItemError as error:
        return {"error": error.detail}
    np.save(path, loaded.volume, allow_pickle=False)
    return {"shape": loaded.volume.shape[:3], "center": (low + high) / 2, "width": max(high - low, 1e-6)}


def _bounds(volume: npt.NDArray[Any], manifest: Manifest) -> tuple[float, float]:
    view = manifest.view
    if view and view.window and not isinstance(view.window, str):
        return intensity.window_bounds(view.window.center, view.window.width)
    if volume.dtype == np.uint8:
        return 0.0, 255.0
    if manifest.modality == "ct":
        return intensity.window_bounds(*CT_WINDOW)
    return intensity.percentile_bounds(volume, *(view.percentile if view and view.percentile else PERCENTILE))
