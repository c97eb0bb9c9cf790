"""Ultralytics' own dataset on a `yolo` or `yolo-segment` export: `python read_ultralytics.py FOLDER detect|segment`.

It writes its cache into the folder.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from shown import show, whole
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset

FOLDER, TASK = Path(sys.argv[1]), sys.argv[2]


def read() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The boxes; of `segment` with the corners of each polygon, in pixels, as text."""
    data = check_det_dataset(str(FOLDER / "data.yaml"), autodownload=False)
    for split in ("train", "val", "test"):
        dataset = YOLODataset(img_path=data[split], data=data, task=TASK, augment=False, cache=False)
        assert len(dataset.labels) == len(list(Path(data[split]).rglob("*.png")))
        for entry in dataset.labels:
            rows, columns = entry["shape"]
            file = f"{split}/{Path(entry['im_file']).stem}"
            for n, (label, (x, y, w, h)) in enumerate(zip(entry["cls"][:, 0], entry["bboxes"], strict=True)):
                box = whole(np.multiply((x - w / 2, y - h / 2, w, h), (columns, rows, columns, rows)))
                more = [corners(entry["segments"][n], rows, columns)] if TASK == "segment" else []
                yield file, (data["names"][int(label)], *box, *more)


def corners(points: Any, rows: int, columns: int) -> str:
    """Half pixels, as JSON."""
    return json.dumps(np.divide(whole((points * [columns, rows] * 2).ravel()), 2).reshape(-1, 2).tolist())


show(boxes=read())
