"""MMDetection's own datasets on an `odvg-mmdet` export: `python read_mmdet.py FOLDER`.

The compiled operators of mmcv, which a dataset does not call, are not there: mmdet imports one of them by name.
"""

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.modules["mmcv.ops"] = types.ModuleType("mmcv.ops")
sys.modules["mmcv.ops.roi_align"] = types.SimpleNamespace(roi_align=None)  # type: ignore[assignment]

from mmdet.datasets import CocoDataset, ODVGDataset  # noqa: E402
from shown import show  # noqa: E402

FOLDER = Path(sys.argv[1])


def read(dataset: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The boxes of a dataset, each with the words that the model is asked for."""
    for index in range(len(dataset)):
        data = dataset[index]
        for instance in data["instances"]:
            x1, y1, x2, y2 = instance["bbox"]
            name = Path(data["img_path"]).relative_to(FOLDER / "images").as_posix()
            yield name, (words(data, instance["bbox_label"]), x1, y1, x2 - x1, y2 - y1)


def words(data: dict[str, Any], label: int) -> str:
    """OD: the text of the label; VG: the words of the caption at the tokens of the phrase; COCO: the class."""
    if "phrases" in data:
        ((start, end),) = data["phrases"][label]["tokens_positive"]
        return str(data["text"][start:end])
    return str(data["text"][label] if isinstance(data["text"], (list, tuple)) else data["text"][str(label)])


def odvg(label_map: str | None) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """All splits in OD mode (with a label map) or VG mode."""
    for path in sorted(FOLDER.glob("*.jsonl")):
        where = {"data_root": str(FOLDER), "ann_file": path.name, "data_prefix": {"img": "images"}}
        yield from read(ODVGDataset(**where, label_map_file=label_map, pipeline=[], return_classes=True))


def coco() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The validation file, as evaluation reads it."""
    names = [c["name"] for c in json.loads((FOLDER / "val.json").read_text())["categories"]]
    where = {"data_root": str(FOLDER), "ann_file": "val.json", "data_prefix": {"img": "images"}}
    yield from read(CocoDataset(**where, metainfo={"classes": names}, pipeline=[], test_mode=True, return_classes=True))


show(od=odvg("label_map.json"), vg=odvg(None), coco=coco())
