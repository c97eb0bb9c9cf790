"""Time and peak memory of the near-duplicate search over generated hashes: `python tests/bench/bench_near.py [N]`.

The hashes are made as slices make them: volumes of about 90 neighbouring slices that differ in few bits, from few
places of the body so that many volumes look alike, and copies of one image in a hundred planted under another source.
"""

import resource
import sys
import time

import numpy as np

from etl.quality.nearby import candidates

COPIES = 100


def generated(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """(coarse, fine, group, planted copies)."""
    rng = np.random.default_rng(1)
    volumes = count // 90
    places = rng.integers(0, 2**63, 2000, dtype=np.uint64)  # views of the body that volumes share
    start = places[rng.integers(0, places.size, volumes)] ^ flipped(rng, volumes, 6)
    group = np.repeat(np.arange(volumes, dtype=np.int32), 90)
    coarse = start[group] ^ flipped(rng, group.size, 5)
    fine = rng.integers(0, 2**63, volumes, dtype=np.uint64)[group] ^ flipped(rng, group.size, 8)
    chosen = rng.choice(group.size, group.size // COPIES, replace=False)
    copies = (coarse[chosen] ^ flipped(rng, chosen.size, 3), fine[chosen] ^ flipped(rng, chosen.size, 6),
              np.arange(chosen.size, dtype=np.int32) + volumes)
    return (np.concatenate((coarse, copies[0])), np.concatenate((fine, copies[1])),
            np.concatenate((group, copies[2])), chosen.size)


def flipped(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """Masks with up to `most` bits set."""
    mask = np.zeros(count, np.uint64)
    for _ in range(most):
        bit = np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64)
        mask ^= np.where(rng.random(count) < 0.6, bit, np.uint64(0))
    return mask


def main() -> None:
    """Print a line."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_720_979
    coarse, fine, group, planted = generated(count)
    began = time.perf_counter()
    pairs = candidates(coarse, fine, group)
    seconds = time.perf_counter() - began
    found = np.unique(pairs[pairs[:, 1] >= coarse.size - planted, 1]).size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{coarse.size} hashes: {seconds:.0f} s, peak {peak:.2f} GiB, {len(pairs)} candidate pairs, "
          f"{found} of {planted} planted copies found")


if __name__ == "__main__":
    main()
