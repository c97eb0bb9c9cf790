"""Which files a miniature has: paths of images and of the masks that belong to them. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from etl.errors import UsageError
from etl.manifests.casenames import ByName
from etl.manifests.manifest import Manifest
from etl.manifests.patterns import Pattern, compile_pattern, fill
from etl.miniature.files import format_of
from etl.miniature.names import captures, examples, write_out

ROLES = ("whole", "flat", "undefined", "no_mask", "no_image")
"""What a case of the first rule shows; the other rules get one `flat` case each."""


@dataclass(frozen=True, slots=True)
class MaskPlan:
    """A mask: its rule, its path, the label text in its path; `paths` where it has a file for each slice."""

    rule: int
    path: str
    label: str | None = None
    paths: tuple[str, ...] = ()


@dataclass(slots=True)
class ImagePlan:
    """An image, or a series of as many files as it has slices, with its masks."""

    case: str
    role: str
    paths: list[str]
    captures: dict[str, str]
    rules: list[int]
    masks: list[MaskPlan] = field(default_factory=list)

    @property
    def written(self) -> bool:
        """Whether its image file is there."""
        return self.role != "no_image"


@dataclass(frozen=True, slots=True)
class Rules:
    """The compiled patterns of a manifest, rule by rule."""

    manifest: Manifest
    images: tuple[Pattern, ...]
    masks: tuple[Pattern | None, ...]

    def shared(self, rule: int) -> tuple[str, ...]:
        """The captures by which a mask finds its image."""
        mask = self.masks[rule]
        return tuple(name for name in self.images[rule].names if mask and name in mask.names)

    def is_mask(self, path: str) -> bool:
        """Whether a path is a mask of any rule."""
        return any(mask is not None and mask.match(path) is not None for mask in self.masks)


def compiled(manifest: Manifest) -> Rules:
    """The patterns of a manifest."""
    images = tuple(compile_pattern(rule.image) for rule in manifest.files)
    pairs = zip(manifest.files, images, strict=True)
    return Rules(manifest, images, tuple(compile_pattern(r.mask, i) if r.mask else None for r, i in pairs))


def plan(manifest: Manifest, slices: int) -> list[ImagePlan]:
    """The images of a miniature; a series has `slices` files.

    Raises:
        UsageError: a pattern or a label of the manifest names no file that could exist.
    """
    rules = compiled(manifest)
    images: list[ImagePlan] = []
    texts = dict.fromkeys(rule.image for rule in manifest.files)
    for number, text in enumerate(texts):
        index = next(i for i, rule in enumerate(manifest.files) if rule.image == text)
        roles = _roles(rules, index) if number == 0 else ("flat",)
        if "label" in rules.images[index].names:
            roles = (*roles, *["flat"] * len(rules.manifest.rule_labels(rules.manifest.files[index])))
        found = list(_images(rules, index, roles, images, slices))
        if not found:
            raise UsageError(f"{manifest.path}: files[{index}].image: no path found that is an image by this pattern")
        images += [*found, *_sibling(rules, index, found[0], [*images, *found], slices)]
    for image in images:
        if image.role != "no_mask":
            image.masks = [mask for rule in image.rules for mask in _masks(rules, rule, image, slices)]
    _require_labels(rules, images)
    return images


def _roles(rules: Rules, index: int) -> tuple[str, ...]:
    """A mask that all images share is never missing, nor without an image."""
    own = [rule for rule in rules.manifest.files if rule.image == rules.manifest.files[index].image]
    alone = any(rule.mask is None or not rules.shared(rules.manifest.files.index(rule)) for rule in own)
    return ROLES[:3] if alone else ROLES


def _images(
    rules: Rules, index: int, roles: tuple[str, ...], before: list[ImagePlan], slices: int
) -> Iterator[ImagePlan]:
    names = {image.case for image in before}
    used = {path for image in before for path in image.paths}
    pattern, todo = rules.images[index], list(roles)
    for found in captures(pattern, list(rules.manifest.rule_labels(rules.manifest.files[index]))):
        if not todo:
            return
        paths = _paths(rules, index, found, slices)
        case = _case(rules, paths[0])
        if case is None or case in names or used.intersection(paths) or not _fits(rules, index, paths, found):
            continue
        names.add(case)
        matching = [i for i, image in enumerate(rules.images) if image.match(paths[0]) is not None]
        yield ImagePlan(case, todo.pop(0), paths, found, matching)


def _sibling(
    rules: Rules, index: int, image: ImagePlan, before: list[ImagePlan], slices: int
) -> Iterator[ImagePlan]:
    """Another image of the same masks, as one sequence of several, where a capture tells images apart but no masks."""
    names = {other.case for other in before}
    for name in rules.images[index].names:
        if rules.masks[index] is None or name in rules.shared(index):
            continue
        for text in islice(examples(rules.images[index].regexes[name]), 9):
            captures = {**image.captures, name: text}
            paths = _paths(rules, index, captures, slices)
            case = _case(rules, paths[0])
            if case is not None and case not in names and _fits(rules, index, paths, captures):
                matching = [i for i, pattern in enumerate(rules.images) if pattern.match(paths[0]) is not None]
                yield ImagePlan(case, image.role, paths, captures, matching)
                return


def _fits(rules: Rules, index: int, paths: list[str], found: dict[str, str]) -> bool:
    """Whether the image pattern reads these captures back from the path, and no rule takes it for a mask."""
    tables = {table.file for table in rules.manifest.tables}
    return rules.images[index].match(paths[0]) == found and not any(rules.is_mask(p) or p in tables for p in paths)


def _paths(rules: Rules, index: int, found: dict[str, str], slices: int) -> list[str]:
    """The files of an image: several for a DICOM series, where something is left to tell them apart."""
    pattern = rules.images[index]
    first = write_out(pattern, found)
    if format_of(first) != "dicom":
        return [first]
    paths = [write_out(pattern, found, f"{number + 1:04d}") for number in range(slices)]
    if len(set(paths)) == slices:
        return paths
    template = rules.manifest.files[index].case
    free = [name for name in pattern.names if template is not None and f"{{{name}}}" not in template]
    if not free:
        return [first]
    return [write_out(pattern, {**found, free[-1]: f"{number + 1:03d}"}) for number in range(slices)]


def _case(rules: Rules, path: str) -> str | None:
    """The case name of an image path by the first rule that matches it; None for one that is excluded."""
    case = _case_name(rules, path)
    faulty = any(ByName({item.case: item}).of(case or "") for item in rules.manifest.exclude)
    return None if faulty else case


def _case_name(rules: Rules, path: str) -> str | None:
    for rule, pattern in zip(rules.manifest.files, rules.images, strict=True):
        found = pattern.match(path)
        if found is not None and rule.case is not None:
            return fill(rule.case, found)
        if found is not None:
            return "-".join(found[name] for name in pattern.names if name != "label") or _without_extension(path)
    return None


def _without_extension(path: str) -> str:
    name = path.removesuffix(".gz")
    return name[: name.rindex(".")].replace("/", "-") if "." in name.rsplit("/", 1)[-1] else name.replace("/", "-")


def _masks(rules: Rules, index: int, image: ImagePlan, slices: int) -> Iterator[MaskPlan]:
    """The masks of an image by one rule: one, or one a label."""
    mask, rule = rules.masks[index], rules.manifest.files[index]
    if mask is None:
        if image.paths[0].lower().endswith((".mat", ".npz")):
            yield MaskPlan(index, image.paths[0])
        return
    read = rules.images[index].match(image.paths[0]) or {}
    given = {name: read[name] for name in rules.shared(index)}
    if rule.kind != "file_per_label":
        yield _mask(mask, index, given, None, slices if rule.kind in ("image_stack", "dicom_label") else 1)
        return
    for label in [given["label"]] if "label" in given else rules.manifest.rule_labels(rule):
        found = _mask(mask, index, {**given, "label": label}, label, slices)
        if any(text == {**text, **given, "label": label} for text in mask.matches(found.path)):
            yield found


def _mask(pattern: Pattern, rule: int, given: dict[str, str], label: str | None, slices: int) -> MaskPlan:
    """A mask; one file a slice where it is a stack of pictures or DICOM files."""
    path = write_out(pattern, given)
    paths = tuple(write_out(pattern, given, f"{number + 1:04d}") for number in range(slices))
    series = len(set(paths)) == slices > 1 and (label is None or format_of(path) == "dicom")
    return MaskPlan(rule, paths[0] if series else path, label, paths if series else ())


def _require_labels(rules: Rules, images: list[ImagePlan]) -> None:
    """Every label of a file of its own must be a text that the mask pattern can capture."""
    reached = {mask.label for image in images for mask in image.masks}
    for index, rule in enumerate(rules.manifest.files):
        if rule.kind == "file_per_label":
            missing = [label for label in rules.manifest.rule_labels(rule) if label not in reached]
            if missing:
                cause = f"no file of files[{index}].mask '{rule.mask}' can have the label '{missing[0]}'"
                raise UsageError(f"{rules.manifest.path}: {cause}")
