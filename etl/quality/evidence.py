"""What can be seen in an image and its layers once they are loaded: the facts that `etl.quality.checks` judges later.

Nothing here decides anything; thresholds may change without a look at the pixels.
"""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from skimage import measure

from etl import kernels
from etl.kinds import Layer
from etl.pixels import geometry, hashes, planes
from etl.sources.case import Loaded

Array = NDArray[Any]

SAMPLE = 1 << 20  # values looked at for counts
LOOK = 160  # longest side, in pixels, at which edges are compared
PLANES = 3  # planes an axis that are compared, those with most of the annotation around them
REACH = 0.2  # largest shift looked for, of a side
CT_RANGE = (-160.0, 240.0)  # Hounsfield units in which edges of CT are looked for
SPECK = 4  # pixels of a part that is hardly one
AIR = -930.0  # Hounsfield units around a patient; lungs are above
MANY = 1024  # distinct values that count as many


def seen(loaded: Loaded, modality: str) -> dict[str, Any]:
    """The facts of an image, plain values for JSON.

    `sketch`: see `hashes.sketch`, base64. `values`: see `_values`. `repeats`: how many pairs of neighbouring slices
    are equal, by axis. `edges`: see `_agreement`, one for each axis looked at.
    """
    whole = loaded.volume if loaded.volume is not None else loaded.frames[0]
    colour = loaded.volume is None and whole.ndim == 3
    facts: dict[str, Any] = {"values": _values(whole, modality, colour), "repeats": _repeats(loaded)}
    facts["sketch"] = base64.b64encode(hashes.sketch(whole, colour).tobytes()).decode()
    window = CT_RANGE if modality == "ct" and whole.dtype.itemsize > 1 else None
    facts["edges"] = [_agreement(axis, loaded, window) for axis in _looked_at(loaded)]
    return facts


def _values(array: Array, modality: str, colour: bool) -> dict[str, Any]:
    """Counts of a sample of the values.

    `distinct` values (1024 stands for more), the `low`est and `high`est, `bits` of the type, `flat`: share of the
    values above the least that equal their neighbour, `extremes`: share within 4 % of the least or the greatest,
    `finite`; of CT also the shares of `air` (under -800) and `tissue` (-200 to 200).
    """
    grey: Array = hashes.grey(array) if colour else np.atleast_2d(np.squeeze(array))
    if grey.ndim == 3 and colour:
        grey = np.maximum(np.maximum(grey[..., 0], grey[..., 1]), grey[..., 2])  # ten times as fast as along the axis
    step = max(1, round((grey.size / SAMPLE) ** (1 / grey.ndim)))
    pairs = grey[tuple(slice(None, None, step) for _ in grey.shape[:-1])]
    few, beside = pairs[..., :-1:step].ravel(), pairs[..., 1::step].ravel()
    finite = np.isfinite(few)
    known = few if finite.all() else few[finite]
    if known.size == 0:
        return {"distinct": 0, "bits": 8 * array.dtype.itemsize, "flat": 0.0, "extremes": 0.0, "finite": 0.0}
    low, high = float(known.min()), float(known.max())
    above = finite & (few > low)
    margin = np.float64(0.04 * (high - low))
    facts = {
        "distinct": min(MANY, _distinct(known)),
        "low": low,
        "high": high,
        "bits": 8 * array.dtype.itemsize,
        "flat": _share(few[above] == beside[above]),
        "extremes": _share(np.logical_or(known <= low + margin, known >= high - margin)),
        "finite": _share(finite),
    }
    if modality == "ct" and array.dtype.itemsize > 1:
        facts |= {"air": _share(known < -800), "tissue": _share((known > -200) & (known < 200))}
    return facts


