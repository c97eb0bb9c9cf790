"""A source's folder held against its manifest: what is there, what is missing, what to change and where."""

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from etl import yamlfile
from etl.errors import ItemError
from etl.manifests.manifest import Manifest
from etl.manifests.patterns import Pattern, compile_pattern
from etl.sources import sidedness
from etl.sources.case import Loaded, load
from etl.sources.inventory import Case, Inventory, inventory, walk

SHOWN = 5
"""Examples that a message names; the lists of the report are complete."""


@dataclass(slots=True)
class Seen:
    """What the masks of the cases hold: cases by raw label and by value without a name, faults of cases."""

    read: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    undefined: dict[str, list[Case]] = field(default_factory=dict)
    unusable: list[dict[str, str]] = field(default_factory=list)
    sided: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=dict)


def check(manifest: Manifest, raw: Path, *, sample: int | None = None) -> dict[str, Any]:
    """The report on a source below `raw`; the pixels of at most `sample` cases, spread evenly, are read."""
    root = manifest.root(raw)
    found = inventory(manifest, root) if root is not None else Inventory()
    seen = look(manifest, root, spread(found.cases, sample)) if root is not None else Seen()
    without = [row.case for row in found.rejected if row.reason == "no_mask"]
    alone = [row.case for row in found.rejected if row.reason == "no_image"]
    wrong = {raw_label: cases for raw_label, cases in seen.wrong.items() if 2 * len(cases) > seen.sided[raw_label]}
    advice = list(_advice(manifest, raw, root, found, seen, wrong))
    return {
        "slug": manifest.slug,
        "pairs": len(found.cases),
        "images_without_mask": without,
        "masks_without_image": alone,
        "unexpected": found.unexpected,
        "undefined_values": sorted(seen.undefined, key=_numeric),
        "ok": bool(found.cases) and not (without or alone or seen.undefined or seen.unusable or wrong),
        "excluded": [row.case for row in found.rejected if row.reason == "excluded"],
        "cases_read": seen.read,
        "labels_seen": {name: seen.labels[name] for name in manifest.raw_labels() if name in seen.labels},
        "labels_not_seen": [name for name in manifest.raw_labels() if name not in seen.labels],
        "unusable": seen.unusable,
        "wrong_side": wrong,
        "advice": advice,
    }


