"""Kinds whose files hold numbers: label maps, binary masks, bits."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from etl import formats
from etl.errors import ItemError, UsageError
from etl.formats.pictures import is_jpeg
from etl.kinds.layers import Grid, Layer, Mask, unite
from etl.pixels import slabs
from etl.pixels.raster import Array, Raster, unreadable

if TYPE_CHECKING:
    from etl.manifests.manifest import Rule

INTEGRAL = 1e-3
"""A float label value this near to an integer is that integer."""
JPEG_THRESHOLD = 127.0


def label_map(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Layer]:
    """Integer values of a picture or volume; the segments of a `.seg.nrrd`, which may overlap, by name or value."""
    layers: list[Layer] = []
    for mask in masks:
        found = formats.sniff(mask.path)
        segments = _segments(mask.path, labels) if found == "itk" else None
        if segments is not None:
            layers += segments
            continue
        picture = found == "picture"
        raster = Raster(formats.read_indexed(mask.path)) if picture else formats.read(mask.path, integral=INTEGRAL)
        layers += name_values(meant(rule, integral(raster.array, mask.path.name)), labels, raster.affine)
    return layers


def _segments(path: Path, labels: dict[str, str]) -> list[Layer] | None:
    """The layers of a segmentation whose segments overlap or are named in ``labels``; else None."""
    from etl.formats import itk

    found = itk.read_segments(path)
    if found is None:
        return None
    raster, segments = found
    by_name = any(segment.name in labels for segment in segments)
    if raster.array.shape[3] == 1 and not by_name:
        return None
    values = [segment.value for segment in segments]
    if not by_name and len(set(values)) < len(values):
        raise unreadable(path, "segments of different layers have one value; write their names as keys of labels")
    groups: dict[tuple[str, str | None], list[itk.Segment]] = {}
    for segment in segments:
        name = labels.get(segment.name) if by_name else labels.get(str(segment.value))
        groups.setdefault((name or segment.name or str(segment.value), name), []).append(segment)
    return unite(
        (text, name, [Raster(raster.array[..., s.layer] == s.value, raster.affine) for s in members])
        for (text, name), members in groups.items()
    )


def integral(array: Array, name: str = "mask") -> Array:
    """The label values as integers: floats are rounded when all are integral within 1e-3."""
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array
    return slabs.like(array, slabs.gathered((_rounded(piece, name) for piece in slabs.parts(array)), array.size))


def _rounded(values: Array, name: str) -> Array:
    found = slabs.integers(values, INTEGRAL)
    if found is not None:
        return found
    if not np.isfinite(values).all():
        raise ItemError("unreadable", f"{name}: label values that are not finite")
    worst = float(values[int(np.abs(values - np.rint(values)).argmax())])
    raise ItemError("unreadable", f"{name}: label value {worst:g} is not an integer")


def meant(rule: "Rule", array: Array) -> Array:
    """The label values of a rule's mask with those as background that its `ignore` names."""
    return np.where(slabs.among(array, rule.ignore), array.dtype.type(0), array) if rule.ignore else array


def _with_room(array: Array, value: int) -> Array:
    """A copy in an integer type that holds this value too: its own, else the first signed one."""
    own = np.iinfo(array.dtype)
    if own.min <= value <= own.max:
        return array.astype(array.dtype)
    low, high = min(value, int(array.min(initial=0))), max(value, int(array.max(initial=0)))
    for kind in (np.int16, np.int32, np.int64):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    raise ItemError("unreadable", f"label value {high:.3g} is too large for one")


def name_values(array: Array, labels: dict[str, str], affine: NDArray[np.float64] | None = None) -> list[Layer]:
    """Layers of an integer array, with keys ``"3"``, ``"1-10"`` (instances) and ``">0"`` (all together).

    Single values of one raw label become one value. A named 0 gets a value of its own, as 0 is background.
    Keys that are no numbers belong to other rules and are passed over.
    """
    together = [(int(key[1:]), name) for key, name in labels.items() if re.fullmatch(r">\d+", key)]
    layers = [Layer((array > bound).astype(np.uint8), {1: name}, affine) for bound, name in together]
    names, merged = _value_names(labels, array)
    for value, first in merged.items():
        wide = _with_room(array, first)
        array = np.where(array == value, wide.dtype.type(first), wide)
    if together:
        other = (array > min(bound for bound, _ in together)) & ~slabs.among(array, names)
        array = np.where(other, array.dtype.type(0), array)
    if 0 in names:
        array, names = _move_zero(array, names)
    keep = names or array.any() or not layers
    return [Layer(array, names, affine), *layers] if keep else layers


