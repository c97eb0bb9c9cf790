"""Open-GroundingDino's `datasets/odvg.py`: `python read_open_groundingdino.py CLONE FOLDER`.

Of torchvision and of the transforms beside it, which are not applied, there is only what its import names.
"""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shown import show

CLONE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])


class VisionDataset:
    """As in torchvision: it keeps its arguments."""

    def __init__(self, root: str, transforms: Any = None, transform: Any = None, target_transform: Any = None) -> None:
        self.root, self.transforms = root, transforms


def module(name: str, **names: Any) -> None:
    """A module that is not there."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(names)


module("torchvision")
module("torchvision.datasets")
module("torchvision.datasets.vision", VisionDataset=VisionDataset)
module("datasets", __path__=[str(CLONE / "datasets")])
module("datasets.transforms")
sys.modules["datasets"].transforms = sys.modules["datasets.transforms"]  # type: ignore[attr-defined]

from datasets.odvg import ODVGDataset  # noqa: E402


def read(label_map: str | None) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """All splits in OD mode (with a label map) or VG mode: a box and the words of its prompt."""
    for path in sorted(FOLDER.glob("*.jsonl")):
        found = ODVGDataset(str(FOLDER / "images"), str(path), label_map and str(FOLDER / label_map), max_labels=80)
        for index, meta in enumerate(found.metas):
            image, target = found[index]
            assert target["size"].tolist() == [image.height, image.width] == [meta["height"], meta["width"]]
            assert target["caption"] == " . ".join(target["cap_list"]) + " ."
            for (x1, y1, x2, y2), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
                yield meta["filename"], (target["cap_list"][label], x1, y1, x2 - x1, y2 - y1)


show(od=read("label_map.json"), vg=read(None))