def spread(cases: Sequence[Case], sample: int | None) -> list[Case]:
    """At most `sample` cases, evenly over the list."""
    if sample is None or len(cases) <= sample:
        return list(cases)
    return [cases[number * len(cases) // sample] for number in range(sample)]


def look(manifest: Manifest, root: Path, cases: Sequence[Case]) -> Seen:
    """Read the masks of these cases."""
    seen = Seen()

    def refuse(name: str, error: ItemError) -> None:
        seen.unusable.append({"case": name, "reason": error.reason, "detail": error.detail})

    for case in cases:
        seen.read += 1
        try:
            images = load(case, manifest, root, refuse)
        except ItemError as error:
            refuse(case.case, error)
            continue
        names: set[str] = set()
        for loaded in images:
            names |= _note(seen, case, loaded)
        seen.labels.update(names)
    return seen


def _note(seen: Seen, case: Case, loaded: Loaded) -> set[str]:
    """Note what one image shows; returns its raw labels."""
    names: set[str] = set()
    unknown: set[str] = set()
    for layer in loaded.layers:
        values = [int(value) for value in np.unique(layer.array) if value]
        names |= {layer.names[value] for value in values if value in layer.names}
        unknown |= {layer.undefined.get(value, str(value)) for value in values if value not in layer.names}
    for group in loaded.objects:
        names |= {item.name for item in group.found if item.defined}
        unknown |= {item.name for item in group.found if not item.defined}
    for text in unknown:
        cases = seen.undefined.setdefault(text, [])
        if case not in cases:
            cases.append(case)
    if loaded.volume is not None and loaded.tilt < sidedness.LARGEST_ANGLE:
        found = sidedness.places(loaded.layers)
        seen.sided.update(found.keys())
        for raw in sidedness.wrong(found, loaded.volume):
            seen.wrong.setdefault(raw, []).append(loaded.case)
    return names


def _numeric(text: str) -> tuple[int, str]:
    return (int(text), "") if text.lstrip("-").isdecimal() else (1 << 62, text)


def _advice(
    manifest: Manifest, raw: Path, root: Path | None, found: Inventory, seen: Seen, wrong: dict[str, list[str]]
) -> Iterator[str]:
    """What to change, each line with file and line of the manifest where it is about it."""
    document = yamlfile.load(manifest.path)
    if root is None:
        name = manifest.folder or manifest.slug
        near = _nearest(name, [entry.name for entry in raw.iterdir() if entry.is_dir()])
        at = ("folder",) if manifest.folder else ("slug",)
        yield document.message(at, f"no folder '{name}' below {raw}{_there_is(near)}; rename it, or write folder: …")
        return
    paths = walk(root)
    for number, rule in enumerate(manifest.files):
        image = compile_pattern(rule.image)
        for key, pattern in (("image", image), ("mask", compile_pattern(rule.mask, image) if rule.mask else None)):
            if pattern is not None and not any(pattern.match(path) is not None for path in paths):
                yield document.message(("files", number, key), _no_file(pattern, paths, root))
    yield from _missing(document, found)
    for text, cases in sorted(seen.undefined.items(), key=lambda item: _numeric(item[0])):
        where = _labels_at(manifest, cases[0])
        cause = f"add value {text}: seen in {len(cases)} of {seen.read} cases read ({_some([c.case for c in cases])})"
        yield document.message(where, cause)
    for raw_label, names in wrong.items():
        cause = f"'{raw_label}' lies on the patient's other side in {len(names)} of {seen.sided[raw_label]} cases"
        yield document.message(_label_at(manifest, raw_label), f"{cause} ({_some(names)}); are left and right swapped?")
    for row in seen.unusable[:SHOWN]:
        yield f"case {row['case']}: {row['reason']}: {row['detail']}"
    if found.unexpected:
        yield f"{len(found.unexpected)} files that no rule knows ({_some(found.unexpected)}); a build leaves them out"


def _missing(document: yamlfile.Document, found: Inventory) -> Iterator[str]:
    for reason, cure in (
        ("no_mask", "put the mask back, or list the case under exclude:"),
        ("no_image", "put the image back, or list the case under exclude:"),
    ):
        rows = [row for row in found.rejected if row.reason == reason]
        for row in rows[:SHOWN]:
            yield document.message(("files",), f"case {row.case}: {row.detail}; {cure}")
        if len(rows) > SHOWN:
            yield document.message(("files",), f"{len(rows) - SHOWN} more cases: {reason}")


def _no_file(pattern: Pattern, paths: list[str], root: Path) -> str:
    """Why no file matches: the first folder of the pattern that is not there, else the file most like it."""
    literal = pattern.text.split("{")[0].split("*")[0]
    here = root
    for part in literal.split("/")[:-1]:
        if not (here / part).is_dir():
            near = _nearest(part, [entry.name for entry in here.iterdir() if entry.is_dir()])
            return f"no file matches '{pattern.text}': no folder '{part}'{_there_is(near)}; did it get renamed?"
        here = here / part
    near = _nearest(pattern.text, paths)
    return f"no file matches '{pattern.text}'" + (f"; nearest file: {near}" if near else "; the folder is empty")


def _nearest(text: str, names: Sequence[str]) -> str | None:
    if not names:
        return None
    return max(names[:2000], key=lambda name: difflib.SequenceMatcher(None, text, name).quick_ratio())


def _there_is(near: str | None) -> str:
    return f", there is '{near}'" if near else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")


def _labels_at(manifest: Manifest, case: Case) -> yamlfile.Location:
    """Where the labels stand that hold for the masks of a case."""
    own = next((mask.rule for mask in case.masks if manifest.files[mask.rule].labels is not None), None)
    return ("labels",) if own is None else ("files", own, "labels")


def _label_at(manifest: Manifest, raw: str) -> yamlfile.Location:
    for number, rule in enumerate(manifest.files):
        for key, name in (rule.labels or {}).items():
            if name == raw:
                return ("files", number, "labels", key)
    return ("labels", next((key for key, name in manifest.labels.items() if name == raw), ""))
