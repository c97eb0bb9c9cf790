"""Faults of the ontology and the label maps, before they reach a dataset."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Map
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from etl.errors import UsageError
from etl.labels import file as label_file
from etl.labels import text as label_text
from etl.labels.maps import Label, Mapping, Ontology, load_label_map
from etl.labels.phrases import by_name
from etl.manifests.manifest import Manifest

LABELS, CATEGORIES, BODY_REGIONS = 198, 38, 6
_PLACES = {
    "Head": "head and neck", "Neck": "head and neck", "Chest": "chest", "Abdomen": "abdomen", "Pelvis": "pelvis",
    "Spine": "spine and limbs", "Limb": "spine and limbs", "Skin": "skin",
}  # fmt: skip
_CATEGORY = re.compile(r"([A-Z][a-z]+) \([a-z][a-z ]*\)")
_CODES = {"snomed": re.compile(r"[0-9]{6,18}"), "uberon": re.compile(r"UBERON:[0-9]{7}")}
_DISEASE = frozenset({"tumor", "cancer", "lesion", "carcinoma", "metastasis", "fracture", "hemorrhage", "infarct"})
_OBJECTS = frozenset({"coco", "voc", "yolo", "labelme", "csv_boxes", "json_polygons"})
_UNION = frozenset({"with", "including", "normal", "excluding", "and"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: where, which rule, and what."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message} [{self.rule}]"

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Maps:
    """All that is checked together: the ontology, the manifests and the map of each source, with their files."""

    ontology: Ontology
    manifests: Map[str, Manifest]
    entries: Map[str, Map[str, Mapping]]
    ontology_path: Path
    paths: Map[str, Path]
    names: Map[str, str]


def load(ontology: Ontology, manifests: Map[str, Manifest], folders: Iterable[Path]) -> tuple[Maps, list[Problem]]:
    """The maps of all folders, a later one hiding the same slug of an earlier one; unreadable ones are problems."""
    order = list(folders)
    ontology_path = [f / "ontology.yaml" for f in order if (f / "ontology.yaml").is_file()][-1]
    paths = {p.stem: p for folder in order for p in sorted((folder / "sources").glob("*.yaml"))}
    entries: dict[str, dict[str, Mapping]] = {}
    problems = []
    for slug in sorted(paths):
        try:
            entries[slug] = load_label_map(slug, *order)
        except UsageError as error:
            problems.append(Problem(str(paths[slug]), 1, "unreadable", str(error)))
    return Maps(ontology, manifests, entries, ontology_path, paths, by_name(ontology)), problems


def lint(maps: Maps) -> list[Problem]:
    """Every problem, in order of file and line."""
    found = [*_ontology(maps), *_sources(maps), *_across(maps)]
    return sorted(found, key=lambda p: (p.path, p.line, p.rule, p.message))


def _line_of(path: Path, what: str) -> int:
    """The line that names a label of the ontology or begins an entry; 1 if none does."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if f"name: {what}," in line or label_file.key(line) == what:
            return number
    return 1


def _ontology(maps: Maps) -> Iterator[Problem]:
    path = str(maps.ontology_path)
    counts = ((maps.ontology.labels, LABELS, "labels"), (maps.ontology.categories, CATEGORIES, "categories"))
    for items, wanted, what in counts:
        if sorted(item.id for item in items.values()) != list(range(1, wanted + 1)):
            yield Problem(path, 1, "counts", f"{len(items)} {what}; the ontology has {wanted}, with ids 1 to {wanted}")
    if len(set(maps.ontology.body_regions)) != BODY_REGIONS:
        yield Problem(path, 1, "counts", f"{len(maps.ontology.body_regions)} body regions; there are {BODY_REGIONS}")
    for name, rule, message in _ontology_faults(maps.ontology):
        yield Problem(path, _line_of(maps.ontology_path, name), rule, message)


