"""Fingerprints of pixels: equal images, images that look alike, and volumes that share voxels. Pure.

All are of pixel values alone, so that headers, file formats and compression do not matter.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from etl import kernels

Array = NDArray[np.generic]
Codes = NDArray[np.uint64]

GRID = 32  # an image is looked at as GRID x GRID area means
BITS = 64
SKETCH = 24  # local fingerprints kept of an image
SLAB = 1 << 19  # voxels worked on together
MOST = 1 << 23  # voxels looked at; of a larger volume the middle


def of(images: Sequence[NDArray[np.uint8]]) -> list[dict[str, bytes | int | None]]:
    """`pixels`, `coarse` and `fine` of encoded images: see `pixel_hash` and `perceptual`."""
    marks = zip(images, _perceptual(images), strict=True)
    return [{"pixels": pixel_hash(image), "coarse": coarse, "fine": fine} for image, (coarse, fine) in marks]


def grey(image: Array) -> Array:
    """A colour image (rows, columns, 3) of equal channels as grey (rows, columns); any other as it is."""
    if image.ndim == 2:
        return image
    first, second, third = (image[..., n] for n in range(3))
    return first if np.array_equal(first, second) and np.array_equal(first, third) else image


def pixel_hash(image: NDArray[np.uint8]) -> bytes | None:
    """16 bytes that two 8-bit images share if shape and pixels are equal, and else never by chance; None if the image
    shows one value."""
    shown = grey(image)
    middle = tuple(n // 2 for n in shown.shape)  # the corners of most are alike
    if shown.size == 0 or (shown[middle] == shown.flat[0] and (shown == shown.flat[0]).all()):
        return None
    sums = kernels.digest(np.ascontiguousarray(shown))
    return hashlib.blake2b(repr((shown.shape, sums)).encode(), digest_size=16).digest()


def perceptual(image: NDArray[np.uint8]) -> tuple[int, int]:
    """(coarse, fine): 64 bits each of a discrete cosine transform of the image's area means.

    A bit says whether a coefficient is above the median of its 64; coarse holds the lowest frequencies after the
    mean, fine the next. Images that look alike differ in few bits, whatever their size, encoding or contrast.
    """
    (found,) = _perceptual([image])
    return found


def _perceptual(images: Sequence[NDArray[np.uint8]]) -> list[tuple[int, int]]:
    """The same of several images, whose transforms together take a third of the time."""
    if not images:
        return []
    sums = np.stack([kernels.block_sums(_brightness(image), GRID) for image in images])
    cosines = _cosines()
    spectrum = (cosines @ sums.astype(np.float64) @ cosines.T).reshape(len(images), -1)[:, _order()]
    spectrum = spectrum.reshape(-1, 2, BITS)
    ordered = np.sort(spectrum)
    bits = spectrum > (ordered[..., BITS // 2 - 1, None] + ordered[..., BITS // 2, None]) / 2
    codes = np.packbits(bits, axis=-1).view(">u8").reshape(-1, 2).tolist()
    return [(coarse, fine) for coarse, fine in codes]


def _brightness(image: NDArray[np.uint8]) -> Array:
    """The image as grey, the channels of one in colours added."""
    shown = grey(image)
    if shown.ndim == 2:
        return shown
    return np.asarray(np.add(shown[..., 0], shown[..., 1], dtype=np.uint16) + shown[..., 2])


@lru_cache(maxsize=1)
def _order() -> NDArray[np.int64]:
    """Flat indices of the GRID/2 x GRID/2 frequencies, low ones first, without the mean."""
    side = GRID // 2
    ordered = sorted(product(range(side), repeat=2), key=lambda uv: (uv[0] + uv[1], uv[0]))
    return np.array([u * side + v for u, v in ordered[1 : 2 * BITS + 1]])


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """(GRID/2, GRID): the lower half of the cosine transform (type II)."""
    angle = np.pi * (np.arange(GRID) + 0.5) / GRID
    return np.asarray(np.cos(np.arange(GRID // 2)[:, None] * angle))


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
        bound = int(found[-1]) if found.size == SKETCH else 2**64 - 1
        found = np.unique(np.concatenate((found, kernels.fingerprints(codes, bound))))[:SKETCH]
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
