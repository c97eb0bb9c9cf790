"""LLaVA's `LazySupervisedDataset` on a `llava` export: `python read_llava.py CLONE FOLDER`.

Its model and trainer are left out. The tokenizer, which no package index has, is one of single characters that counts
as LLaMA's does where LLaVA relies on it: one token begins a text and `</s>` is one token.
"""

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from shown import show

CLONE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
END = "</s>"
UNSEEN, IMAGE = -100, -200  # labels that are not learned; the place of the picture


def module(name: str, **names: Any) -> None:
    """A module that is not there, or a package without its `__init__`."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(names)


module("llava", __path__=[str(CLONE / "llava")])
module("llava.train", __path__=[str(CLONE / "llava" / "train")])
module("llava.model")
module("llava.train.llava_trainer", LLaVATrainer=None)

from llava.train.train import LazySupervisedDataset  # noqa: E402


class Characters:
    """The tokenizer: 1 begins, 2 is `</s>`, any other character its code point."""

    bos_token_id, pad_token_id, model_max_length, legacy = 1, 0, 10**6, True

    def __call__(self, text: str) -> SimpleNamespace:
        parts = [[ord(c) for c in part] + [2] for part in text.split(END)]
        return SimpleNamespace(input_ids=[1, *(i for part in parts for i in part)][:-1])


class Pictures:
    """The image processor: it keeps the picture that it is given."""

    image_mean = (0.5, 0.5, 0.5)

    def preprocess(self, image: Any, return_tensors: str) -> dict[str, list[Any]]:
        return {"pixel_values": [image]}


def text(ids: Any) -> str:
    """What the tokens say."""
    return "".join({1: "", 2: END, IMAGE: "<image>"}.get(i, chr(max(i, 0))) for i in ids.tolist())


def read() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What is asked for, the side of the padded picture, and each box of the answer that is learned, in its pixels."""
    for path in sorted(FOLDER.glob("*.json")):
        if path.with_suffix(".questions.jsonl").exists():
            how = SimpleNamespace(image_folder=str(FOLDER / "images"), image_processor=Pictures(), is_multimodal=True,
                                  image_aspect_ratio="pad", mm_use_im_start_end=False)  # fmt: skip
            found = LazySupervisedDataset(str(path), Characters(), how)
            for index in range(len(found)):
                yield from boxes(found.list_data_dict[index], found[index])


def boxes(entry: dict[str, Any], data: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Of one sample."""
    side = data["image"].width
    assert data["image"].height == side
    assert (data["input_ids"] == IMAGE).sum() == 1
    assert torch.equal(data["input_ids"][data["labels"] != UNSEEN], data["labels"][data["labels"] != UNSEEN])
    learned = text(data["labels"][data["labels"] != UNSEEN]).split(END)[:-1]
    asked = [re.split(": ", part.split(" ASSISTANT:")[0])[-1] for part in text(data["input_ids"]).split(END)[:-1]]
    assert [answer.strip() for answer in learned] == [turn["value"] for turn in entry["conversations"][1::2]]
    for question, answer in zip(asked, learned, strict=True):
        for numbers in re.findall(r"\[([^]]*)\]", answer):
            corners = [round(float(v) * side, 3) for v in numbers.split(",")]
            yield entry["image"], (question.rstrip("."), side, *corners)


show(boxes=read())
