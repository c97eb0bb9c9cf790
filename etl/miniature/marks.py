"""What is drawn into each mask file of a miniature, by annotation kind. Pure."""

import re

from etl.manifests.manifest import Manifest, Rule
from etl.miniature.shapes import Mark

VALUES = frozenset({"label_map", "image_stack", "dicom_label", "mat", "npy"})
OBJECTS = frozenset({"coco", "voc", "yolo", "labelme", "csv_boxes", "rle_csv", "json_polygons"})
"""Kinds in which each object is a region of its own."""
BOXES = frozenset({"voc", "yolo", "csv_boxes"})
"""Kinds that give boxes, no masks."""


def marks(manifest: Manifest, rule: Rule, label: str | None) -> list[Mark]:
    """The marks of one mask file; `label` is the text of a file of one label."""
    labels = manifest.rule_labels(rule)
    if rule.kind == "file_per_label":
        labels = {key: raw for key, raw in labels.items() if key == label}
    found: list[Mark] = []
    for number, (key, raw) in enumerate(labels.items()):
        split = manifest.components == "all" or raw in manifest.components
        blocks = 2 if split or (number == 0 and rule.kind not in BOXES) else 1
        found += [Mark(key, raw, value, instance, blocks) for value, instance in _values(rule, key, number)]
    return found


def _values(rule: Rule, key: str, number: int) -> list[tuple[int, int]]:
    """(value, instance) pairs that a key stands for; a long range shows its ends and the value after its first."""
    if rule.kind in ("binary", "outline", "file_per_label", "rtstruct", "dicom_seg") or rule.kind in OBJECTS:
        return [(number + 1, 0)]
    if rule.kind == "color_map":
        return [(int(key[1:], 16), 0)]
    if key.startswith(">"):
        return [(int(key[1:]) + 1, 0), (int(key[1:]) + 3, 0)]
    span = re.fullmatch(r"(\d+)-(\d+)", key)
    if span is None:
        return [(int(key), 0)]
    low, high = int(span[1]), int(span[2])
    shown = sorted({max(low, 1), min(max(low, 1) + 1, high), high})
    return [(value, 0 if rule.kind == "bitfield" else value) for value in shown]


def undefined(manifest: Manifest, rule: Rule) -> Mark | None:
    """A mark with a value that the manifest does not name, where the kind has such values."""
    labels = manifest.rule_labels(rule)
    taken = {value for n, key in enumerate(labels) for value, _ in _values(rule, key, n)} | {*rule.ignore}
    if rule.kind == "color_map":
        known = {*labels, rule.background}
        color = next(c for c in ("#804020", "#208040", "#402080", "#f0e0d0") if _far(c, known, rule.tolerance))
        return Mark(color, None, int(color[1:], 16), 0)
    if rule.kind not in VALUES or any(key.startswith(">") for key in labels):
        return None
    spans = [(int(m[1]), int(m[2])) for key in labels if (m := re.fullmatch(r"(\d+)-(\d+)", key))]
    value = next(v for v in range(1, 1 << 16) if v not in taken and not any(a <= v <= b for a, b in spans))
    return Mark(str(value), None, value, 0)


def _far(color: str, known: set[str], tolerance: float) -> bool:
    def channels(text: str) -> tuple[int, ...]:
        return tuple(int(text[n : n + 2], 16) for n in (1, 3, 5))

    distances = [sum((a - b) ** 2 for a, b in zip(channels(color), channels(k), strict=True)) for k in known]
    return min(distances) > tolerance**2