def _ontology_faults(ontology: Ontology) -> Iterator[tuple[str, str, str]]:
    for category in ontology.categories.values():
        form = _CATEGORY.fullmatch(category.name)
        if form is None:
            yield category.name, "category-name", f"'{category.name}' is not written as `Region (part)`"
        elif _PLACES.get(form[1], category.body_region) != category.body_region or form[1] not in _PLACES:
            yield category.name, "category-region", f"'{category.name}' does not lie in '{category.body_region}'"
        if not any(label.category == category.name for label in ontology.labels.values()):
            yield category.name, "category-empty", f"no label is of the category '{category.name}'"
    yield from _synonym_faults(ontology)
    for label in ontology.labels.values():
        yield from ((label.name, *fault) for fault in _label_faults(label, ontology))


def _synonym_faults(ontology: Ontology) -> Iterator[tuple[str, str, str]]:
    owners: dict[str, str] = {}
    for label in ontology.labels.values():
        mine: set[str] = set()
        for name in label.names:
            form = label_text.normal(name)
            if name.casefold() in mine:
                yield label.name, "synonym-twice", f"'{label.name}' has the name '{name}' twice"
            elif owners.setdefault(form, label.name) != label.name:
                yield label.name, "synonym-crossing", f"'{name}' names both '{owners[form]}' and '{label.name}'"
            mine.add(name.casefold())
    codes: dict[tuple[str, str, str], str] = {}
    for label in ontology.labels.values():
        for system, code in label.codes.items():
            other = codes.setdefault((system, code, label.laterality), label.name)
            if other != label.name:
                yield label.name, "same-meaning", f"'{label.name}' and '{other}' have the same {system} code {code}"


def _label_faults(label: Label, ontology: Ontology) -> Iterator[tuple[str, str]]:
    told = label.name.split()[0] if label.name.split()[0] in ("left", "right") else "none"
    if label.laterality not in ("none", told):
        yield "laterality", f"'{label.name}' is said to be {label.laterality}"
    if label.laterality != "none":
        yield from _pair_faults(label, ontology)
    for system, code in label.codes.items():
        if system not in _CODES or not _CODES[system].fullmatch(code):
            yield "code", f"'{label.name}': '{system}: {code}' is no SNOMED CT or UBERON code"
    parent = ontology.labels.get(label.parent or "")
    if parent is not None:
        if {parent.laterality, label.laterality} == {"left", "right"}:
            yield "parent", f"'{label.name}' cannot be part of '{parent.name}', of the other side"
        regions = [ontology.categories[item.category].body_region for item in (label, parent)]
        if regions[0] != regions[1]:
            where = f"'{regions[0]}', its whole '{parent.name}' in '{regions[1]}'"
            yield "category-region", f"'{label.name}' lies in {where}"


def _pair_faults(label: Label, ontology: Ontology) -> Iterator[tuple[str, str]]:
    other = "right" if label.laterality == "left" else "left"
    twin = ontology.labels.get(label.name.replace(label.laterality, other, 1))
    if twin is None:
        if "lobe" not in label.name:  # the middle lobe of the lung is on the right only
            yield "pair", f"'{label.name}' has no '{label.name.replace(label.laterality, other, 1)}' beside it"
    elif (twin.category, twin.kind) != (label.category, label.kind) or twin.laterality != other:
        yield "pair", f"'{label.name}' and '{twin.name}' differ in category, kind or laterality"


def _sources(maps: Maps) -> Iterator[Problem]:
    for slug in sorted({*maps.manifests, *maps.entries}):
        manifest, entries = maps.manifests.get(slug), maps.entries.get(slug)
        if entries is None:
            if slug not in maps.paths and manifest is not None:
                yield Problem(str(manifest.path), 1, "totality", f"no label map for '{slug}'")
            continue
        path = maps.paths[slug]
        for raw, rule, message in _source_faults(manifest, entries, maps):
            yield Problem(str(path), _line_of(path, raw), rule, message)
        yield from _format(path, entries)


