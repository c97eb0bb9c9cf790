"""Which files of a source are images, which masks belong to them, and what each case is called.

The folder is walked once. Masks are put under the text of the captures they share with their image, so pairing is
one dictionary look-up an image.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from etl.dicom.file import is_dicom_file
from etl.errors import UsageError
from etl.manifests import casenames
from etl.manifests.casenames import ByName
from etl.manifests.manifest import Manifest, SplitList
from etl.manifests.patterns import Pattern, compile_pattern, fill
from etl.manifests.tables import FactTable, read_splits, read_table
from etl.objects import S3Path
from etl.sources.listed import Lists

_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")
_PACKED = re.compile(r"\.(gz|bz2|xz|zst)$", re.IGNORECASE)
HOLDING = (".mat", ".npz")
"""Files that hold their annotation themselves where the rule has no mask pattern."""


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask of a case: the index of its rule, its path below the root, and its {label} capture."""

    rule: int
    path: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """An image with its masks; `facts` may hold sex, age, diagnosis, license.

    `image` is the first file of a DICOM series, `series` all of them; it is empty where one file is the image.
    """

    source: str
    case: str
    subject: str
    split: str | None
    image: str
    masks: tuple[MaskFile, ...]
    facts: dict[str, str] = field(default_factory=dict)
    series: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the image."""
        return self.series or (self.image,)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A case that cannot be used: `no_mask`, `no_image` or `excluded`."""

    case: str
    reason: str
    detail: str


@dataclass(slots=True)
class Inventory:
    """Cases and rejected cases by name; `unexpected`: files that no rule knows."""

    cases: list[Case] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _RuleFiles:
    """A rule with its compiled patterns; masks by the text of the captures `shared` with the image."""

    index: int
    image: Pattern
    mask: Pattern | None
    case: str | None
    labels: dict[str, str]
    by_label: bool
    folder: bool = False
    shared: tuple[str, ...] = ()
    images: dict[str, dict[str, str]] = field(default_factory=dict)
    keys: set[tuple[str, ...]] = field(default_factory=set)
    masks: dict[tuple[str, ...], list[MaskFile]] = field(default_factory=lambda: defaultdict(list))

    def key(self, captures: dict[str, str]) -> tuple[str, ...]:
        return tuple(captures[name] for name in self.shared)

    def name(self, path: str, captures: dict[str, str]) -> str:
        if self.case is not None:
            return fill(self.case, captures)
        parts = [captures[name] for name in self.image.names if name != "label"]
        return "-".join(parts) or stem(path if not self.folder else os.path.dirname(path) + ".d")


@dataclass(slots=True)
class _Entry:
    """An image on the way to a case: its captures by the first rule that matches, its rules.

    `series` are the files of a DICOM series, where the image has several.
    """

    path: str
    case: str
    captures: dict[str, str]
    rules: list[int]
    series: list[str] = field(default_factory=list)


def stem(path: str) -> str:
    """A path without its extension (`.nii.gz` is one), with `/` as `-`."""
    return _EXTENSION.sub("", _PACKED.sub("", path)).replace("/", "-")


def walk(root: Path) -> list[str]:
    """Every file below `root` but hidden ones, as sorted paths with `/`; links to folders are followed."""
    if isinstance(root, S3Path):
        return sorted(name for name in root.below() if not any(part.startswith(".") for part in name.split("/")))
    found: list[str] = []
    todo: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))]
    while todo:
        prefix, parents = todo.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    found.append(prefix + entry.name)
                elif not entry.is_symlink():
                    todo.append((f"{prefix}{entry.name}/", parents))
                elif not _loops(entry.path, real := os.path.realpath(entry.path), parents):
                    todo.append((f"{prefix}{entry.name}/", (*parents, real)))
    return sorted(found)


def _loops(link: str, real: str, parents: tuple[str, ...]) -> bool:
    """Whether a link leads to a folder that holds the link, or that was entered on the way to it."""
    here = os.path.realpath(os.path.dirname(link))
    return real in parents or f"{here}/".startswith(real.rstrip("/") + "/")