def _value_names(labels: dict[str, str], array: Array) -> tuple[dict[int, str], dict[int, int]]:
    """Value → raw label, and value → the first value of the same raw label, for plain keys."""
    names: dict[int, str] = {}
    first: dict[str, int] = {}
    merged: dict[int, int] = {}
    largest = int(array.max(initial=0))
    for key, name in labels.items():
        single, span = re.fullmatch(r"-?\d+", key), re.fullmatch(r"(\d+)-(\d+)", key)
        if single:
            value = int(key)
            _claim(names, value, name, key)
            if first.setdefault(name, value) != value:
                merged[value] = first[name]
        elif span:
            start = int(span[1])
            for value in range(start, max(start, min(int(span[2]), largest)) + 1):
                _claim(names, value, name, key)
    for value in merged:
        del names[value]
    fits = np.iinfo(array.dtype)
    return names, {value: to for value, to in merged.items() if fits.min <= value <= fits.max}


def _claim(names: dict[int, str], value: int, name: str, key: str) -> None:
    if value in names:
        raise UsageError(f"label key {key!r} ({name}): value {value} is {names[value]} already")
    names[value] = name


def _move_zero(array: Array, names: dict[int, str]) -> tuple[Array, dict[int, str]]:
    value = max(int(array.max(initial=0)), *names) + 1
    wide = _with_room(array, value)
    wide[array == 0] = value
    return wide, {value: names[0], **{key: name for key, name in names.items() if key}}


def foreground(rule: "Rule", path: Path) -> Raster:
    """The pixels (bool) above the rule's threshold; the default is 0, and 127 for JPEG."""
    picture = formats.is_picture(path)
    raster = Raster(formats.read_grey(path)) if picture else formats.read(path)
    threshold = rule.threshold
    if threshold is None:
        threshold = JPEG_THRESHOLD if picture and is_jpeg(path) else 0.0
    return Raster(raster.array > threshold, raster.affine)


def binary(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Layer]:
    """The foreground of all masks, united under the label of `1`."""
    return unite([("1", labels.get("1"), [foreground(rule, mask.path) for mask in masks])])


def file_per_label(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Layer]:
    """One layer a raw label; files of one label are united."""
    groups: dict[tuple[str | None, str], list[Path]] = {}
    for mask in masks:
        text = mask.label or ""
        name = labels.get(text)
        groups.setdefault((name, text if name is None else ""), []).append(mask.path)
    return unite((text, name, (foreground(rule, path) for path in paths)) for (name, text), paths in groups.items())


def bitfield(rule: "Rule", masks: Sequence[Mask], labels: dict[str, str], grid: Grid) -> list[Layer]:
    """Each bit, or each span of bits (``"a-b"``), is a label of its own; they may overlap."""
    return unite(_bit_groups([_bits(mask.path) for mask in masks], labels))


def _bits(path: Path) -> Raster:
    raster = Raster(formats.read_indexed(path)) if formats.is_picture(path) else formats.read(path, integral=INTEGRAL)
    array = integral(raster.array, path.name)
    return Raster(array.view(f"u{array.dtype.itemsize}"), raster.affine)


def _bit_groups(parts: list[Raster], labels: dict[str, str]) -> Iterator[tuple[str, str | None, Iterator[Raster]]]:
    spans: dict[str, int] = {}
    for key, name in labels.items():
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", key)
        if span:
            first, last = int(span[1]), min(int(span[2] or span[1]), 63)
            spans[name] = spans.get(name, 0) | (1 << last + 1) - (1 << first)
    known = 0
    for name, wanted in spans.items():
        known |= wanted
        yield name, name, _with_bits(parts, wanted)
    every = 0
    for part in parts:
        every |= int(np.bitwise_or.reduce(part.array, axis=None))
    for bit in range(every.bit_length()):
        if every & ~known & 1 << bit:
            yield f"bit {bit}", None, _with_bits(parts, 1 << bit)


def _with_bits(parts: list[Raster], wanted: int) -> Iterator[Raster]:
    for part in parts:
        own = wanted & int(np.iinfo(part.array.dtype).max)
        yield Raster((part.array & part.array.dtype.type(own)) != 0, part.affine)
