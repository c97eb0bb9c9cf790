"""Pictures of the demo: ultrasound, X-ray, dermoscopy, endoscopy and fundus, in PNG, JPEG, BMP and TIFF."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

from etl.demo.files import pages, palette, picture
from etl.demo.shapes import Expected, Floats, Mask, contour, ellipse, jitter, texture, vessels
from etl.store import write_bytes

Rng = Callable[[str], np.random.Generator]


def us_fetal(root: Path, expected: Expected, rng: Rng) -> None:
    """Outlines drawn as closed contours; a published training and test part."""
    shape = (120, 160)
    for number in range(1, 7):
        case = f"{number:03d}_HC"
        r = rng(case)
        folder = root / ("training_set" if number < 5 else "test_set")
        head = ellipse(shape, jitter(r, (60, 80), 6), jitter(r, (34, 46), 5))
        grey = _speckle(r, shape) * np.where(head, 0.5, 1.0) + 150.0 * contour(head)
        picture(folder / f"{case}.png", _uint8(grey))
        picture(folder / f"{case}_Annotation.png", 255 * contour(head).astype(np.uint8))
        expected.picture("demo_us_fetal", case.removesuffix("_HC"), [("fetal head", head)])


def us_breast(root: Path, expected: Expected, rng: Rng) -> None:
    """BMP images with palette masks: the index counts, not the colour."""
    shape = (110, 140)
    for case in ("b1", "b2", "b3", "b4"):
        r = rng(case)
        value = 1 + int(case in ("b2", "b4"))
        lesion = ellipse(shape, jitter(r, (50, 70), 12), jitter(r, (16, 24), 5))
        grey = _speckle(r, shape) * np.where(lesion, 0.25, 1.0)
        picture(root / "images" / f"{case}.bmp", _uint8(grey))
        palette(
            root / "masks" / f"{case}.png", (value * lesion).astype(np.uint8), [(0, 0, 0), (0, 200, 0), (200, 0, 0)]
        )
        expected.picture("demo_us_breast", case, [("breast tumor", lesion)])


def xray_chest(root: Path, expected: Expected, rng: Rng) -> None:
    """16-bit PNG with 0/255 masks; one image has no mask."""
    shape = (144, 128)
    for case in ("p1_f", "p2_f", "p3_f", "p4_f", "p5_f"):
        r = rng(case)
        lungs = ellipse(shape, jitter(r, (68, 38), 3), jitter(r, (44, 20), 3))
        lungs |= ellipse(shape, jitter(r, (68, 90), 3), jitter(r, (44, 20), 3))
        ribs = 2500.0 * (np.sin(np.arange(shape[0]) / 3.5)[:, None] > 0.6)
        grey = 34000.0 - 15000.0 * lungs + ribs + 900.0 * texture(r, shape)
        picture(root / "CXR" / f"{case}.png", np.clip(np.rint(grey), 0, 65535).astype(np.uint16))
        if case != "p5_f":
            picture(root / "masks" / f"{case}_mask.png", 255 * lungs.astype(np.uint8))
            expected.picture("demo_xray_chest", case, [("lung", lungs)])


def skin(root: Path, expected: Expected, rng: Rng) -> None:
    """JPEG with PNG masks, people and findings in a table; the last image is cut off in the middle."""
    shape = (120, 150)
    lines = ["image,patient,sex,age,dx"]
    people = [("p1", "F", 45, "nevus"), ("p1", "F", 45, "melanoma"), ("p2", "M", 61, "melanoma")]
    people += [("p3", "M", 33, "nevus"), ("p4", "F", 70, "nevus")]
    for number, person in enumerate(people, 1):
        name = f"ISIC_{number:07d}"
        r = rng(name)
        lesion = ellipse(shape, jitter(r, (60, 75), 10), jitter(r, (26, 34), 8))
        shade = texture(r, shape, 3)
        color = np.where(lesion[..., None], np.array([120.0, 75, 60]), np.array([222.0, 178, 160]))
        picture(root / "images" / f"{name}.jpg", _uint8(color + 9.0 * shade[..., None]), quality=90)
        picture(root / "masks" / f"{name}_segmentation.png", 255 * lesion.astype(np.uint8))
        lines.append(",".join([name, *map(str, person)]))
        if number == len(people):
            _cut(root / "images" / f"{name}.jpg")
        else:
            expected.picture("demo_skin", name.removeprefix("ISIC_"), [("skin lesion", lesion)])
    write_bytes(root / "meta.csv", ("\n".join(lines) + "\n").encode())


def endoscopy(root: Path, expected: Expected, rng: Rng) -> None:
    """JPEG images and lossy JPEG masks; each polyp of a picture is a region of its own."""
    shape = (128, 144)
    for number in range(1, 6):
        case = f"k{number}"
        r = rng(case)
        polyps = [ellipse(shape, jitter(r, (44, 48), 5), jitter(r, (18, 20), 4))]
        if number % 2 == 0:
            polyps.append(ellipse(shape, jitter(r, (94, 108), 4), jitter(r, (13, 13), 2)))
        drawn: Mask = np.any(polyps, axis=0)
        dark = np.hypot(*np.indices(shape) - np.array([[[64]], [[72]]])) / 90.0
        color = np.array([190.0, 95, 75]) * (1.15 - dark)[..., None] + 12.0 * texture(r, shape, 4)[..., None]
        color[drawn] += np.array([35.0, 45, 40])
        picture(root / "images" / f"{case}.jpg", _uint8(color), quality=90)
        picture(root / "masks" / f"{case}.jpg", 255 * drawn.astype(np.uint8), quality=92)
        expected.picture("demo_endoscopy", case, [("colorectal polyp", p) for p in polyps])


def fundus_disc(root: Path, expected: Expected, rng: Rng) -> None:
    """Colour masks of rim and cup, the disc as their union; the first picture is a real photograph."""
    size = 160
    for case in ("n0001", "n0002", "n0003", "n0004"):
        r = rng(case)
        center = (78.3, 56.2) if case == "n0001" else jitter(r, (76, 72), 12)
        disc = ellipse((size, size), center, (26, 22) if case == "n0001" else jitter(r, (22, 20), 2))
        cup = ellipse((size, size), (center[0], center[1] + 5), (15, 11)) & disc
        rgb = _retina_photo(size) if case == "n0001" else _retina_drawn(r, size, center, disc, cup)
        mask = np.zeros((size, size, 3), dtype=np.uint8)
        mask[disc] = (255, 0, 0)
        mask[cup] = (0, 255, 0)
        picture(root / "images" / f"{case}.png", rgb)
        picture(root / "masks" / f"{case}.png", mask)
        expected.picture("demo_fundus_disc", case, [("optic disc", disc), ("optic cup", cup)])


def fundus_lesions(root: Path, expected: Expected, rng: Rng) -> None:
    """TIFF images, masks of one page a class; parts of the classes count apart, microaneurysms are not approved."""
    size = 136
    for case in ("r1", "r2", "r3"):
        r = rng(case)
        spots = [ellipse((size, size), jitter(r, c, 3), jitter(r, (13, 11), 2)) for c in ((42, 36), (44, 96))]
        bleeds = [ellipse((size, size), jitter(r, (96, 66), 5), jitter(r, (14, 17), 2))]
        tiny = ellipse((size, size), (20, 68), (9, 9))
        rgb = _retina_drawn(r, size, (68, 20), tiny & False, tiny & False).astype(np.float64)
        for masks, color in ((spots, (225, 205, 110)), (bleeds, (110, 20, 15)), ([tiny], (120, 25, 20))):
            rgb[np.any(masks, axis=0)] = color
        picture(root / "images" / f"{case}.tif", _uint8(rgb + 4.0 * texture(r, (size, size))[..., None]))
        layers = [255 * np.any(m, axis=0).astype(np.uint8) for m in (spots, bleeds, [tiny])]
        pages(root / "lesions" / f"{case}.tif", layers)
        regions = [("hard exudate", m) for m in spots] + [("retinal hemorrhage", m) for m in bleeds]
        expected.picture("demo_fundus_lesions", case, regions)


def _speckle(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Ultrasound-like grey values: multiplicative noise that fades with depth."""
    noise = np.hypot(texture(rng, shape, 1.0, 0.1), texture(rng, shape, 1.0, 0.1))
    return np.asarray(70.0 * noise * np.linspace(1.1, 0.5, shape[0])[:, None])


