"""Images that look alike: a search over millions of 64-bit hashes, and a look at the pixels. Pure NumPy."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Codes = NDArray[np.uint64]
Index = NDArray[np.int64]

COARSE_BITS = 4  # most bits in which the coarse hashes of two copies differ
FINE_BITS = 10  # and their fine ones
PARTS = 6  # a hash is cut into so many parts: if at most 4 bits differ, two parts at least are equal
CROWD = 512  # of hashes that share two parts, each is compared with so many neighbours in order of the fine hash
CHUNK = 1 << 20  # hashes compared together
SAME = 0.98  # least correlation of the grey values of two copies
DETAIL = 0.5  # least correlation of their fine grain, the noise that no second scan repeats
ASPECT = 0.02  # largest difference of the ratios of sides


def candidates(coarse: Codes, fine: Codes, group: NDArray[np.int32]) -> Index:
    """(pairs, 2): indices i < j of hashes of different groups that differ in at most 4 coarse and 10 fine bits.

    Every such pair is found, but where more than 512 hashes agree in a third of their bits only those near each
    other in the order of the fine hash are compared (multi-index hashing, Norouzi et al. 2012).
    """
    bounds = np.linspace(0, 64, PARTS + 1).astype(int)
    masks = [np.uint64(((1 << int(b - a)) - 1) << int(a)) for a, b in pairwise(bounds)]
    found = [np.empty(0, np.int64)]
    count = np.int64(max(1, coarse.size))
    for one, two in combinations(masks, 2):
        key = coarse & (one | two)
        order = np.lexsort((fine, key))
        for a, b in _runs(key[order], order, coarse, fine, group):
            found.append(np.minimum(a, b) * count + np.maximum(a, b))
        if sum(part.size for part in found) > CHUNK:
            found = [np.unique(np.concatenate(found))]
    codes = np.unique(np.concatenate(found))
    return np.stack([codes // count, codes % count], axis=1)


def _runs(
    key: Codes, order: Index, coarse: Codes, fine: Codes, group: NDArray[np.int32]
) -> Iterator[tuple[Index, Index]]:
    """Close pairs among the hashes of equal keys; `key` and `order` are sorted by key."""
    c, f, g = coarse[order], fine[order], group[order]
    left = np.arange(max(0, key.size - 1))
    for step in range(1, CROWD + 1):
        left = left[left + step < key.size]
        left = left[key[left] == key[left + step]]
        if not left.size:
            return
        for start in range(0, left.size, CHUNK):
            a = left[start : start + CHUNK]
            b = a + step
            a, b = a[g[a] != g[b]], b[g[a] != g[b]]
            close = np.bitwise_count(c[a] ^ c[b]) <= COARSE_BITS
            a, b = a[close], b[close]
            close = np.bitwise_count(f[a] ^ f[b]) <= FINE_BITS
            if close.any():
                yield order[a[close]], order[b[close]]


def alike(one: bytes, two: bytes) -> bool:
    """Whether two encoded images are copies of one picture, apart from size, contrast and encoding.

    Their grey values, the larger reduced to the smaller, correlate by 0.98 at least, and their fine grain (what a
    mean over 3 x 3 pixels takes away, each value at most three typical ones) by 0.5. A second scan of the same body
    may reach the first but has noise of its own.
    """
    a, b = _decoded(one), _decoded(two)
    if abs(a.width / a.height / (b.width / b.height) - 1) > ASPECT:
        return False
    if a.width * a.height > b.width * b.height:
        a, b = b, a
    first, second = _values(a), _values(b.resize(a.size, Image.Resampling.BOX) if a.size != b.size else b)
    return _correlation(first, second) >= SAME and _correlation(_grain(first), _grain(second)) >= DETAIL


def consistent(pairs: list[tuple[int, int]], series: Sequence[int] | NDArray[np.int64]) -> list[tuple[int, int]]:
    """The pairs of pictures, and those of slices that follow from one volume being a copy of another.

    `series` numbers the stack of slices that an image is from, -1 for a picture. Two stacks are copies if half the
    slices of the smaller one, three at least, are in pairs: one slice like another is chance, a copied volume is
    like the other all along.
    """
    stacks: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for a, b in pairs:
        stacks[min(series[a], series[b]), max(series[a], series[b])].append((a, b))
    sizes = Counter(int(s) for s in series) if any(x >= 0 for x, _ in stacks) else Counter()
    kept = []
    for (x, y), members in stacks.items():
        matched = min(len({i for p in members for i in p if series[i] == s}) for s in (x, y))
        if x == y == -1 or (x >= 0 and matched >= max(3, min(sizes[x], sizes[y]) / 2)):
            kept += members
    return kept


def _decoded(data: bytes) -> Image.Image:
    from etl.pixels.hashes import grey  # brings the compiler of the kernels; see `_grain`

    with Image.open(io.BytesIO(data)) as picture:
        shown = grey(np.asarray(picture))
    return Image.fromarray(shown).convert("L")


def _values(picture: Image.Image) -> NDArray[np.float32]:
    return np.asarray(picture, dtype=np.float32)


def _grain(values: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy import ndimage  # only where images alike were found

    rest = values - ndimage.uniform_filter(values, 3)
    some = np.abs(rest[rest != 0])
    typical = float(np.median(some)) if some.size else 0.0
    return np.asarray(np.clip(rest, -3 * typical, 3 * typical))


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    size = float(np.sqrt((a.astype(np.float64) ** 2).sum() * (b.astype(np.float64) ** 2).sum()))
    return float((a.astype(np.float64) * b).sum()) / size if size else 0.0
