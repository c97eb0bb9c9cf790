"""Manifests read from files, with every fault told by file, line and key."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from etl import yamlfile
from etl.errors import UsageError
from etl.manifests import labelkeys
from etl.manifests.manifest import MODELS, OPTIONS, TEXT_KEYS, Kind, Manifest
from etl.manifests.patterns import check_template, compile_pattern


def load_manifest(path: Path) -> Manifest:
    """Read and check one manifest; every problem is in the message of one UsageError."""
    document = yamlfile.load(path, TEXT_KEYS)
    problems = _prepare(document)
    try:
        manifest = Manifest.model_validate(document.data)
    except ValidationError as error:
        raise UsageError("\n".join(problems + yamlfile.explain(document, error, MODELS))) from error
    problems += _problems(document, manifest)
    if problems:
        raise UsageError("\n".join(problems))
    rules = manifest.files
    if manifest.mask_grid:
        rules = tuple(rule.model_copy(update={"mask_grid": rule.mask_grid or manifest.mask_grid}) for rule in rules)
    names = {"group": manifest.group or manifest.slug, "title": manifest.title or manifest.slug}
    return manifest.model_copy(update={**names, "files": rules, "path": path})


def load_manifests(*folders: Path) -> dict[str, Manifest]:
    """The manifests of the folders by slug, sorted.

    A manifest of a later folder hides that of the same slug in an earlier one; where its slug is new, those that
    would read the same folder below `--raw`.
    """
    paths: dict[str, Path] = {}
    added: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder of manifests")
        here: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix in (".yaml", ".yml") and not path.name.startswith("."):
                if path.stem in here:
                    raise UsageError(f"{path}: {here[path.stem].name} describes the same source; keep one of them")
                here[path.stem] = path
        added |= {path for slug, path in here.items() if paths and slug not in paths}
        paths.update(here)
    manifests, problems = {}, []
    for slug in sorted(paths):
        try:
            manifests[slug] = load_manifest(paths[slug])
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))
    taken = {manifest.folder or slug for slug, manifest in manifests.items() if paths[slug] in added}
    return {
        slug: manifest for slug, manifest in manifests.items()
        if paths[slug].parent in folders[1:] or not manifest.folders() & taken
    }  # fmt: skip


def _prepare(document: yamlfile.Document) -> list[str]:
    """Bring label keys to one form, drop empty optional keys, return what cannot be."""
    data, problems = document.data, []
    if "path" in data:
        del data["path"]
        problems.append(document.message(("path",), "unknown key; the path is where the file lies"))
    if data.get("view") == "none":
        data["view"] = {"window": "none"}
    _raise_percentile(data.get("view"))
    files = data.get("files")
    rules = [rule for rule in files if isinstance(rule, dict)] if isinstance(files, list) else []
    shared = [_key_kind(rule) for rule in rules if rule.get("labels") is None]
    problems += labelkeys.normalize(document, data, (), shared)
    for index, rule in enumerate(files if isinstance(files, list) else []):
        if isinstance(rule, dict):
            problems += labelkeys.normalize(document, rule, ("files", index), [_key_kind(rule)])
            problems += _option_problems(document, rule, ("files", index))
    return problems


def _raise_percentile(view: Any) -> None:
    """`window: {percentile: …}` says the same as `percentile: …`; in place."""
    window = view.get("window") if isinstance(view, dict) else None
    if isinstance(window, dict) and set(window) == {"percentile"} and "percentile" not in view:
        view["percentile"] = view.pop("window")["percentile"]


def _key_kind(rule: Mapping[str, Any]) -> str:
    return labelkeys.key_kind(str(rule.get("kind")), str(rule.get("mask")))


def _option_problems(
    document: yamlfile.Document, rule: Mapping[str, Any], at: yamlfile.Location
) -> list[str]:
    """Options that the rule's kind does not have."""
    kind, problems = rule.get("kind"), []
    for option, kinds in OPTIONS.items():
        if option in rule and kind in get_args(Kind) and kind not in kinds:
            cause = f"means nothing to kind {kind}, only to {', '.join(sorted(kinds))}; remove it"
            problems.append(document.message((*at, option), cause))
    return problems


def _problems(document: yamlfile.Document, manifest: Manifest) -> list[str]:
    problems = []
    if manifest.slug != document.path.stem:
        problems.append(document.message(("slug",), f"must be the file's name, '{document.path.stem}'"))
    for index, rule in enumerate(manifest.files):
        for value in rule.ignore:
            if str(value) in manifest.rule_labels(rule):
                cause = f"{value} is a key of labels too; a value is a label or means nothing"
                problems.append(document.message(("files", index, "ignore"), cause))
        if rule.labels is None and not manifest.labels:
            cause = "no labels: list them under labels (keys that begin with # or > need quotes)"
            problems.append(document.message(("files", index), cause))
    for location, name, known in _label_names(manifest):
        if name not in known:
            cause = f"'{name}' is no raw label of this manifest{yamlfile.suggestion(name, known)}"
            problems.append(document.message(location, cause))
    for name in manifest.derive:
        if name in _drawn(manifest):
            problems.append(document.message(("derive", name), "is already a raw label; give the union its own name"))
    return problems + _table_problems(document, manifest)


def _drawn(manifest: Manifest) -> tuple[str, ...]:
    own = [name for rule in manifest.files for name in (rule.labels or {}).values()]
    return tuple(dict.fromkeys([*manifest.labels.values(), *own]))


def _label_names(manifest: Manifest) -> list[tuple[yamlfile.Location, str, tuple[str, ...]]]:
    every, drawn = manifest.raw_labels(), _drawn(manifest)
    wanted: list[tuple[yamlfile.Location, str, tuple[str, ...]]] = []
    for number, item in enumerate(manifest.exclude):
        for index, name in enumerate(item.labels):
            if not any(fnmatchcase(label, name) for label in drawn):
                wanted.append((("exclude", number, "labels", index), name, drawn))
    for key, names in (("components", manifest.components), ("annotates", manifest.annotates)):
        if not isinstance(names, str):
            wanted += [((key, index), name, every) for index, name in enumerate(names)]
    for derived, parts in manifest.derive.items():
        wanted += [(("derive", derived, index), name, drawn) for index, name in enumerate(parts)]
    return wanted


def _table_problems(document: yamlfile.Document, manifest: Manifest) -> list[str]:
    problems = []
    tables = [("tables", index, table.case) for index, table in enumerate(manifest.tables)]
    lists = [("split_lists", index, item.case) for index, item in enumerate(manifest.split_lists)]
    for key, index, template in [*tables, *lists]:
        for rule in manifest.files:
            try:
                check_template(template, (*compile_pattern(rule.image).names, "case"))
            except ValueError as error:
                problems.append(document.message((key, index, "case"), str(error)))
    return list(dict.fromkeys(problems))