def _distinct(values: Array) -> int:
    """How many values there are; small integers are counted, which is faster than sorting."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        return int(np.unique(values).size)
    limits = np.iinfo(values.dtype)
    return int(np.count_nonzero(kernels.histogram(values, int(limits.min), int(limits.max) - int(limits.min) + 1)))


def _share(hits: Array) -> float:
    return round(float(hits.mean()), 4) if hits.size else 0.0


def _repeats(loaded: Loaded) -> dict[str, int]:
    """Pairs of neighbouring equal slices, by axis; slices of one value do not count."""
    if loaded.volume is None:
        found = {"native": sum(_same(a, b) for a, b in pairwise(loaded.frames))}
    else:
        memory = planes.in_memory(loaded.volume)
        counts = kernels.repeats(memory.array)
        found = {name: counts[memory.axes.index(planes.WORLD[name])] for name in geometry.AXES}
    return {name: n for name, n in found.items() if n}


def _same(a: Array, b: Array) -> bool:
    """Whether two planes are equal and not of one value."""
    return bool(np.array_equal(a, b) and (a != a.flat[0]).any())


def _looked_at(loaded: Loaded) -> list[str]:
    if loaded.volume is None:
        return ["native"]
    flat = geometry.flat_axis(loaded.volume.shape)
    sizes = {axis: min(geometry.plane_size(loaded.volume.shape, axis)[1:]) for axis in ("axial", "coronal")}
    return [flat] if flat else [axis for axis, side in sizes.items() if side >= 24]


def _agreement(axis: str, loaded: Loaded, window: tuple[float, float] | None) -> dict[str, Any]:
    """How well the edges of the annotation lie on edges of the image, over a few planes of an axis.

    `z` has one number for each of the 8 ways to turn the annotation (see `turns`), the first as it is: by how many
    standard deviations the image's gradient on the turned outline is above its mean. `moved` is the shift (rows,
    columns; shares of the sides) with the best agreement and `z_moved` its number. `length` is that of the outline in
    pixels of the reduced plane, `outside` the share of the annotation on the background around the body, `specks` how
    many parts of one label have 4 pixels or fewer.
    """
    z, outside, length, specks, planes = np.zeros(8), 0.0, 0.0, 0, 0
    correlation: Array | None = None
    for index in _central(axis, loaded):
        image = loaded.frames[index] if loaded.volume is None else geometry.plane(loaded.volume, axis, index)
        labels = _labels(loaded.layers, axis, index)
        edges, lines, covered, body = _prepared(image, labels, window)
        if not lines.any():
            continue
        planes += 1
        specks += sum(_specks(plane) for plane in labels)
        length += float(np.count_nonzero(lines))
        mean, spread = edges.mean(), float(edges.std())
        z += [_on_edges(edges, turn, mean, spread) for turn in turns(lines)]
        outside += float(1 - (covered * body).sum() / covered.sum())
        moved = _moved(edges, lines)
        correlation = moved if correlation is None else correlation[: moved.shape[0], : moved.shape[1]] + moved
    if correlation is None:
        return {"axis": axis, "planes": 0}
    place = np.unravel_index(int(correlation.argmax()), correlation.shape)
    shift = [round((float(p) - n // 2) / (n / (2 * REACH)), 4) for p, n in zip(place, correlation.shape, strict=True)]
    return {"axis": axis, "planes": planes, "z": [round(float(v) / planes, 3) for v in z], "moved": shift,
            "z_moved": round(float(correlation.max()) / planes, 3), "length": round(length / planes),
            "outside": round(outside / planes, 4), "specks": specks}


def _central(axis: str, loaded: Loaded) -> list[int]:
    """Planes at the quarters of the annotation's extent along an axis."""
    if loaded.volume is None:
        return [n for n in range(len(loaded.frames)) if any(x.array[..., n].any() for x in loaded.layers)][:PLANES]
    along = {"sagittal": 0, "coronal": 1, "axial": 2}[axis]
    amount = sum(np.array([np.count_nonzero(plane) for plane in np.moveaxis(layer.array, along, 0)])
                 for layer in loaded.layers)  # fmt: skip
    if not np.any(amount):
        return []
    total = np.cumsum(amount)
    return sorted({int(np.searchsorted(total, total[-1] * q)) for q in (0.3, 0.5, 0.7)})


def _labels(layers: tuple[Layer, ...], axis: str, index: int) -> list[Array]:
    return [x.array[..., index] if axis == "native" else geometry.plane(x.array, axis, index) for x in layers]


