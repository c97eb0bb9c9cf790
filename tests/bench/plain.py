"""The script most people write: nibabel's get_fdata, scikit-image, Pillow, json. usage: plain.py RAW OUT CASES"""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from skimage.measure import label, regionprops


def planes(volume, axis):
    for index in range(volume.shape[axis]):
        if axis == 2:
            yield index, volume[:, :, index][::-1, ::-1].T
        elif axis == 1:
            yield index, volume[:, index, :][::-1, ::-1].T
        else:
            yield index, volume[index, :, :][::-1, ::-1].T


def convert(raw, out, name, annotations):
    image = nib.as_closest_canonical(nib.load(raw / "images" / name)).get_fdata()
    labels = nib.as_closest_canonical(nib.load(raw / "labels" / name)).get_fdata()
    stem = name.removesuffix(".nii.gz")
    for axis in range(3):
        for (index, picture), (_, mask) in zip(planes(image, axis), planes(labels, axis), strict=True):
            found = []
            for value in np.unique(mask):
                if value == 0:
                    continue
                for region in regionprops(label(mask == value)):
                    if region.area >= 0.015 * mask.size:
                        y1, x1, y2, x2 = region.bbox
                        found.append({"label": int(value), "bbox": [x1, y1, x2 - x1, y2 - y1],
                                      "area": int(region.area)})
            if found:
                grey = np.rint(255 * np.clip((picture + 160) / 400, 0, 1)).astype(np.uint8)
                file = f"{stem}-{axis}-{index:04d}.png"
                Image.fromarray(grey).save(out / file)
                Image.fromarray(mask.astype(np.uint8)).save(out / f"mask-{file}")
                annotations.append({"file": file, "regions": found})


def picture(raw, out, name, annotations):
    pixels = np.asarray(Image.open(raw / "images" / name))
    mask = np.asarray(Image.open(raw / "labels" / name)) > 0
    found = []
    for region in regionprops(label(mask)):
        if region.area >= 0.015 * mask.size:
            y1, x1, y2, x2 = region.bbox
            found.append({"label": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(region.area)})
    if found:
        Image.fromarray(pixels).save(out / name)
        Image.fromarray(mask.astype(np.uint8)).save(out / f"mask-{name}")
        annotations.append({"file": name, "regions": found})


if __name__ == "__main__":
    raw, out, cases = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    annotations = []
    for name in sorted(p.name for p in (raw / "images").iterdir())[:cases]:
        convert(raw, out, name, annotations)
    (out / "annotations.json").write_text(json.dumps(annotations))
    print(len(annotations), sum(len(a["regions"]) for a in annotations))