def _source_faults(
    manifest: Manifest | None, entries: Map[str, Mapping], maps: Maps
) -> Iterator[tuple[str, str, str]]:
    if manifest is None:
        yield "", "totality", "no manifest of this name; remove the map or rename it"
    else:
        for raw in manifest.raw_labels():
            if raw not in entries:
                yield raw, "totality", f"the raw label '{raw}' of the manifest has no entry"
        for raw in entries:
            if raw not in manifest.raw_labels():
                yield raw, "stale", f"'{raw}' is no raw label of the manifest"
        yield from _unions(manifest, entries)
    for raw, mapping in entries.items():
        yield from ((raw, *fault) for fault in _entry_faults(raw, mapping, maps))


def _unions(manifest: Manifest, entries: Map[str, Mapping]) -> Iterator[tuple[str, str, str]]:
    """A part that has the label of the union it goes into would show the structure twice in one image."""
    for union, parts in manifest.derive.items():
        whole = entries.get(union)
        for part in parts:
            mapping = entries.get(part)
            if whole and mapping and whole.label and whole.label == mapping.label:
                yield part, "part-as-whole", f"'{part}' is a part of '{union}', and both are '{whole.label}'"


def _entry_faults(raw: str, mapping: Mapping, maps: Maps) -> Iterator[tuple[str, str]]:
    if mapping.label is not None and mapping.label not in maps.ontology.labels:
        yield "unknown-label", f"'{raw}': '{mapping.label}' is no label of the ontology"
        return
    if mapping.status == "approved" and not (mapping.by or "").strip():
        yield "reviewer", f"'{raw}' is approved by nobody; `labels approve` records the reviewer"
    elif mapping.status == "approved" and (mapping.by or "").startswith(("llm:", "offline:")):
        yield "reviewer", f"'{raw}' is approved by a program ({mapping.by}); a person approves"
    elif mapping.status == "proposed" and not mapping.by:
        yield "reviewer", f"'{raw}' is proposed by nobody"
    if mapping.status == "rejected" and not mapping.why:
        yield "reason", f"'{raw}' is rejected without a reason; add why"
    if mapping.status == "rejected" and mapping.label is not None:
        yield "reason", f"'{raw}' is rejected and has the label '{mapping.label}'"
    if mapping.label is not None and mapping.status != "rejected":
        yield from _meaning_faults(raw, mapping, maps)


def _meaning_faults(raw: str, mapping: Mapping, maps: Maps) -> Iterator[tuple[str, str]]:
    label = maps.ontology.labels[mapping.label or ""]
    parts = label_text.words(raw)
    yield from _side_faults(raw, parts, mapping, maps.ontology)
    exact = maps.names.get(label_text.normal(raw))
    if exact is not None and exact != label.name and label.name in _wholes(exact, maps.ontology):
        yield "part-as-whole", f"'{raw}' is the label '{exact}', a part of '{label.name}'"
    if _DISEASE & set(parts) and label.kind == "anatomy" and not _UNION & set(parts):
        yield "kind", f"'{raw}' names a disease, '{label.name}' is anatomy"


def _side_faults(raw: str, parts: list[str], mapping: Mapping, ontology: Ontology) -> Iterator[tuple[str, str]]:
    label = ontology.labels[mapping.label or ""]
    told = label_text.side(parts)
    own = label.laterality if label.laterality != "none" else label_text.side(label_text.words(label.name))
    if label.laterality == "none" and own is not None:
        told = label_text.chamber_side(parts)
    if told is not None and own is not None and told != own:
        yield "laterality", f"'{raw}' is {told}, '{label.name}' is {own}: swapped"
    elif told is not None and own is None and (f"{told} {label.name}" in ontology.labels or not mapping.why):
        yield "laterality", f"'{raw}' is {told}, '{label.name}' has no side: lost (or say why the word is no side)"
    elif told is None and label.laterality != "none" and not mapping.why:
        yield "laterality", f"'{raw}' has no side, '{label.name}' is {label.laterality}: made up (or say why)"