def _prepared(
    image: Array, labels: list[Array], window: tuple[float, float] | None
) -> tuple[Array, Array, Array, Array]:
    """(gradient, outlines, labelled share, body) of a plane, each with sides of LOOK pixels at most."""
    shown = image.astype(np.float32)
    if shown.ndim == 3:
        shown = (shown[..., 0] + shown[..., 1] + shown[..., 2]) / np.float32(3)
    if image.dtype.kind == "f":
        shown = np.nan_to_num(shown, posinf=0, neginf=0)
    step = max(1, -(-max(shown.shape) // LOOK))
    low, high = np.percentile(shown, (1, 99)) if window is None else window
    small = _means(np.clip(shown, low, high), step)
    around = small if window is None else _means(shown, step)
    air = AIR if window else float(small.min()) + 0.1 * float(small.max() - small.min())
    gradient = np.hypot(ndimage.sobel(small, 0), ndimage.sobel(small, 1))
    top = np.percentile(gradient, 98)
    marked = np.zeros(shown.shape, bool)
    lines = np.zeros(small.shape, np.float32)
    for plane in labels:
        marked |= plane != 0
        lines += _shares(_outline(plane), step)
    edges = np.clip(gradient, 0, top if top > 0 else 1)
    return edges, lines, _shares(marked, step), _body(around, air)


def _specks(plane: Array) -> int:
    parts: Array = measure.label(plane, background=0, connectivity=2)  # type: ignore[no-untyped-call]
    return int((np.bincount(parts.ravel())[1:] <= SPECK).sum())


def _means(plane: Array, step: int) -> Array:
    """Means of step x step blocks, what is left at the far sides cut off."""
    rows, columns = (n // step for n in plane.shape)
    blocks = plane[: rows * step, : columns * step].reshape(rows, step, columns, step)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _shares(plane: NDArray[np.bool_], step: int) -> Array:
    """`_means` of what is set, by counting, which is exact and several times faster."""
    rows, columns = (n // step for n in plane.shape)
    kept = plane[: rows * step, : columns * step].view(np.uint8)
    lines = kept.reshape(rows, step, columns * step).sum(axis=1, dtype=np.int32)
    counts = sum((lines[:, n::step] for n in range(1, step)), start=lines[:, ::step])
    return np.asarray(counts.astype(np.float32) / np.float32(step * step))


def _outline(plane: Array) -> Array:
    """Pixels of a label plane with another value below or to the right; the image's border is no outline."""
    out = np.zeros(plane.shape, bool)
    out[:-1] |= plane[:-1] != plane[1:]
    out[:, :-1] |= plane[:, :-1] != plane[:, 1:]
    return out


def _body(small: Array, air: float) -> Array:
    """1 where there is something: not `air` or darker, as far as that reaches in from the border."""
    dark = np.pad(small <= air, 1, constant_values=True)
    parts, _ = ndimage.label(dark)
    return np.asarray(parts[1:-1, 1:-1] != parts[0, 0], np.float32)


def turns(lines: Array) -> list[Array]:
    """A plane in 8 ways: as it is, turned by 180°, flipped top to bottom and left to right, then the four transposed.

    The transposed ones lie in a plane of the same size, cut off or empty where the sides differ.
    """
    way = [lines, lines[::-1, ::-1], lines[::-1], lines[:, ::-1]]
    return way + [_fitted(x.T, lines.shape) for x in way]


def _fitted(plane: Array, shape: tuple[int, ...]) -> Array:
    out = np.zeros(shape, plane.dtype)
    size = tuple(min(a, b) for a, b in zip(plane.shape, shape, strict=True))
    here = tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(shape, size, strict=True))
    there = tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(plane.shape, size, strict=True))
    out[here] = plane[there]
    return out


def _on_edges(edges: Array, lines: Array, mean: Any, spread: float) -> float:
    """How far the edges on the lines are above their `mean` everywhere, in standard deviations (`spread`)."""
    weight = lines.sum()
    if spread == 0 or weight == 0:
        return 0.0
    return float(((edges * lines).sum() / weight - mean) / spread)


def _moved(edges: Array, lines: Array) -> Array:
    """`_on_edges` of the outline at each shift up to REACH of the sides; the middle is no shift."""
    spread = float(edges.std()) or 1.0
    reach = [int(REACH * n) for n in edges.shape]
    # so much larger that no shift within reach comes round
    size = [fft.next_fast_len(n + r, real=True) for n, r in zip(edges.shape, reach, strict=True)]
    product = fft.rfft2(((edges - edges.mean()) / spread).astype(np.float64), size)
    product *= np.conj(fft.rfft2(lines.astype(np.float64), size))
    found = fft.irfft2(product, size) / float(lines.sum())
    rows, columns = (np.arange(-r, r + 1) for r in reach)
    return np.asarray(found[np.ix_(rows, columns)])
