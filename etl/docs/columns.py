"""What each column of the Parquet files means: tables for `docs/data-format.md`, with the types of the code's schemas.

A column without a meaning here, or a meaning without a column, is an error: the page cannot go stale.
"""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from etl import markdown, schemas
from etl.errors import REASONS
from etl.frames import QUARANTINE
from etl.quality.checks import CHECKS
from etl.release.shards import COLUMNS, REGION

Meaning = Mapping[str, tuple[str, str]]  # column → unit (or nothing), meaning

IMAGE_MEANING: Meaning = {
    "image_id": ("from 1", "rank of the image in key order over all splits; valid within one build"),
    "key": ("", "`source/case/axis/slice_index`; stable over builds"),
    "source": ("", "slug of the source"),
    "modality": ("", "`ct mri ultrasound xray dermoscopy endoscopy fundus`"),
    "case": ("", "name of the case in its source; a channel or time of a 4D file ends in `-<channel>` or `-t<NN>`"),
    "subject": ("", "the person, as the source names them; comparable within a family of sources"),
    "split": ("", "`train val test`"),
    "axis": ("", "`axial coronal sagittal`, or `native` for a picture or frame"),
    "slice_index": ("voxels, frames", "index along the axis of the RAS+ volume; number of the frame; 0 for a picture"),
    "width": ("pixels", "columns of the image"),
    "height": ("pixels", "rows of the image"),
    "spacing": ("mm", "(row, column): from a row to the next, from a column to the next; null if unknown"),
    "file_name": ("", "path of the loose PNG below `dataset/images/`, also where none were written"),
    "image": ("", "`bytes`: the PNG, 8 bits, grey or RGB, lossless; `path`: the same as `file_name`"),
    "caption": ("", "the phrases of the image, each once, in order of label id, joined by `. `"),
    "license": ("", "licence of the image, as its source or the source's table names it"),
    "redistribution": ("", "`allowed noncommercial forbidden unknown`, of the source"),
    "annotated_label_ids": ("label ids", "what the source annotated here: present or absent; all others are unknown"),
    "absent_label_ids": ("label ids", "annotated, and no pixel of it is in the image"),
    "sex": ("", "as the source's table has it, with the manifest's `values`; null if unknown"),
    "age": ("as the source", "as the source's table has it; null if unknown"),
    "diagnosis": ("", "as the source's table has it; null if unknown"),
    "scanner": ("", "as the source's table has it; null if unknown"),
    "contrast_phase": ("", "as the source's table has it; null if unknown"),
    "flags": ("", "names of checks that have something to say of it"),
    "regions": ("", "the labelled areas, in key order, at least one; fields below"),
}
REGION_MEANING: Meaning = {
    "region_id": ("from 1", "rank of the region in key order over all splits; valid within one build"),
    "key": ("", "`image key/raw_label/n`; n counts the regions of the raw label on the image, from 0"),
    "label_id": ("1 to 198", "id of the label in the ontology; fixed"),
    "label": ("", "name of the label"),
    "category_id": ("1 to 38", "id of the category in the ontology; fixed"),
    "category": ("", "name of the category"),
    "body_region": ("", "one of the six"),
    "raw_label": ("", "the name that the source documents"),
    "phrase": ("", "what names the region in a prompt: the label's name"),
    "bbox": ("pixels", "`[x, y, width, height]`, whole numbers, half open: x ≤ column < x + width"),
    "area": ("pixels", "pixels of the mask; width · height of a given box"),
    "area_fraction": ("0 to 1", "area / (width · height of the image)"),
    "derived": ("", "whether the raw label is a union of others (the manifest's `derive`)"),
    "segmentation": ("", "COCO compressed RLE: `size` [height, width], `counts`; null for a given box"),
}
QUARANTINE_MEANING: Meaning = {
    "source": ("", "slug of the source"),
    "case": ("", "name of the case"),
    "axis": ("", "of an axis, image or region; else null"),
    "slice_index": ("voxels, frames", "of an image or region; else null"),
    "raw_label": ("", "of a region or object; an undefined value is its number; else null"),
    "stage": ("", "which stage put it aside"),
    "reason": ("", "one of the reasons below"),
    "detail": ("", "the cause in words; null for cases of a source under pseudonyms"),
    "area_fraction": ("0 to 1", "of a region; else null"),
}
REASON_MEANING = {
    "unreadable": "a file, or an object in it, cannot be read",
    "no_mask": "an image without annotation",
    "no_image": "an annotation without image",
    "shape_mismatch": "mask and image have different shapes",
    "geometry_mismatch": "mask and image have different grids, or the directions of the voxels are unknown",
    "incomplete_volume": "slices of a series are missing or not evenly spaced",
    "undefined_label": "a value or name that the manifest does not define",
    "unapproved_label": "a raw label without an approved entry in the label map",
    "rejected_label": "a raw label that the label map rejects",
    "empty_mask": "nothing is annotated in it",
    "too_small": "a region under the least area",
    "duplicate": "an image that another one shows already",
    "low_quality": "an axis whose slices have too short a side, an image with fewer than `--min-regions`",
    "too_large": "more memory than a case may take",
    "identifying": "pixels that may show who the patient is",
    "unsupported": "a format or geometry that is not read",
    "not_placed": "an object that has no place on a slice of its image",
    "excluded": "a known fault of the public data, named in the manifest",
    "not_redistributable": "left out by `--only-redistributable`",
    "worker_lost": "it killed its worker each time",
}
CASES_MEANING: Meaning = {
    "key": ("", "digest of the files (path, size, time) and of the settings that change pixels or regions"),
    "case": ("", "name of the case before channels and times"),
    "encode_from": ("0 to 1", "least share of the area from which its slices were encoded"),
    "root": ("", "folder of the source"),
    "files": ("", "paths of its files below the folder"),
    "images": ("", "JSON: the facts of each image of it (grid, spacing, counts of slices, evidence for the checks)"),
    "rejected": ("", "JSON: quarantine rows of it"),
}
SLICES_MEANING: Meaning = {
    "case": ("", "name of the image's case"),
    "axis": ("", "as in the dataset"),
    "slice_index": ("voxels, frames", "as in the dataset"),
    "png": ("", "the encoded slice"),
    "pixels": ("", "hash of shape and pixels, 16 bytes; null for an image of one value"),
    "coarse": ("", "perceptual hash of the whole"),
    "fine": ("", "perceptual hash of details"),
}
FOUND_MEANING: Meaning = {
    "case": ("", "name of the image's case"),
    "axis": ("", "as in the dataset"),
    "slice_index": ("voxels, frames", "as in the dataset"),
    "raw_label": ("", "the name, or an undefined value as its number"),
    "n": ("from 0", "counts the regions of the raw label on the slice"),
    "defined": ("", "whether the manifest knows the value"),
    "height": ("pixels", "rows of the slice"),
    "width": ("pixels", "columns of the slice"),
    "x": ("pixels", "least column"),
    "y": ("pixels", "least row"),
    "w": ("pixels", "columns of the box"),
    "h": ("pixels", "rows of the box"),
    "area": ("pixels", "pixels of the mask, or of the given box"),
    "rle": ("", "COCO run lengths; null for a given box, or where the region is under `encode_from`"),
}


