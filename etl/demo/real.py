"""Sources of the demo with real images: DICOM files that pydicom carries, outlined by hand for this demo.

The outlines are rough and ours; they are not a reading of the images by a physician.
"""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pydicom import examples

from etl.demo.shapes import Expected
from etl.store import write_bytes

Outline = tuple[tuple[int, int], ...]  # corners (x, y) in pixels
Rng = Callable[[str], np.random.Generator]

ABDOMEN: dict[str, Outline] = {
    "liver": ((80, 98), (100, 86), (116, 84), (125, 96), (121, 112), (118, 128), (122, 146), (130, 160), (142, 164),
              (120, 170), (92, 177), (74, 190), (65, 192), (58, 184), (53, 165), (57, 140), (66, 118)),
    "right kidney": ((119, 225), (128, 208), (145, 195), (163, 189), (178, 193), (185, 205), (181, 222), (170, 238),
                     (155, 247), (138, 249), (126, 240)),
    "left kidney": ((289, 215), (297, 204), (315, 199), (333, 200), (344, 213), (348, 230), (341, 246), (326, 251),
                    (308, 244), (296, 231)),
    "spleen": ((376, 121), (386, 123), (397, 140), (398, 170), (396, 198), (388, 224), (377, 236), (361, 228),
               (361, 206), (367, 180), (365, 155), (368, 133)),
    "aorta": ((256, 156), (265, 160), (268, 169), (264, 178), (256, 181), (247, 178), (243, 169), (247, 160)),
    "vertebra": ((214, 186), (232, 179), (250, 183), (260, 196), (262, 210), (257, 222), (246, 221), (232, 218),
                 (218, 222), (206, 214), (204, 200)),
}  # fmt: skip
SPINE: dict[str, Outline] = {
    "thoracic vertebra": ((60, 6), (70, 12), (76, 26), (78, 38), (77, 47), (71, 46), (63, 41), (54, 41), (46, 46),
                          (42, 47), (41, 38), (44, 22), (51, 10)),
    "spinal canal": ((47, 51), (52, 45), (60, 42), (68, 46), (71, 52), (67, 60), (59, 62), (50, 60)),
    "aorta": ((71, 0), (110, 0), (111, 8), (105, 19), (95, 26), (85, 27), (77, 19)),
    "right lung": ((0, 0), (45, 0), (40, 14), (34, 29), (21, 46), (8, 57), (0, 60)),
    "left lung": ((113, 0), (127, 0), (127, 67), (114, 61), (101, 50), (93, 40), (89, 29), (100, 24), (109, 14)),
}  # fmt: skip


def abdomen(root: Path, expected: Expected, rng: Rng) -> None:
    """An MR slice of an abdomen, and its label map."""
    _slice(root, expected, "demo_mri_abdomen", "overlay", ABDOMEN)


def spine(root: Path, expected: Expected, rng: Rng) -> None:
    """A CT slice through a thoracic vertebra, and its label map."""
    _slice(root, expected, "demo_ct_spine", "ct", SPINE)


def _slice(root: Path, expected: Expected, source: str, example: str, outlines: dict[str, Outline]) -> None:
    """One DICOM file and its label map as PNG; a later outline lies over an earlier one."""
    image = root / "s1" / "DICOM" / "i0001.dcm"
    image.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(examples.get_path(example), image)
    dataset = getattr(examples, example)
    drawn = Image.new("L", (int(dataset.Columns), int(dataset.Rows)))
    for value, outline in enumerate(outlines.values(), 1):
        ImageDraw.Draw(drawn).polygon(outline, fill=value)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG")
    write_bytes(root / "s1" / "Ground" / "i0001.png", buffer.getvalue())
    labels = np.asarray(drawn)
    expected.slice(source, "s1", "axial", [(name, labels == value) for value, name in enumerate(outlines, 1)])


def _manifest(modality: str, detail: str, regions: list[str], outlines: dict[str, Outline]) -> dict[str, Any]:
    return {
        "modality": modality,
        "detail": detail,
        "body_regions": regions,
        "license": {"name": "MIT", "redistribution": "allowed"},
        "citation": "Image: the pydicom authors, test files of pydicom; outlines: drawn by medglip-etl",
        "files": [{"image": "{case}/DICOM/*.dcm", "mask": "{case}/Ground/*.png", "kind": "image_stack"}],
        "labels": dict(enumerate(outlines, 1)),
    }


SOURCES: dict[str, tuple[Callable[[Path, Expected, Rng], None], dict[str, Any], dict[str, Any]]] = {
    "demo_ct_spine": (spine, _manifest("ct", "a slice through a vertebra", ["chest", "spine and limbs"], SPINE),
                      {name: name for name in SPINE}),
    "demo_mri_abdomen": (abdomen, _manifest("mri", "contrast-enhanced T1", ["abdomen"], ABDOMEN),
                         {name: name for name in ABDOMEN}),
}  # fmt: skip
