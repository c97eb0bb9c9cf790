"""A tiny raw folder of a source, drawn from its manifest alone, and the regions that a build must find in it.

Same layout, file names, formats and label values as the manifest says; the places of all regions are known. It
answers "does this manifest work?" without a download.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.demo.shapes import Expected, Mask
from etl.manifests.manifest import Manifest, Rule
from etl.miniature import dicom as miniature_dicom
from etl.miniature import files as miniature_files
from etl.miniature import lists as miniature_lists
from etl.miniature import masks as miniature_masks
from etl.miniature.marks import OBJECTS, marks, undefined
from etl.miniature.plan import ImagePlan, MaskPlan, plan
from etl.miniature.shapes import FEWEST_SLICES, FLAT, PICTURE, WHOLE, Grid, Mark, arrange, expect, texture, union
from etl.miniature.tables import write_tables

CODES = ("RAS", "LPS", "LAS", "ASL", "PIR", "SLA", "RPI", "IAL")
STACKED = 3
"""The first codes, those whose third axis runs to the head: a stack of pictures has one for each of its slices."""
TIMES = 2
FRAMES = 3
FLAT_MODALITIES = ("xray", "dermoscopy", "endoscopy", "fundus")
COLORED = ("dermoscopy", "endoscopy", "fundus")
Placed = dict[MaskPlan, list[tuple[Mark, list[Mask]]]]


@dataclass(slots=True)
class Miniature:
    """What a build must find: `regions` (source, case, axis, slice_index, label: the raw label, bbox, area), and
    what must be in quarantine: cases with a value without a name or without a mask, masks of an image not there."""

    regions: list[dict[str, object]] = field(default_factory=list)
    undefined: list[str] = field(default_factory=list)
    no_mask: list[str] = field(default_factory=list)
    no_image: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scene:
    """Images that share masks, hence a grid, and what is drawn in them."""

    images: tuple[ImagePlan, ...]
    grid: Grid
    placed: Placed


def write_miniature(manifest: Manifest, root: Path) -> Miniature:
    """Draw the files of a source below `root`, the source's own folder, and return what is to be found there.

    Raises:
        UsageError: the manifest names files or labels that cannot exist, or a kind that cannot be drawn.
    """
    images = plan(manifest, WHOLE[2] if manifest.modality in ("ct", "mri") else 1)
    result, expected = Miniature(), Expected()
    written: dict[MaskPlan, list[tuple[ImagePlan, Scene]]] = {}
    for number, group in enumerate(_groups(manifest, images)):
        scene = _scene(manifest, group, number)
        for image in scene.images:
            _write_image(manifest, image, scene, root)
            _account(manifest, image, scene, result, expected)
            for mask in image.masks:
                written.setdefault(mask, []).append((image, scene))
    _write_masks(manifest, written, root)
    write_tables(manifest, images, root)
    result.regions = expected.rows
    return result


def _groups(manifest: Manifest, images: Sequence[ImagePlan]) -> Iterator[list[ImagePlan]]:
    """Images that are connected by common mask files; an object list for many images connects none."""
    left = list(images)
    while left:
        group = reached = [left.pop(0)]
        while reached:
            paths = {m.path for image in group for m in image.masks if not _is_list(manifest, m)}
            reached = [image for image in left if any(m.path in paths for m in image.masks)]
            group = [*group, *reached]
            left = [image for image in left if image not in reached]
        yield group


def _is_list(manifest: Manifest, mask: MaskPlan) -> bool:
    return manifest.files[mask.rule].kind in OBJECTS


def _scene(manifest: Manifest, images: list[ImagePlan], number: int) -> Scene:
    masks = list(dict.fromkeys(mask for image in images for mask in image.masks))
    wanted = {mask: marks(manifest, manifest.files[mask.rule], mask.label) for mask in masks}
    if any(image.role == "undefined" for image in images):
        for mask in masks:
            extra = undefined(manifest, manifest.files[mask.rule])
            if extra is not None:
                wanted[mask] = [*wanted[mask], extra]
                break
    every = [(mask, mark) for mask, own in wanted.items() for mark in own]
    grid = _grid(manifest, images, sum(mark.blocks for _, mark in every))
    bitten = not any(_is_list(manifest, mask) for mask in masks)
    placed: Placed = {mask: [] for mask in masks}
    for (mask, mark), blocks in arrange(grid, every, bitten=bitten, turn=number):
        placed[mask].append((mark, blocks))
    return Scene(tuple(images), grid, placed)


def _grid(manifest: Manifest, images: Sequence[ImagePlan], blocks: int) -> Grid:
    path = images[0].paths[0]
    kind = miniature_files.format_of(path)
    flat = kind == "picture" or manifest.third_axis == "color" or manifest.modality in FLAT_MODALITIES
    if flat or (kind != "volume" and len(images[0].paths) == 1):
        return Grid((*PICTURE, 1), native=True)
    if manifest.third_axis == "time":
        return Grid((*PICTURE, FRAMES), native=True)
    seed = zlib.crc32(f"{manifest.slug}/{images[0].case}".encode())
    turned = 0.0 if kind == "dicom" else (0.0, 0.0, 7.0)[seed % 3]
    stacked = any(manifest.files[rule].kind == "image_stack" for image in images for rule in image.rules)
    codes = CODES[seed // 3 % (STACKED if stacked else len(CODES))]
    many = any(mask.label is not None and mask.paths for image in images for mask in image.masks)
    if any(image.role == "whole" for image in images) and not many:  # a file for each slice of each label: few slices
        return Grid(WHOLE, native=False, codes=codes, turned=turned)
    depth = max(FEWEST_SLICES, 2 + blocks // 20)
    return Grid((*FLAT, min(depth, WHOLE[2])), native=False, codes=codes, turned=turned)


def _account(manifest: Manifest, image: ImagePlan, scene: Scene, result: Miniature, expected: Expected) -> None:
    if image.role == "no_mask":
        result.no_mask.append(image.case)
    if image.role == "no_image":
        result.no_image.append(tuple(mask.path for mask in image.masks))
    if image.role in ("no_mask", "no_image"):
        return
    drawn = [(mark, blocks) for mask in image.masks for mark, blocks in scene.placed[mask]]
    if any(mark.raw is None for mark, _ in drawn):
        result.undefined += _names(manifest, image)
    objects = {mark.raw for mask in image.masks if _is_list(manifest, mask) for mark, _ in scene.placed[mask]}
    regions = list(_regions(manifest, drawn, objects))
    for name in _names(manifest, image):
        expect(expected, manifest.slug, name, scene.grid, regions, manifest.view.axes)


def _regions(
    manifest: Manifest, drawn: list[tuple[Mark, list[Mask]]], objects: set[str | None]
) -> Iterator[tuple[str, Mask]]:
    """(raw label, mask) of each region in space: a label, an instance, a component or an object; then the unions."""
    found: dict[tuple[str, int], list[Mask]] = {}
    for mark, blocks in drawn:
        if mark.raw is not None:
            found.setdefault((mark.raw, mark.instance), []).extend(blocks)
    for (raw, _), blocks in found.items():
        yield from ((raw, mask) for mask in _parts(manifest, raw, blocks, apart=raw in objects))
    for name, parts in manifest.derive.items():
        blocks = [block for (raw, _), own in found.items() if raw in parts for block in own]
        if blocks:
            yield from ((name, mask) for mask in _parts(manifest, name, blocks, apart=False))


def _parts(manifest: Manifest, raw: str, blocks: list[Mask], *, apart: bool) -> list[Mask]:
    split = manifest.components == "all" or raw in manifest.components
    return blocks if split or apart else [union(blocks)]


def _names(manifest: Manifest, image: ImagePlan) -> list[str]:
    if manifest.channels:
        return [f"{image.case}-{name}" for name in manifest.channels.values()]
    return [f"{image.case}-t{TIMES - 1:02d}" if manifest.fourth_axis == "time" else image.case]


def _write_image(manifest: Manifest, image: ImagePlan, scene: Scene, root: Path) -> None:
    if not image.written:
        return
    marked = (block for own in scene.placed.values() for _, blocks in own for block in blocks)
    inside = union([np.zeros(scene.grid.shape, bool), *marked])
    array = _grey(manifest, image.paths[0], scene.grid, inside)
    if miniature_files.format_of(image.paths[0]) == "dicom":
        paths = [root / path for path in image.paths[: scene.grid.shape[2]]]
        name = f"{manifest.slug}/{image.case}"
        backward = any(manifest.files[rule].order in ("instance_number", "filename") for rule in image.rules)
        miniature_dicom.series(paths, array, scene.grid, manifest.modality, name, backward=backward)
    elif image.paths[0] not in {mask.path for mask in image.masks}:
        miniature_files.save(root / image.paths[0], array, scene.grid)


def _grey(manifest: Manifest, path: str, grid: Grid, inside: Mask) -> NDArray[Any]:
    """Grey values or colours that differ from image to image; what is annotated is brighter."""
    rng = np.random.default_rng(zlib.crc32(f"{manifest.slug}/{path}".encode()))
    colored = manifest.modality in COLORED and miniature_files.format_of(path) == "picture"
    if colored or manifest.third_axis == "color":
        colors = [0.75 * texture(rng, grid.shape) + 0.25 * inside for _ in range(3)]
        return np.asarray(np.rint(255 * np.stack(colors, axis=-1)), np.uint8)
    count = max(manifest.channels) + 1 if manifest.channels else TIMES if manifest.fourth_axis == "time" else 0
    several = np.stack([0.75 * texture(rng, grid.shape) + 0.25 * inside for _ in range(count or 1)], axis=-1)
    grey: NDArray[Any] = several if count else several[..., 0]
    if grid.native or manifest.view.window == "none":
        return np.asarray(np.rint(255 * grey), np.uint8)
    floats = grid.codes in CODES[4:] and miniature_files.format_of(path) == "volume"
    if manifest.modality == "ct":
        return np.asarray(np.rint(400 * grey - 160), np.int16)
    return np.asarray(np.rint(1000 * grey), np.float32 if floats else np.uint16)


def _write_masks(manifest: Manifest, written: dict[MaskPlan, list[tuple[ImagePlan, Scene]]], root: Path) -> None:
    """Write each file once, with the marks of all rules that read it."""
    paths: dict[str, list[MaskPlan]] = {}
    for mask in written:
        paths.setdefault(mask.path, []).append(mask)
    for path, masks in paths.items():
        rule = manifest.files[masks[0].rule]
        uses = [(image, scene, masks[0]) for image, scene in written[masks[0]]]
        if _is_list(manifest, masks[0]):
            miniature_lists.write(root / path, rule, [_entry(rule, *use) for use in uses])
            continue
        image, scene, _ = uses[0]
        drawn = [pair for mask in masks for pair in scene.placed[mask]]
        if drawn or rule.kind != "file_per_label":
            _write_mask(manifest, masks[0], image, scene, drawn, root)


def _entry(rule: Rule, image: ImagePlan, scene: Scene, mask: MaskPlan) -> miniature_lists.Entry:
    """An image in a list: by its file name; in a table of run lengths by its case, if that has a template."""
    by_case = rule.case is not None and rule.kind == "rle_csv"
    name = image.case if by_case else image.paths[0].rsplit("/", 1)[-1]
    return miniature_lists.Entry(name, scene.grid.shape[:2], scene.placed[mask])


def _write_mask(
    manifest: Manifest, mask: MaskPlan, image: ImagePlan, scene: Scene, drawn: miniature_masks.Drawn, root: Path
) -> None:
    rule, grid = manifest.files[mask.rule], scene.grid
    paths = [root / path for path in (mask.paths or (mask.path,))[: grid.shape[2]]]
    series = miniature_files.format_of(image.paths[0]) == "dicom"
    if rule.kind == "image_stack":
        miniature_masks.write_stack(paths, rule, grid, drawn, series=series)
    elif miniature_files.format_of(mask.path) == "dicom":
        array = miniature_masks.values(rule, grid, drawn, picture=False)
        name = f"{manifest.slug}/{mask.path}"
        miniature_dicom.series(paths, array, grid, manifest.modality, name, mask=True)
    else:
        times = TIMES if manifest.fourth_axis == "time" else 0
        miniature_masks.write(root / mask.path, rule, grid, drawn, times=times, series=series)
