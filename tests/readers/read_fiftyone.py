"""FiftyOne's own COCO importer, without its database, on a `fiftyone` export: `python read_fiftyone.py FOLDER`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fiftyone.utils.coco import COCODetectionDatasetImporter
from shown import digest, show, whole

FOLDER = Path(sys.argv[1])


def read(kind: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The labels of one kind: `detections` are boxes, `segmentations` masks."""
    for split in sorted(p for p in FOLDER.iterdir() if p.is_dir()):
        importer = COCODetectionDatasetImporter(dataset_dir=str(split), label_types=[kind])
        importer.setup()
        for path, size, labels in importer:
            file = f"{split.name}/{Path(path).relative_to(split / 'data').as_posix()}"
            for label in labels.detections if labels else []:
                across = (size.width, size.height) * 2
                x, y, w, h = whole(np.multiply(label.bounding_box, across))
                if kind == "detections":
                    yield file, (label.label, x, y, w, h)
                else:
                    mask = np.zeros((size.height, size.width), bool)
                    mask[y : y + h, x : x + w] = label.mask
                    yield file, (label.label, digest(mask))


show(boxes=read("detections"), masks=read("segmentations"))