def columns(fields: Iterable[tuple[str, pa.DataType]], meaning: Meaning) -> str:
    """The table of some columns.

    Raises:
        ValueError: a column has no meaning, or a meaning no column.
    """
    types = dict(fields)
    if types.keys() != meaning.keys():
        raise ValueError(f"columns and their meanings differ: {sorted(types.keys() ^ meaning.keys())}")
    rows = [(f"`{name}`", plain(kind), *meaning[name]) for name, kind in types.items()]
    return markdown.table(("column", "type", "unit", "meaning"), rows)


def plain(kind: pa.DataType) -> str:
    """An Arrow type in few words."""
    if pa.types.is_list(kind):
        return f"list of {plain(kind.value_type)}"
    return "struct" if pa.types.is_struct(kind) else str(kind)


def named(meaning: Mapping[str, str], names: Iterable[str], head: tuple[str, str]) -> str:
    """The table of some names; the same names as `names`."""
    if set(meaning) != set(names):
        raise ValueError(f"names and their meanings differ: {sorted(set(meaning) ^ set(names))}")
    return markdown.table(head, [(f"`{name}`", text) for name, text in meaning.items()])


def fields(schema: Iterable[pa.Field]) -> list[tuple[str, pa.DataType]]:
    """Names and types of a schema or struct."""
    return [(field.name, field.type) for field in schema]


TABLES = {
    "images": columns(COLUMNS, IMAGE_MEANING),
    "regions": columns(fields(REGION), REGION_MEANING),
    "flags": markdown.table(("flag", "level"), [(f"`{name}`", check.level) for name, check in CHECKS.items()]),
    "quarantine": columns(fields(QUARANTINE), QUARANTINE_MEANING),
    "reasons": named(REASON_MEANING, REASONS, ("reason", "is")),
    "cases": columns(fields(schemas.CASES), CASES_MEANING),
    "slices": columns(fields(schemas.IMAGES), SLICES_MEANING),
    "found": columns(fields(schemas.REGIONS), FOUND_MEANING),
}
