"""GLIP's `CocoGrounding` (ODinW) and `ModulatedDataset`: `python read_glip.py CLONE FOLDER`.

Of torchvision there is a stand-in for the one class that both extend; the packages' `__init__` files, which import
all of GLIP, are left out. Boxes are shown with exclusive ends: GLIP takes x2 and y2 as inclusive.
"""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from pycocotools.coco import COCO
from shown import show

from glip.text import tokenizer

CLONE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
WORDS = tokenizer("bert-base-uncased")  # before the stand-in: transformers asks for torchvision


class CocoDetection:
    """As in torchvision: images and their annotations, in order of id."""

    def __init__(self, root: str, annotations: str) -> None:
        self.root, self.coco = Path(root), COCO(annotations)
        self.ids = sorted(self.coco.imgs)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Image.Image, list[dict[str, Any]]]:
        number = self.ids[index]
        path = self.root / self.coco.loadImgs(number)[0]["file_name"]
        return Image.open(path).convert("RGB"), self.coco.loadAnns(self.coco.getAnnIds(imgIds=number))


def module(name: str, **names: Any) -> None:
    """A module that is not there, or a package without its `__init__`."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(names)


module("torchvision", datasets=types.SimpleNamespace(CocoDetection=CocoDetection))
for package in ("", ".structures", ".data", ".data.datasets"):
    where = CLONE / "maskrcnn_benchmark" / package[1:].replace(".", "/")
    module(f"maskrcnn_benchmark{package}", __path__=[str(where)])
module("maskrcnn_benchmark.config", cfg=None)

from maskrcnn_benchmark.data.datasets.modulated_coco import CocoGrounding, ModulatedDataset  # noqa: E402


def read(kind: Any, categories: Any, **options: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The boxes of all splits, each with the words of the caption that its row of `positive_map` points at."""
    for path in sorted((FOLDER / "annotations").glob("*.json")):
        found = kind(str(FOLDER / "images"), str(path), transforms=None, return_masks=False, return_tokens=True,
                     tokenizer=WORDS, **options)  # fmt: skip
        for index in range(len(found)):
            _, target, _ = found[index]
            text = target.get_field("caption")
            tokens = WORDS(text)
            rows = zip(target.bbox.tolist(), target.get_field("labels").tolist(), target.get_field("positive_map"),
                       strict=True)  # fmt: skip
            for (x1, y1, x2, y2), label, row in rows:
                name = words(text, tokens, row.nonzero()[:, 0].tolist())
                if categories:
                    assert name in (found.ind_to_class[label], "")
                    assert found.ind_to_class[label] == categories[label - 1]["name"]
                yield found.get_img_info(index)["file_name"], (name, x1, y1, x2 - x1 + 1, y2 - y1 + 1)


def words(text: str, tokens: Any, marked: list[int]) -> str:
    """The text from the first to the last of these tokens; none is marked for a class beyond the end of the prompt."""
    if not marked:
        return ""
    return text[tokens.token_to_chars(marked[0]).start : tokens.token_to_chars(marked[-1]).end]


override = yaml.safe_load(yaml.safe_load((FOLDER / "odinw.yaml").read_text())["DATASETS"]["OVERRIDE_CATEGORY"])
show(
    odinw=read(CocoGrounding, override, override_category=override, disable_shuffle=True, separation_tokens=". "),
    captions=read(ModulatedDataset, None),
)
