"""A manifest and a label map proposed from a folder never seen; a person completes both."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etl import formats
from etl.errors import Failure, ItemError
from etl.kinds import integral
from etl.labels.maps import Ontology
from etl.manifests.patterns import compile_pattern
from etl.sources.inventory import walk
from etl.sources.pairing import TEXTS, Pair, own_words, pairs

READ = 20
"""Masks opened to find kinds and values."""
MOST_VALUES, MOST_COLORS = 300, 40
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
Value = tuple[str, str, str]
"""A key of `labels`, the raw label proposed for it, a comment."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The texts of a manifest and a label map, and the number of pairs found."""

    manifest: str
    label_map: str
    pairs: int


@dataclass(frozen=True, slots=True)
class Content:
    """What the masks of a pair hold: the annotation kind and its labels."""

    kind: str
    labels: tuple[Value, ...]


def propose(
    slug: str, root: Path, ontology: Ontology, *, folder: str | None = None, modality: str | None = None
) -> Proposal:
    """A manifest that validates, from the files below `root`.

    Raises:
        Failure: no image with a mask was recognised; says what is there.
    """
    paths = [path for path in walk(root) if _may_annotate(root / path)]
    found = pairs(paths, lambda path: _structures(root / path)) + _lists(root, paths)
    if not found:
        kinds = Counter("".join(Path(path).suffixes[-2:]) for path in paths)
        there = ", ".join(f"{n} {ending or 'without ending'}" for ending, n in kinds.most_common(6))
        raise Failure(
            f"{root}: no image with a mask of a like name found among {len(paths)} files ({there}); "
            "write the manifest by hand: the README shows how"
        )
    known = _documented(root, walk(root))
    contents = [_apart(content(root, pair, known), pair, several=len(found) > 1) for pair in found]
    lines = _head(slug, folder, modality or _modality(root, found[0]), modality is None)
    images = {pair.image for pair in found}
    for pair, what in zip(found, contents, strict=True):
        lines += _rule(pair, what, own=len(found) > 1, several=len(images) > 1)
    if len(found) == 1:
        lines += ["labels:", *_labels(contents[0].labels, "  ")]
    raws = dict.fromkeys(raw for what in contents for _, raw, _ in what.labels)
    return Proposal("\n".join(lines) + "\n", label_map(slug, list(raws), ontology), sum(len(p.files) for p in found))


def _apart(what: Content, pair: Pair, *, several: bool) -> Content:
    """Raw labels that only say a value get the words of the mask's name, as two rules may not give the same one."""
    words = own_words(pair.mask, pair.image) if several else ""
    if not words:
        return what
    named = ((k, f"{words} {raw.removeprefix('value ')}" if note else raw, note) for k, raw, note in what.labels)
    return Content(what.kind, tuple(named))


def _head(slug: str, folder: str | None, modality: str, guessed: bool) -> list[str]:
    guess = "  # a guess from the files: ct, mri, ultrasound, xray, dermoscopy, endoscopy or fundus?" if guessed else ""
    return [
        f"slug: {slug}",
        *([f"folder: {_text(folder)}"] if folder and folder != slug else []),
        f"title: {slug}  # the dataset's name",
        f"modality: {modality}{guess}",
        "body_regions: []  # head and neck, chest, abdomen, pelvis, spine and limbs, skin",
        "license: {name: unknown, redistribution: unknown}  # as its publisher states it",
        "access: open  # open, registration or request",
        "evidence: []  # where layout and label values are documented",
        "status: unverified",
        "files:",
    ]


def _rule(pair: Pair, what: Content, *, own: bool, several: bool) -> list[str]:
    count = len({image for image, _ in pair.files})
    lines = [f"  - image: {_text(pair.image)}  # {count} images"]
    words = own_words(pair.image, "")
    if several and words and "{case}" in pair.image:
        lines += [f"    case: {_text('{case}-' + words.replace(' ', '-'))}  # one name an image"]
    lines += [f"    mask: {_text(pair.mask)}", f"    kind: {what.kind}"]
    return [*lines, "    labels:", *_labels(what.labels, "      ")] if own else lines


