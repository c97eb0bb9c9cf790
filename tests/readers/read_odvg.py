"""The `odvg.py` of Open-GroundingDino, or NVIDIA TAO's: `python read_odvg.py FILE FOLDER`.

Of what else they import there is only what they name: torchvision's class that keeps its arguments, transforms, which
are not applied, and a logger.
"""

import importlib.util
import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shown import show

FILE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])


class VisionDataset:
    """As in torchvision: it keeps its arguments."""

    def __init__(self, root: str, transforms: Any = None, transform: Any = None, target_transform: Any = None) -> None:
        self.root, self.transforms = root, transforms


def module(name: str, **names: Any) -> None:
    """A module that is not there, and the packages that it is in."""
    for end in range(1, len(name.split(".")) + 1):
        part = ".".join(name.split(".")[:end])
        if part not in sys.modules:
            sys.modules[part] = types.ModuleType(part)
            above, _, own = part.rpartition(".")
            if above:
                setattr(sys.modules[above], own, sys.modules[part])
    vars(sys.modules[name]).update(names)


module("torchvision.datasets.vision", VisionDataset=VisionDataset)
module("datasets.transforms")
module("nvidia_tao_pytorch.core.tlt_logging", logging=logging)
spec = importlib.util.spec_from_file_location("odvg", FILE)
assert spec is not None
assert spec.loader is not None
odvg = importlib.util.module_from_spec(spec)
spec.loader.exec_module(odvg)


def read(label_map: str | None) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """All splits in OD mode (with a label map) or VG mode: a box and the words of its prompt.

    No further labels are drawn as negatives: TAO draws them in a way that Python has not known since 3.11.
    """
    for path in sorted(FOLDER.glob("*.jsonl")):
        found = odvg.ODVGDataset(str(FOLDER / "images"), str(path), label_map and str(FOLDER / label_map), max_labels=0)
        for index, meta in enumerate(found.metas):
            image, target = found[index]
            assert target["size"].tolist() == [image.height, image.width] == [meta["height"], meta["width"]]
            assert target["caption"] == " . ".join(target["cap_list"]) + " ."
            for (x1, y1, x2, y2), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
                yield meta["filename"], (target["cap_list"][label], x1, y1, x2 - x1, y2 - y1)


show(od=read("label_map.json"), vg=read(None))
