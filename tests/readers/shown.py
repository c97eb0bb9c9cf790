"""How the programs here tell what their reader found: one JSON document on standard output."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

Found = Iterable[tuple[str, tuple[Any, ...]]]
"""(file name, (class, x, y, width, height)), or (file name, (class, digest of a mask))."""


def show(**parts: Found) -> None:
    """Prints each part as `{file name: sorted entries}`."""
    document = {}
    for name, found in parts.items():
        files = defaultdict(list)
        for file, entry in found:
            files[file].append(entry)
        document[name] = {file: sorted(entries) for file, entries in files.items()}
    print("\n" + json.dumps(document))


def whole(numbers: Iterable[float]) -> list[int]:
    """The numbers as whole pixels; they must be so near to them that no pixel is in doubt."""
    exact = np.array(list(numbers), float)
    assert np.abs(exact - exact.round()).max() < 0.01, exact
    return [int(v) for v in exact.round()]


def digest(mask: Any) -> str:
    """Of a mask's shape and pixels."""
    mask = np.asarray(mask, bool)
    return hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()