def inventory(manifest: Manifest, root: Path) -> Inventory:
    """Pair the files below `root` by the rules of a manifest; DICOM files of one case name are one image."""
    rules = [_prepare(manifest, index) for index in range(len(manifest.files))]
    facts = _Facts(
        [read_table(table, root) for table in manifest.tables], read_splits(manifest.split_lists, root),
        ByName(manifest.subjects),
    )
    known = {table.file for table in manifest.tables} | {item.file for item in manifest.split_lists}
    paths = walk(root)
    entries, mask_paths, unexpected = _sort_files(rules, paths, known, root)
    _index_masks(rules, mask_paths)
    entries = _joined(entries, root)
    lists = Lists(manifest, root)
    result = Inventory(unexpected=unexpected)
    excluded = casenames.excluded(manifest)
    used: set[str] = set()
    for entry in entries:
        masks = _masks_of(rules, entry, lists)
        used.update(mask.path for mask in masks)
        if (fault := excluded.of(entry.case)) is not None:
            result.rejected.append(Rejected(entry.case, "excluded", fault))
        elif not masks:
            result.rejected.append(Rejected(entry.case, "no_mask", f"no mask matches image {entry.path}"))
        else:
            _check_labels(manifest, rules, entry, masks)
            result.cases.append(_case(manifest, entry, masks, facts))
    used.update(lists.read)
    result.rejected += _orphans(rules, used, excluded)
    for name, mask in lists.without_image(paths):
        detail = f"no image file for '{name}', which {mask} lists"
        result.rejected.append(_without_image(stem(name), detail, excluded))
    _refuse_odd_names(result)
    result.cases.sort(key=lambda case: case.case)
    result.rejected.sort(key=lambda row: (row.case, row.reason))
    return result


def _refuse_odd_names(result: Inventory) -> None:
    """File names that are no UTF-8 can stand in no table: their cases are refused, with the odd bytes written out."""
    odd = [c for c in result.cases if not all(map(_is_text, (c.case, c.subject, *c.files, *(m.path for m in c.masks))))]
    for case in odd:
        result.cases.remove(case)
        detail = f"{case.image}: the name of one of its files is not UTF-8"
        result.rejected.append(Rejected(case.case, "unreadable", detail))
    result.rejected = [Rejected(_shown(r.case), r.reason, _shown(r.detail)) for r in result.rejected]
    result.unexpected = [_shown(path) for path in result.unexpected]


def _is_text(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def _shown(name: str) -> str:
    return name if _is_text(name) else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _prepare(manifest: Manifest, index: int) -> _RuleFiles:
    rule = manifest.files[index]
    image = compile_pattern(rule.image)
    mask = compile_pattern(rule.mask, image) if rule.mask is not None else None
    shared = tuple(name for name in image.names if mask and name in mask.names)
    by_label, folder = rule.kind == "file_per_label", rule.image.endswith("/")
    return _RuleFiles(index, image, mask, rule.case, manifest.rule_labels(rule), by_label, folder, shared)


def _sort_files(
    rules: list[_RuleFiles], paths: list[str], tables: Collection[str], root: Path
) -> tuple[list[_Entry], list[str], list[str]]:
    """Images, masks, and files that no rule knows; a pattern that names a folder takes its DICOM files only."""
    entries, masks, unexpected = [], [], []
    for path in paths:
        if any(rule.mask and rule.mask.match(path) is not None for rule in rules):
            masks.append(path)
            continue
        if path in tables:
            continue
        entry: _Entry | None = None
        for rule in rules:
            captures = rule.image.match(path)
            if captures is None or (rule.folder and not is_dicom_file(root / path)):
                continue
            if entry is None:
                entry = _Entry(path, rule.name(path, captures), captures, [])
                entries.append(entry)
            entry.rules.append(rule.index)
            rule.images[path] = captures
            rule.keys.add(rule.key(captures))
        if entry is None:
            unexpected.append(path)
    return entries, masks, unexpected


def _index_masks(rules: list[_RuleFiles], paths: list[str]) -> None:
    for path in paths:
        for rule in rules:
            captures = rule.mask.match(path) if rule.mask else None
            if captures is not None:
                captures = _best(rule, path, captures)
                rule.masks[rule.key(captures)].append(MaskFile(rule.index, path, captures.get("label")))


def _best(rule: _RuleFiles, path: str, first: dict[str, str]) -> dict[str, str]:
    """The captures of a mask that belong to an image, best with a documented label; else the shortest ones."""

    def rank(captures: dict[str, str]) -> int:
        if rule.key(captures) not in rule.keys:
            return 0
        return 2 if not rule.by_label or captures["label"] in rule.labels else 1

    best = first
    if rank(first) == 2 or rule.mask is None:
        return best
    for captures in rule.mask.matches(path):
        if rank(captures) > rank(best):
            best = captures
    return best


def _joined(entries: list[_Entry], root: Path) -> list[_Entry]:
    """The entries, those of one case name joined where all are DICOM; else two of one name are an error.

    Files are opened only where several have one case name.
    """
    groups: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.case].append(entry)
    for case, group in groups.items():
        first = group[0]
        if len(group) == 1:
            continue
        odd = next((e for e in group if e.rules != first.rules or not is_dicom_file(root / e.path)), None)
        if odd is not None:
            other = odd if odd is not first else group[1]
            raise UsageError(
                f"two images have the case name '{case}': {first.path} and {other.path}; "
                "capture what tells them apart, or add a case: template to the rule (only the files of a DICOM "
                "series share a name)"
            )
        first.series = [entry.path for entry in group]
    return [group[0] for group in groups.values()]