def _wholes(name: str, ontology: Ontology) -> set[str]:
    """The labels that a label is part of, at any depth."""
    found: set[str] = set()
    parent = ontology.labels[name].parent
    while parent is not None and parent not in found:
        found.add(parent)
        parent = ontology.labels[parent].parent
    return found


def _format(path: Path, entries: Map[str, Mapping]) -> Iterator[Problem]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    keys = [label_file.key(line) for line in lines]
    known = [(number, raw) for number, raw in enumerate(keys, start=1) if raw is not None and raw in entries]
    if len(known) != len(entries):
        yield Problem(str(path), 1, "format", "each entry must stand on one line")
    for (_, before), (number, raw) in pairwise(known):
        if before > raw:
            yield Problem(str(path), number, "format", f"'{raw}' must stand before '{before}': entries are sorted")
            break
    for number, raw in known:
        wanted = label_file.entry(raw, entries[raw])
        if not re.fullmatch(re.escape(wanted) + r"(  #.*)?", lines[number - 1]):
            yield Problem(str(path), number, "format", f"write the entry as `{wanted.strip()}`")
    if not text.endswith("\n") or text.endswith("\n\n") or any(line != line.rstrip() for line in lines):
        yield Problem(str(path), len(lines), "format", "trailing blanks, or not exactly one line end at the end")


def _across(maps: Maps) -> Iterator[Problem]:
    yield from _context(maps)
    yield from _components(maps)


def _context(maps: Maps) -> Iterator[Problem]:
    """The same raw name with two meanings: each of them must say why."""
    seen: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for slug, entries in maps.entries.items():
        for raw, mapping in entries.items():
            if (label := mapping.used()) is not None:
                seen[label_text.normal(raw)][label].append((slug, raw))
    for form, meanings in seen.items():
        if len(meanings) < 2:
            continue
        for slug, raw in (place for places in meanings.values() for place in places):
            if not maps.entries[slug][raw].why:
                other = ", ".join(sorted(set(meanings) - {maps.entries[slug][raw].label or ""}))
                message = f"'{form}' is '{maps.entries[slug][raw].label}' here and '{other}' elsewhere; say why"
                yield Problem(str(maps.paths[slug]), _line_of(maps.paths[slug], raw), "context", message)


def _components(maps: Maps) -> Iterator[Problem]:
    """A label whose regions are single parts in one source and all parts together in another.

    `components: either` in the ontology says that this is known and accepted for a label.
    """
    split: dict[str, set[str]] = defaultdict(set)
    whole: dict[str, set[str]] = defaultdict(set)
    for slug, manifest in maps.manifests.items():
        apart = _apart(manifest)
        for raw, mapping in maps.entries.get(slug, {}).items():
            if (label := mapping.used()) is not None:
                (split if raw in apart else whole)[label].add(slug)
    for name in sorted({*split} & {*whole} & {*maps.ontology.labels}):
        if maps.ontology.labels[name].components != "either":
            text = f"'{name}' is split into components by {_some(split[name])} and not by {_some(whole[name])}"
            hint = "change `components` of a manifest, or accept it with `components: either` here"
            yield Problem(str(maps.ontology_path), _line_of(maps.ontology_path, name), "components", f"{text}; {hint}")


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _apart(manifest: Manifest) -> set[str]:
    """The raw labels each of whose parts is a region of its own: components, numbered instances, drawn objects."""
    if manifest.components == "all":
        return set(manifest.raw_labels())
    found = set(manifest.components)
    for rule in manifest.files:
        for value, raw in manifest.rule_labels(rule).items():
            if rule.kind in _OBJECTS or (rule.kind in ("label_map", "image_stack") and "-" in value[1:]):
                found.add(raw)
    return found
