"""Datumaro, the library that CVAT reads COCO with, on a `cvat` export: `python read_datumaro.py FOLDER`."""

import sys
from pathlib import Path
from typing import Any

import datumaro
from shown import digest, show, whole

FOLDER = Path(sys.argv[1])
KINDS = datumaro.AnnotationType
boxes: list[tuple[str, tuple[Any, ...]]] = []
masks: list[tuple[str, tuple[Any, ...]]] = []
found = datumaro.Dataset.import_from(str(FOLDER), "coco_instances")
names = [c.name for c in found.categories()[KINDS.label]]
for item in found:
    file = Path(item.media.path).relative_to(FOLDER / "images").as_posix()
    for entry in item.annotations:
        if entry.type == KINDS.mask:
            masks.append((file, (names[entry.label], digest(entry.image))))
        else:
            assert entry.type == KINDS.bbox
            boxes.append((file, (names[entry.label], *whole(entry.get_bbox()))))
show(boxes=boxes, masks=masks)
