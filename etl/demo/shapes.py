"""Shapes and textures of the demo, and the regions that follow from them by counting pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]

MIN_AREA = 0.015
MIN_SIDE = 32


def ellipse(shape: Sequence[int], center: Sequence[float], radii: Sequence[float]) -> Mask:
    """Pixels of an axis-parallel ellipse or ellipsoid; center and radii in pixels, in the order of the axes."""
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    distance = sum(((g - c) / r) ** 2 for g, c, r in zip(grids, center, radii, strict=True))
    return np.asarray(distance <= 1.0)


def texture(rng: np.random.Generator, shape: Sequence[int], scale: float = 2.0, fine: float = 0.3) -> Floats:
    """Tissue-like grey values of mean 0 and deviation about 1: smooth patches and a share of fine noise."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(tuple(shape)), scale)
    return np.asarray(smooth / max(float(smooth.std()), 1e-9) + fine * rng.standard_normal(tuple(shape)))


def jitter(rng: np.random.Generator, values: Sequence[float], by: float = 1.5) -> tuple[float, ...]:
    """The values, each moved by at most `by`."""
    return tuple(float(v + rng.uniform(-by, by)) for v in values)


def contour(mask: Mask) -> Mask:
    """The one pixel wide, closed outline of a mask; filling it gives the mask again."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def vessels(rng: np.random.Generator, size: int, start: tuple[float, float], count: int) -> Mask:
    """Thin wandering lines on a square picture, all from one point (row, column)."""
    out = np.zeros((size, size), dtype=bool)
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.uniform(0, 1):
        row, column, heading = start[0], start[1], float(angle)
        for _ in range(size):
            row, column = row + np.sin(heading), column + np.cos(heading)
            if not (0 <= row < size and 0 <= column < size):
                break
            out[int(row), int(column)] = True
            heading += float(rng.normal(0, 0.12))
    return out


@dataclass
class Expected:
    """Rows of `expected.parquet`, filled while the demo is drawn."""

    rows: list[dict[str, object]] = field(default_factory=list)

    def picture(self, source: str, case: str, regions: Sequence[tuple[str, Mask]], frame: int = 0) -> None:
        """Regions (label, mask of shape rows × columns) of a 2D image, or of one frame of a sequence."""
        for label, mask in regions:
            self._add(source, case, "native", frame, label, mask)

    def slice(self, source: str, case: str, axis: str, regions: Sequence[tuple[str, Mask]]) -> None:
        """Regions (label, mask of shape rows × columns) of a volume of one slice."""
        for label, mask in regions:
            self._add(source, case, axis, 0, label, mask)

    def boxes(self, source: str, case: str, shape: tuple[int, int], regions: Sequence[tuple[str, Box]]) -> None:
        """Regions (label, box x, y, width, height) of a 2D image: every pixel that a box touches."""
        rows, columns = np.indices(shape)
        for label, (x, y, width, height) in regions:
            touched = (columns + 1 > x) & (columns < x + width) & (rows + 1 > y) & (rows < y + height)
            self._add(source, case, "native", 0, label, touched)

    def volume(self, source: str, case: str, masks: Mapping[str, Mask]) -> None:
        """Regions of a volume: label → mask `V[i, j, k]` on the RAS+ grid, cut along the three axes."""
        for label, v in masks.items():
            ni, nj, nk = v.shape
            if min(ni, nj) >= MIN_SIDE:
                for k in range(nk):
                    self._add(source, case, "axial", k, label, v[::-1, ::-1, k].T)
            if min(ni, nk) >= MIN_SIDE:
                for j in range(nj):
                    self._add(source, case, "coronal", j, label, v[::-1, j, ::-1].T)
            if min(nj, nk) >= MIN_SIDE:
                for i in range(ni):
                    self._add(source, case, "sagittal", i, label, v[i, ::-1, ::-1].T)

    def _add(self, source: str, case: str, axis: str, index: int, label: str, mask: Mask) -> None:
        area = int(np.count_nonzero(mask))
        height, width = mask.shape
        if area == 0 or area < MIN_AREA * width * height:
            return
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        box = [float(x), float(y), float(int(columns[-1]) - x + 1), float(int(rows[-1]) - y + 1)]
        self.rows.append(
            {
                "source": source,
                "case": case,
                "axis": axis,
                "slice_index": index,
                "label": label,
                "bbox": box,
                "area": area,
            }
        )
