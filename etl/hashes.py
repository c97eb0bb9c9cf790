"""Fingerprints of pixels: equal images, images that look alike, and volumes that share voxels. Pure NumPy.

All are of pixel values alone, so that headers, file formats and compression do not matter.
"""

import hashlib
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Codes = NDArray[np.uint64]

GRID = 32  # an image is looked at as GRID x GRID area means
BITS = 64
SKETCH = 24  # local fingerprints kept of an image
SELECT = np.uint32(26)  # bits of 32 that are no matter: one neighbourhood in 64 is looked at
SLAB = 1 << 19  # voxels worked on together
MOST = 1 << 23  # voxels looked at; of a larger volume the middle
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX = np.uint64(0xBF58476D1CE4E5B9)


def of(image: NDArray[np.uint8]) -> dict[str, bytes | int | None]:
    """`pixels`, `coarse` and `fine` of an encoded image: see `pixel_hash` and `perceptual`."""
    coarse, fine = perceptual(image)
    return {"pixels": pixel_hash(image), "coarse": coarse, "fine": fine}


def grey(image: Array) -> Array:
    """A colour image (rows, columns, 3) of equal channels as grey (rows, columns); any other as it is."""
    if image.ndim == 2:
        return image
    first, second, third = (image[..., n] for n in range(3))
    return first if np.array_equal(first, second) and np.array_equal(first, third) else image


def pixel_hash(image: NDArray[np.uint8]) -> bytes | None:
    """16 bytes that two 8-bit images share if and only if shape and pixels are equal; None if it shows one value."""
    shown = grey(image)
    if shown.size == 0 or (shown == shown.flat[0]).all():
        return None
    state = hashlib.blake2b(repr(shown.shape).encode(), digest_size=16)
    state.update(np.ascontiguousarray(shown).tobytes())
    return state.digest()


def perceptual(image: NDArray[np.uint8]) -> tuple[int, int]:
    """(coarse, fine): 64 bits each of a discrete cosine transform of the image's area means.

    A bit says whether a coefficient is above the median of its 64; coarse holds the lowest frequencies after the
    mean, fine the next. Images that look alike differ in few bits, whatever their size, encoding or contrast.
    """
    shown = image.mean(axis=2, dtype=np.float32) if image.ndim == 3 else image.astype(np.float32)
    rows, columns = (_cosines(n) for n in shown.shape)
    spectrum = (rows @ shown @ columns.T).ravel()[_order()]
    return _signs(spectrum[:BITS]), _signs(spectrum[BITS : 2 * BITS])


def _signs(values: NDArray[np.float32]) -> int:
    bits = values > np.median(values)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@lru_cache(maxsize=1)
def _order() -> NDArray[np.int64]:
    """Flat indices of the GRID/2 x GRID/2 frequencies, low ones first, without the mean."""
    side = GRID // 2
    ordered = sorted(product(range(side), repeat=2), key=lambda uv: (uv[0] + uv[1], uv[0]))
    return np.array([u * side + v for u, v in ordered[1 : 2 * BITS + 1]])


@lru_cache(maxsize=256)
def _cosines(length: int) -> NDArray[np.float32]:
    """(GRID/2, length): area means over GRID equal parts of a side, then the cosine transform (type II)."""
    edges = np.linspace(0, length, GRID + 1)
    at = np.arange(length)
    share = np.clip(np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at), 0, None)
    means = share / share.sum(axis=1, keepdims=True)
    angle = np.pi * (np.arange(GRID) + 0.5) / GRID
    return np.asarray(np.cos(np.arange(GRID // 2)[:, None] * angle) @ means, np.float32)


def sketch(array: Array, colour: bool = False) -> Codes:
    """Up to 24 numbers that stand for an array [i, j(, k)], sorted; with `colour` the last axis is red, green, blue.

    Each is the hash of one voxel with the values around it, by distance, so axis order, flips and a shift do not
    change it; of all neighbourhoods the smallest hashes are kept. Arrays that share a part p of their
    neighbourhoods share about that part of their sketches (bottom-k MinHash), so a turned copy has all numbers
    in common, a cropped one a share, another scan none. Neighbourhoods of one value say nothing and do not count.
    """
    array = grey(array) if colour else array
    colour = colour and array.ndim == 3
    if not colour:
        array = _middle(array if array.strides[0] >= array.strides[-1] else array.T)
    sides = array.shape[:2] if colour else array.shape
    reach = 1 if len(sides) == 3 else 2
    if min(sides) <= 2 * reach:
        return np.empty(0, np.uint64)
    step = max(1, SLAB // max(1, array[0].size))
    found = np.empty(0, np.uint64)
    for start in range(reach, sides[0] - reach, step):
        codes = _codes(array[start - reach : min(start + step, sides[0] - reach) + reach], colour)
        found = np.unique(np.concatenate((found, _fingerprints(codes, reach))))[:SKETCH]
    return found


def _middle(array: Array) -> Array:
    """The middle of a large array, the same voxels whichever way it is turned."""
    part = min(1.0, (MOST / max(1, array.size)) ** (1 / array.ndim))
    cut = [int(n * (1 - part)) // 2 for n in array.shape]
    return array[tuple(slice(c, n - c) for c, n in zip(cut, array.shape, strict=True))]


def _codes(array: Array, colour: bool) -> NDArray[np.uint32]:
    """One number a voxel: the bits of its value as float32, so that integers and floats of one value agree."""
    if colour:
        r, g, b = (array[..., n].astype(np.uint32) for n in range(3))
        return np.asarray(r | g << np.uint32(8) | b << np.uint32(16))
    values = np.ascontiguousarray(array, dtype=np.float32)
    return (values + np.float32(0)).view(np.uint32)  # + 0: there is one zero


def _fingerprints(codes: NDArray[np.uint32], reach: int) -> Codes:
    inner = tuple(slice(reach, n - reach) for n in codes.shape)
    center = codes[inner]
    rings = _rings(codes.ndim, reach)
    near = np.zeros(center.shape, np.uint32)
    for offset in rings[0]:
        near += codes[_moved(inner, offset, codes.shape)]
    flat = near == center * np.uint32(len(rings[0]))
    local = (near * np.uint32(0x85EBCA6B) ^ center) * np.uint32(0xC2B2AE35)
    chosen = np.flatnonzero((local >> SELECT == 0) & ~flat)  # the high bits: low ones of float32 codes are 0
    places = np.unravel_index(chosen, center.shape)
    result = _mixed(codes[tuple(p + reach for p in places)].astype(np.uint64))
    for ring in rings:
        total = np.zeros(chosen.size, np.uint64)
        for offset in ring:
            total += _mixed(codes[tuple(p + reach + o for p, o in zip(places, offset, strict=True))].astype(np.uint64))
        result = _mixed(result ^ total)
    return result


def _rings(dimensions: int, reach: int) -> list[list[tuple[int, ...]]]:
    """The offsets around a voxel grouped by distance, nearest first; the far corners of 2D are left out."""
    rings: dict[int, list[tuple[int, ...]]] = {}
    for offset in product(range(-reach, reach + 1), repeat=dimensions):
        rings.setdefault(sum(o * o for o in offset), []).append(offset)
    return [rings[d] for d in sorted(rings) if 0 < d <= 5]


def _moved(inner: tuple[slice, ...], offset: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(s.start + o, s.stop + o) for s, o in zip(inner, offset, strict=True))


def _mixed(x: Codes) -> Codes:
    """A well-mixed 64-bit hash of each number."""
    x = (x + GOLDEN) * MIX
    x ^= x >> np.uint64(31)
    x = x * GOLDEN
    return x ^ (x >> np.uint64(29))