def _retina_photo(size: int) -> NDArray[np.uint8]:
    """The optic disc's surroundings in the retina photograph that scikit-image carries, resampled."""
    path = Path(skimage.__file__).parent / "data" / "retina.jpg"
    with Image.open(path) as photo:
        crop = photo.convert("RGB").resize((size, size), Image.Resampling.BOX, box=(0, 325, 661, 986))
    return np.asarray(crop)


def _retina_drawn(
    rng: np.random.Generator, size: int, center: tuple[float, ...], disc: Mask, cup: Mask
) -> NDArray[np.uint8]:
    field = ellipse((size, size), (size / 2, size / 2), (size * 0.49, size * 0.49))
    rgb = np.where(field[..., None], np.array([196.0, 92, 48]), 4.0) + 5.0 * texture(rng, (size, size), 6)[..., None]
    rgb[disc] = (236, 176, 104)
    rgb[cup] = (250, 226, 180)
    rgb[vessels(rng, size, (center[0], center[1]), 9) & field] = (120, 30, 22)
    return _uint8(rgb)


def _uint8(grey: Floats) -> NDArray[np.uint8]:
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _cut(path: Path) -> None:
    data = path.read_bytes()
    write_bytes(path, data[: len(data) // 2])


SOURCES: dict[str, tuple[Callable[[Path, Expected, Rng], None], dict[str, Any], dict[str, Any]]] = {
    "demo_us_fetal": (
        us_fetal,
        {
            "modality": "ultrasound",
            "body_regions": ["pelvis"],
            "files": [
                {
                    "image": rf"{folder}/{{case:\d+}}_HC.png",
                    "mask": f"{folder}/{{case}}_HC_Annotation.png",
                    "kind": "outline",
                    "split": split,
                }
                for folder, split in (("training_set", "train"), ("test_set", "test"))
            ],
            "labels": {1: "head"},
        },
        {"head": "fetal head"},
    ),
    "demo_us_breast": (
        us_breast,
        {
            "modality": "ultrasound",
            "body_regions": ["chest"],
            "files": [{"image": "images/{case}.bmp", "mask": "masks/{case}.png", "kind": "label_map"}],
            "labels": {1: "benign tumour", 2: "malignant tumour"},
            "components": "all",
        },
        {"benign tumour": "breast tumor", "malignant tumour": "breast tumor"},
    ),
    "demo_xray_chest": (
        xray_chest,
        {
            "modality": "xray",
            "detail": "posteroanterior",
            "body_regions": ["chest"],
            "files": [
                {
                    "image": "CXR/{case}.png",
                    "mask": "masks/{case}_mask.png",
                    "kind": "binary",
                }
            ],
            "labels": {1: "lungs"},
        },
        {"lungs": "lung"},
    ),
    "demo_skin": (
        skin,
        {
            "folder": "DemoSkin",
            "modality": "dermoscopy",
            "body_regions": ["skin"],
            "files": [
                {
                    "image": r"images/ISIC_{case:\d+}.jpg",
                    "mask": "masks/ISIC_{case}_segmentation.png",
                    "kind": "binary",
                }
            ],
            "labels": {1: "lesion"},
            "tables": [
                {
                    "file": "meta.csv",
                    "key": "image",
                    "case": "ISIC_{case}",
                    "columns": {"subject": "patient", "sex": "sex", "age": "age", "diagnosis": "dx"},
                    "values": {"sex": {"M": "male", "F": "female"}},
                }
            ],
        },
        {"lesion": "skin lesion"},
    ),
    "demo_endoscopy": (
        endoscopy,
        {
            "modality": "endoscopy",
            "detail": "colonoscopy",
            "body_regions": ["abdomen"],
            "files": [{"image": "images/{case}.jpg", "mask": "masks/{case}.jpg", "kind": "binary"}],
            "labels": {1: "polyp"},
            "components": ["polyp"],
        },
        {"polyp": "colorectal polyp"},
    ),
    "demo_fundus_disc": (
        fundus_disc,
        {
            "modality": "fundus",
            "body_regions": ["head and neck"],
            "files": [{"image": "images/{case}.png", "mask": "masks/{case}.png", "kind": "color_map"}],
            "labels": {"#ff0000": "rim", "#00ff00": "cup"},
            "derive": {"disc": ["rim", "cup"]},
        },
        {
            "rim": {"label": None, "status": "rejected", "why": "only a part of the disc; the disc is derived"},
            "cup": "optic cup",
            "disc": "optic disc",
        },
    ),
    "demo_fundus_lesions": (
        fundus_lesions,
        {
            "modality": "fundus",
            "body_regions": ["head and neck"],
            "files": [{"image": "images/{case}.tif", "mask": "lesions/{case}.tif", "kind": "multipage"}],
            "labels": {0: "exudates", 1: "haemorrhages", 2: "microaneurysms"},
            "components": "all",
        },
        {
            "exudates": "hard exudate",
            "haemorrhages": "retinal hemorrhage",
            "microaneurysms": {
                "label": "microaneurysm",
                "status": "proposed",
                "by": "curator",
                "confidence": 0.9,
                "why": "drawn too large to be one",
            },
        },
    ),
}
