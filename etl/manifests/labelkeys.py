"""The keys of a manifest's `labels`: which forms each annotation kind takes, and one way to write each."""

from __future__ import annotations

import re

from etl import yamlfile

SEGMENTS = "segments"
"""The keys of a label map of 3D Slicer, whose segments have names too."""
COLOR = re.compile(r"#[0-9a-f]{6}")
_VALUES = frozenset({"label_map", "image_stack", "mat", "npy"})
_INTEGERS = frozenset({"dicom_label", "yolo", "multipage", "bitfield"})
_ONE = frozenset({"binary", "outline"})
_TEXTS = frozenset(
    {SEGMENTS, "file_per_label", "dicom_seg", "rtstruct", "coco", "voc", "labelme", "csv_boxes", "rle_csv",
     "json_polygons"}
)
_KNOWN = _VALUES | _INTEGERS | _ONE | _TEXTS | {"color_map"}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_RANGE = re.compile(r"(0|[1-9][0-9]*)-(0|[1-9][0-9]*)")


def key_kind(kind: str, mask: str | None) -> str:
    """The kind that decides about keys: a `.seg.nrrd` of kind label_map takes the names of its segments too."""
    return SEGMENTS if kind == "label_map" and (mask or "").lower().endswith(".seg.nrrd") else kind


def suits(kind: str, key: str) -> bool:
    """Whether a key of `labels` can mean something to an annotation kind."""
    if kind in _VALUES:
        return bool(_INTEGER.fullmatch(key)) or key == ">0" or _ordered_range(key)
    if kind in _ONE:
        return key == "1"
    if kind == "bitfield":
        return key.isdecimal() or _ordered_range(key)
    if kind in _INTEGERS:
        return bool(_INTEGER.fullmatch(key))
    if kind == "color_map":
        return bool(COLOR.fullmatch(key))
    return bool(key)


def _ordered_range(key: str) -> bool:
    match = _RANGE.fullmatch(key)
    return match is not None and int(match[1]) <= int(match[2])


def _normal_key(kind: str, key: str) -> str:
    if kind == "color_map":
        return key.lower()
    if kind in _VALUES or kind in _INTEGERS or kind in _ONE:
        tight = re.sub(r"\s+", "", key)
        number = re.fullmatch(r"([+-]?)(0|[1-9][0-9]*)(\.0*)?", tight)
        if number:
            return ("-" if number[1] == "-" and number[2] != "0" else "") + number[2]
        return tight
    return key


def normalize(
    document: yamlfile.Document, holder: dict[str, yamlfile.Value], at: yamlfile.Location, kinds: list[str]
) -> list[str]:
    """Bring the keys of `labels` in a manifest or rule to one form; returns what is wrong with them."""
    labels, problems = holder.get("labels"), []
    if not isinstance(labels, dict):
        return []
    result: dict[str, yamlfile.Value] = {}
    for key, name in labels.items():
        location = (*at, "labels", key)
        forms = [_normal_key(kind, key) for kind in kinds]
        fitting = [form for kind, form in zip(kinds, forms, strict=True) if suits(kind, form)]
        new = fitting[0] if fitting and key not in fitting else key
        known = [kind for kind in kinds if kind in _KNOWN]
        if known and not fitting:
            problems.append(document.message(location, _bad_key(key, known)))
        if new in result:
            problems.append(document.message(location, f"means the same as another key ({new}); keep one of them"))
        document.lines[(*at, "labels", new)] = document.lines[location]
        result[new] = name
    holder["labels"] = result
    return problems


def _bad_key(key: str, kinds: list[str]) -> str:
    text = f"'{key}' is no key of kind {', '.join(dict.fromkeys(kinds))}"
    if re.fullmatch(r"[+-]?0+[0-9]+", key):
        return f"{text}: write the number without leading zeros"
    if any(kind in _ONE for kind in kinds):
        return f"{text}: the one key is 1"
    if "color_map" in kinds:
        return f"{text}: write the color as \"#rrggbb\""
    if "bitfield" in kinds:
        return f'{text}: write the number of a bit, or "a-b"'
    return f"{text}: write an integer" + (', "a-b" or ">0"' if set(kinds) & _VALUES else "")
