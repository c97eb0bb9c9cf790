"""Annotation files to layers and objects, each with the source's own name.

Every kind of the manifest is one function in `KINDS`. What a file holds and the manifest does not
name keeps a value of its own without a name, so that it is reported and not lost.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etl.errors import ItemError
from etl.kinds import arrays, dicom, listings, objects, pictures, stack, values
from etl.kinds.layers import Annotation, Grid, Layer, Lost, Mask, Object, Objects, Reader, unite
from etl.kinds.listings import LISTINGS, listing
from etl.kinds.pictures import fill_outline, name_colors
from etl.kinds.values import integral, name_values

if TYPE_CHECKING:
    from etl.manifests.manifest import Rule

__all__ = [
    "KINDS", "LISTINGS", "Annotation", "Grid", "Layer", "Lost", "Mask", "Object", "Objects", "fill_outline",
    "integral", "listing", "name_colors", "name_values", "read_layers", "unite",
]  # fmt: skip

KINDS: dict[str, Reader] = {
    "label_map": values.label_map,
    "binary": values.binary,
    "file_per_label": dicom.file_per_label,
    "bitfield": values.bitfield,
    "color_map": pictures.color_map,
    "outline": pictures.outline,
    "multipage": pictures.multipage,
    "image_stack": stack.image_stack,
    "mat": arrays.array_values,
    "npy": arrays.array_values,
    "coco": listings.coco,
    "csv_boxes": listings.csv_boxes,
    "rle_csv": listings.rle_csv,
    "json_polygons": listings.json_polygons,
    "voc": objects.voc,
    "yolo": objects.yolo,
    "labelme": objects.labelme,
    "dicom_seg": dicom.segmentation,
    "rtstruct": dicom.structures,
    "dicom_label": dicom.label_series,
}


def read_layers(
    case_masks: Sequence[tuple["Rule", Path, str | None]], labels: dict[str, str], grid: Grid
) -> list[Annotation]:
    """The annotations of a case, rule by rule; a rule's own ``labels`` replace the manifest's."""
    rules: list[tuple[Rule, list[Mask]]] = []
    for rule, path, label in case_masks:
        known = next((masks for other, masks in rules if other == rule), None)
        if known is None:
            rules.append((rule, known := []))
        known.append(Mask(path, label))
    found: list[Annotation] = []
    for rule, masks in rules:
        own = labels if rule.labels is None else {str(key): name for key, name in rule.labels.items()}
        found += [_on_grid(item, rule, grid) for item in KINDS[rule.kind](rule, masks, own, grid)]
    return found


def _on_grid(item: Annotation, rule: "Rule", grid: Grid) -> Annotation:
    """A layer as the rule's `mask_grid` wants it: with the affine of the image, or free to have a grid of its own."""
    if not isinstance(item, Layer) or rule.mask_grid is None or item.affine is None:
        return item
    if rule.mask_grid == "nearest":
        return replace(item, loose=True)
    if item.array.shape[:3] != grid.shape[:3]:
        raise ItemError("shape_mismatch", f"{grid.path}: image {grid.shape}, mask {item.array.shape} (file order)")
    return replace(item, affine=grid.affine)