def _masks_of(rules: list[_RuleFiles], entry: _Entry, lists: Lists) -> tuple[MaskFile, ...]:
    masks: list[MaskFile] = []
    for index in entry.rules:
        rule = rules[index]
        keys = dict.fromkeys(rule.key(rule.images[path]) for path in entry.series or [entry.path])
        found = [mask for key in keys for mask in rule.masks.get(key, ())]
        masks += [mask for mask in found if lists.serves(mask.rule, mask.path, entry.path, entry.case)]
        if rule.mask is None and rule.labels and entry.path.lower().endswith(HOLDING):
            masks.append(MaskFile(index, entry.path))
    return tuple(masks)


def _check_labels(manifest: Manifest, rules: list[_RuleFiles], entry: _Entry, masks: tuple[MaskFile, ...]) -> None:
    if len(entry.rules) == 1:
        return
    owner: dict[str, int] = {}
    for mask in masks:
        labels = rules[mask.rule].labels
        names = [labels[mask.label]] if mask.label in labels else labels.values() if mask.label is None else []
        for name in names:
            if owner.setdefault(name, mask.rule) != mask.rule:
                both = f"files[{owner[name]}] and files[{mask.rule}]"
                raise UsageError(
                    f"{manifest.path}: {both} both give the raw label '{name}' to image {entry.path}; "
                    "give each rule its own labels:"
                )


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a source says of its cases elsewhere: tables, lists of splits, the manifest's `subjects`."""

    tables: list[FactTable]
    splits: list[tuple[SplitList, frozenset[str]]]
    subjects: ByName[str]

    def of(self, case: str, captures: dict[str, str]) -> dict[str, str]:
        """The facts of a case; what the manifest says itself goes before tables, these before lists."""
        facts: dict[str, str] = {}
        for item, names in self.splits:
            if fill(item.case, captures) in names:
                facts["split"] = item.split
        for table in self.tables:
            facts.update(table.facts(fill(table.table.case, captures)))
        subject = self.subjects.of(case)
        return facts if subject is None else {**facts, "subject": subject}


def _case(manifest: Manifest, entry: _Entry, masks: tuple[MaskFile, ...], known: _Facts) -> Case:
    captures = {"case": entry.case, **entry.captures}
    facts = known.of(entry.case, captures)
    template = manifest.files[entry.rules[0]].subject
    default = fill(template, captures) if template else entry.captures.get("subject", captures["case"])
    subject = facts.pop("subject", default)
    split = facts.pop("split", None) or _rule_split(manifest, entry)
    return Case(manifest.slug, entry.case, subject, split, entry.path, masks, facts, tuple(entry.series))


def _rule_split(manifest: Manifest, entry: _Entry) -> str | None:
    splits = {split for index in entry.rules if (split := manifest.files[index].split)}
    if len(splits) > 1:
        names = " and ".join(sorted(splits))
        raise UsageError(f"{manifest.path}: rules put image {entry.path} into {names}; make their split the same")
    return next(iter(splits), None)


def _orphans(rules: list[_RuleFiles], used: set[str], excluded: ByName[str]) -> Iterator[Rejected]:
    """One row for each case that has masks but no image."""
    paths: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for rule in rules:
        for key, masks in rule.masks.items():
            captures = dict(zip(rule.shared, key, strict=True))
            for mask in masks:
                if mask.path not in used and mask.path not in seen:
                    seen.add(mask.path)
                    paths[_orphan_name(rule, mask.path, captures)].append(mask.path)
    for case, files in paths.items():
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        yield _without_image(case, f"no image matches mask {files[0]}{more}", excluded)


def _without_image(case: str, detail: str, excluded: ByName[str]) -> Rejected:
    fault = excluded.of(case)
    return Rejected(case, "no_image", detail) if fault is None else Rejected(case, "excluded", fault)


def _orphan_name(rule: _RuleFiles, path: str, captures: dict[str, str]) -> str:
    try:
        return rule.name(path, captures)
    except KeyError:
        return stem(path)