def _labels(values: Sequence[Value], indent: str) -> list[str]:
    return [f"{indent}{_text(key)}: {_text(raw)}" + (f"  # {note}" if note else "") for key, raw, note in values]


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def content(root: Path, pair: Pair, known: dict[str, str]) -> Content:
    """What the masks of a pair hold, from the first of them; `known` names documented values."""
    masks = list(dict.fromkeys(mask for _, mask in pair.files))
    labels = _captured(pair)
    if labels:
        named = ((label, label.replace("+", " ").strip("_ "), "") for label in labels)
        return Content("file_per_label", tuple(named))
    suffix = Path(masks[0]).suffix.lower()
    if suffix == ".txt":
        return Content("yolo", _classes({line.split()[0] for m in masks for line in _lines(root / m) if line.split()}))
    if suffix == ".xml":
        return Content("voc", _classes({name for m in masks[:READ] for name in _tags(root / m)}, named=True))
    if suffix == ".json" and "{" not in pair.mask:
        return Content("coco", _classes(set(_categories(root / masks[0])), named=True))
    if suffix == ".json":
        return Content("labelme", _classes({name for m in masks[:READ] for name in _shapes(root / m)}, named=True))
    values: Counter[str] = Counter()
    for mask in masks[:READ]:
        try:
            values.update(_values(root / mask))
        except ItemError as error:
            values.update([f"! {error.detail}"])
    if suffix in (".tif", ".tiff") and (count := _pages(root / masks[0])) > 1:
        return Content("multipage", tuple((str(n), f"page {n}", "name it") for n in range(count)))
    found = _of_values(values, known, pictures=suffix in PICTURES)
    kind = {".npy": "npy", ".npz": "npy", ".mat": "mat"}.get(suffix)
    return Content(kind, found.labels) if kind else found


def _captured(pair: Pair) -> list[str]:
    """The texts of {label} in the masks, where their pattern has it."""
    mask = compile_pattern(pair.mask, compile_pattern(pair.image))
    if "label" not in mask.names:
        return []
    return sorted({found["label"] for _, path in pair.files if (found := mask.match(path)) is not None})


def _pages(path: Path) -> int:
    try:
        return len(formats.read_pages(path))
    except ItemError:
        return 1


def _of_values(values: Counter[str], known: dict[str, str], *, pictures: bool) -> Content:
    if any(value.startswith("#") for value in values):
        return Content("color_map", tuple((v, known.get(v, v), f"in {n} files: name it") for v, n in values.items()))
    numbers = sorted((v for v in values if v.lstrip("-").isdecimal() and v != "0"), key=int)
    if "grey" in values or (len(numbers) == 1 and pictures) or not numbers:
        return Content("binary", (("1", "foreground", "the structure that is drawn: name it"),))
    return Content("label_map", tuple((v, known.get(v, f"value {v}"), _note(v, values, known)) for v in numbers))


def _note(value: str, values: Counter[str], known: dict[str, str]) -> str:
    return "" if value in known else f"in {values[value]} masks read: name it"


def _values(path: Path) -> list[str]:
    """The values of one mask as keys: integers, `#rrggbb`, or `grey` for a mask to be thresholded."""
    if not formats.is_picture(path):
        found = np.unique(integral(formats.read(path).array, path.name))
        return [str(int(v)) for v in found[:MOST_VALUES]]
    try:
        found = np.unique(formats.read_indexed(path))
    except ItemError:
        colors = formats.read_colors(path).reshape(-1, 3)
        distinct = np.unique(colors, axis=0)
        if len(distinct) > MOST_COLORS:
            return ["grey"]
        return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in distinct.tolist() if r or g or b]
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    return ["grey"] if len(found) > MOST_COLORS or lossy else [str(int(v)) for v in found]


def _structures(path: Path) -> int:
    """How many labels a file holds, if it holds few whole numbers as a mask does; else 0."""
    try:
        values = {value for value in _values(path) if value != "0"} if path.suffix.lower() not in TEXTS else set()
    except ItemError:
        return 0
    return len(values) if len(values) <= MOST_COLORS and all(value.isdecimal() for value in values) else 0


def _classes(names: set[str], *, named: bool = False) -> tuple[Value, ...]:
    found = sorted(names, key=lambda name: (len(name), name)) or ["0"]
    return tuple((name, name if named else f"class {name}", "" if named else "name it") for name in found)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _tags(path: Path) -> list[str]:
    from xml.etree import ElementTree

    try:
        return [node.findtext("name", "") for node in ElementTree.parse(path).iter("object")]
    except ElementTree.ParseError:
        return []


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return None


