"""The hot loops over voxels: compiled with numba where it is installed, else in plain NumPy, with equal results.

`MEDGLIP_KERNELS=numpy` takes the plain ones. All arrays of voxels are C-contiguous `[slow, middle, fast]`, in the
order of memory; what these axes mean to the patient is the caller's business (`etl.pixels.planes`).
"""

import importlib.util
import os

if os.environ.get("MEDGLIP_KERNELS") == "numpy" or importlib.util.find_spec("numba") is None:
    from etl.kernels.plain import (
        block_sums,
        digest,
        extents,
        fingerprints,
        histogram,
        looked_up,
        measured,
        repeats,
        rle,
        scaled,
        straight,
        straight_across,
    )  # fmt: skip
else:
    from etl.kernels.compiled import (
        block_sums,
        digest,
        extents,
        fingerprints,
        histogram,
        looked_up,
        measured,
        repeats,
        rle,
        scaled,
        straight,
        straight_across,
    )  # fmt: skip

__all__ = [
    "block_sums", "digest", "extents", "fingerprints", "histogram", "looked_up",
    "measured", "repeats", "rle", "scaled", "straight", "straight_across",
]  # fmt: skip