def _may_annotate(path: Path) -> bool:
    """Whether a text holds boxes, and a JSON file drawn shapes, and not settings or facts beside an image."""
    if path.suffix.lower() == ".txt":
        return all(_is_yolo(line.split()) for line in _lines(path) if line.strip())
    if path.suffix.lower() != ".json":
        return True
    data = _json(path)
    return isinstance(data, dict) and (isinstance(data.get("shapes"), list) or bool(_categories(path)))


def _is_yolo(words: Sequence[str]) -> bool:
    """Whether a line is a class number and four or more finite numbers."""
    try:
        return len(words) >= 5 and words[0].isdecimal() and all(np.isfinite(float(word)) for word in words[1:])
    except ValueError:
        return False


def _shapes(path: Path) -> list[str]:
    data = _json(path)
    shapes = data.get("shapes", []) if isinstance(data, dict) else []
    return [str(shape.get("label")) for shape in shapes if isinstance(shape, dict)]


def _categories(path: Path) -> list[str]:
    """The class names of a COCO file; none of any other."""
    data = _json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(k), list) for k in ("images", "categories")):
        return []
    return [str(node.get("name")) for node in data["categories"] if isinstance(node, dict)]


def _lists(root: Path, paths: Sequence[str]) -> list[Pair]:
    """COCO files with the folder of the images that they list."""
    found = []
    for path in paths:
        if not path.lower().endswith(".json") or not _categories(root / path):
            continue
        names = {str(node.get("file_name", "")).rsplit("/", 1)[-1] for node in _json(root / path)["images"]}
        images = [other for other in paths if other.rsplit("/", 1)[-1] in names]
        for folder, ending in sorted({(i.rpartition("/")[0], Path(i).suffix) for i in images}):
            own = [i for i in images if i.rpartition("/")[0] == folder and i.endswith(ending)]
            pattern = f"{folder}/{{case}}{ending}" if folder else f"{{case}}{ending}"
            found.append(Pair(pattern, path, tuple((image, path) for image in own)))
    return found


def _documented(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Value → name from a `dataset.json` as the Medical Segmentation Decathlon and nnU-Net write it."""
    known: dict[str, str] = {}
    for path in paths:
        if path.rsplit("/", 1)[-1] != "dataset.json":
            continue
        data = _json(root / path)
        labels = data.get("labels", {}) if isinstance(data, dict) else {}
        for key, name in labels.items() if isinstance(labels, dict) else ():
            value, text = (key, name) if str(key).isdecimal() else (name, key)
            if isinstance(text, str) and str(value).isdecimal():
                known[str(value)] = text
    return known


def _modality(root: Path, pair: Pair) -> str:
    """A guess: volumes with values below -500 are CT, other volumes MRI; grey pictures X-ray, coloured endoscopy."""
    try:
        raster = formats.read(root / pair.files[0][0])
    except ItemError:
        return "ct"
    if raster.affine is not None:
        return "ct" if float(np.min(raster.array)) <= -500 else "mri"
    return "endoscopy" if raster.array.ndim == 3 else "xray"


def label_map(slug: str, raws: Sequence[str], ontology: Ontology) -> str:
    """A label map with a proposed label where the ontology has the name or a synonym."""
    names = {_plain(text): label.name for label in ontology.labels.values() for text in (*label.synonyms, label.name)}
    lines, open_ends = [], []
    for raw in raws:
        label = names.get(_plain(raw))
        if label is None:
            open_ends.append(f"  # {_text(raw)}: {{label: …, status: approved, by: …}}")
        else:
            lines.append(f"  {_text(raw)}: {{label: {_text(label)}, status: proposed, by: synonym}}")
    none = [] if lines else ["labels: {}"]
    note = ["  # no label of this name; `medglip-etl labels list` shows all:"] if open_ends else []
    return "\n".join([f"source: {slug}", *(none or ["labels:"]), *lines, *note, *open_ends]) + "\n"


def _plain(text: str) -> str:
    words = text.lower().replace("_", " ").replace("-", " ").replace("+", " ").split()
    return " ".join(sorted(words))
