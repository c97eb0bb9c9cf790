"""Manifests: what a public dataset looks like on disk and what its annotations mean."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from etl import yamlfile
from etl.errors import UsageError
from etl.patterns import check_template, compile_pattern

Modality = Literal["ct", "mri", "ultrasound", "xray", "dermoscopy", "endoscopy", "fundus"]
BodyRegion = Literal["head and neck", "chest", "abdomen", "pelvis", "spine and limbs", "skin"]
Axis = Literal["axial", "coronal", "sagittal"]
Split = Literal["train", "val", "test"]
Kind = Literal[
    "label_map", "binary", "file_per_label", "color_map", "outline", "multipage", "bitfield", "image_stack",
    "dicom_seg", "rtstruct", "dicom_label", "coco", "voc", "yolo", "labelme", "csv_boxes", "rle_csv", "mat", "npy",
]  # fmt: skip
Fact = Literal["subject", "split", "sex", "age", "diagnosis", "license"]

_VALUES = frozenset({"label_map", "image_stack"})
_INTEGERS = frozenset({"dicom_seg", "dicom_label", "mat", "npy", "yolo", "multipage", "bitfield"})
_ONE = frozenset({"binary", "outline"})
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_RANGE = re.compile(r"(0|[1-9][0-9]*)-(0|[1-9][0-9]*)")
_COLOR = re.compile(r"#[0-9a-f]{6}")
_TEXT_KEYS = ("labels", "derive", "components", "annotates", "channels", "values")


def _relative(text: str) -> str:
    if not text or text.startswith("/") or "\\" in text or ".." in PurePosixPath(text).parts:
        raise ValueError(f"'{text}' must be a path below the folder, with / and without ..")
    return text


def _color(text: str) -> str:
    if not _COLOR.fullmatch(text.lower()):
        raise ValueError(f"'{text}' is no color; write it as \"#rrggbb\"")
    return text.lower()


Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Text = Annotated[str, Field(min_length=1)]
RelativePath = Annotated[str, AfterValidator(_relative)]
Color = Annotated[str, AfterValidator(_color)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class License(_Model):
    """The license of a source and whether its images may be passed on."""

    name: Text = "unknown"
    redistribution: Literal["allowed", "noncommercial", "forbidden", "unknown"] = "unknown"


class Rule(_Model):
    """Which files are images, which are their masks, and how to read the masks."""

    image: Text
    mask: Text | None = None
    kind: Kind
    split: Split | None = None
    subject: Text | None = None
    case: Text | None = None
    threshold: float | None = None
    tolerance: float = Field(default=0, ge=0)
    background: Color = "#000000"
    variable: Text | None = None
    order: Literal["position", "reversed", "filename", "instance_number"] = "position"
    mask_grid: Literal["nearest"] | None = None
    labels: dict[str, Text] | None = None

    @model_validator(mode="after")
    def _patterns(self) -> Rule:
        image = compile_pattern(self.image)
        for template in (self.case, self.subject):
            if template is not None:
                known = image.names if template == self.case else (*image.names, "case")
                check_template(template, known)
        mask = compile_pattern(self.mask, image) if self.mask is not None else None
        if self.kind == "file_per_label" and (mask is None or "label" not in mask.names):
            raise ValueError("kind file_per_label needs {label} in its mask pattern")
        if self.labels is not None and not self.labels:
            raise ValueError("labels is empty; list them or remove the key to use the manifest's")
        return self


class Window(_Model):
    """A linear grey window in the image's units (HU for CT)."""

    center: float
    width: float = Field(gt=0)


class View(_Model):
    """How grey values become 8 bit, and along which axes volumes are cut."""

    window: Window | Literal["none"] | None = None
    percentile: tuple[float, float] | None = None
    axes: tuple[Axis, ...] = get_args(Axis)

    @model_validator(mode="after")
    def _one_view(self) -> View:
        if self.window is not None and self.percentile is not None:
            raise ValueError("window and percentile exclude each other; keep one")
        if self.percentile is not None and not 0 <= self.percentile[0] < self.percentile[1] <= 100:
            raise ValueError("percentile must be [low, high] with 0 <= low < high <= 100")
        if not self.axes or len(set(self.axes)) != len(self.axes):
            raise ValueError("axes must name each axis once, and at least one")
        return self


class Table(_Model):
    """A CSV, TSV or JSON file of facts: the row whose `key` column equals the `case` template. One that is
    `optional` may be missing."""

    file: RelativePath
    optional: bool = False
    key: Text
    case: Text = "{case}"
    columns: dict[Fact, Text]
    values: dict[Fact, dict[str, str | None]] = Field(default_factory=dict)


class Exclude(_Model):
    """A case with a known fault; `*` in its name stands for any text."""

    case: Text
    why: Text
    link: str | None = None


class Fetch(_Model):
    """A file to download."""

    url: Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    unpack: Literal["zip", "tar", "none"] = "none"
    into: RelativePath = "."


class Manifest(_Model):
    """One source. `labels` maps the text of a value or name to the raw label."""

    slug: Slug
    group: Slug = ""
    folder: RelativePath | None = None
    title: str = ""
    year: int | None = None
    modality: Modality
    detail: str | None = None
    body_regions: tuple[BodyRegion, ...] = ()
    homepage: str | None = None
    license: License = License()
    access: Literal["open", "registration", "request"] = "open"
    citation: str | None = None
    evidence: tuple[str, ...] = ()
    status: Literal["verified", "documented", "unverified"] = "unverified"
    files: tuple[Rule, ...] = Field(min_length=1)
    labels: dict[str, Text] = Field(default_factory=dict)
    components: tuple[Text, ...] | Literal["all"] = ()
    derive: dict[str, tuple[Text, ...]] = Field(default_factory=dict)
    annotates: tuple[Text, ...] | Literal["all"] = "all"
    view: View = View()
    channels: dict[int, Text] = Field(default_factory=dict)
    third_axis: Literal["space", "time"] = "space"
    fourth_axis: Literal["time"] | None = None
    mask_grid: Literal["nearest"] | None = None
    tables: tuple[Table, ...] = ()
    overlaps: tuple[Text, ...] = ()
    exclude: tuple[Exclude, ...] = ()
    pseudonymize: bool = False
    fetch: tuple[Fetch, ...] = ()
    path: Path = Field(default=Path(), exclude=True)

    def root(self, raw: Path) -> Path | None:
        """The source's folder below `raw`: `folder`, the slug, else the group; None if there is none."""
        names = [self.folder, self.slug, self.group]
        return next((raw / name for name in names if name and (raw / name).is_dir()), None)

    def rule_labels(self, rule: Rule) -> dict[str, str]:
        """The labels that hold for a rule: its own, else the manifest's whose keys suit its kind."""
        if rule.labels is not None:
            return rule.labels
        return {key: name for key, name in self.labels.items() if key_suits(rule.kind, key)}

    def raw_labels(self) -> tuple[str, ...]:
        """Every raw label of the source, each once: of the manifest, of the rules, derived."""
        names = [name for rule in self.files for name in (rule.labels or {}).values()]
        return tuple(dict.fromkeys([*self.labels.values(), *names, *self.derive]))


_MODELS: dict[yamlfile.Location, type[BaseModel]] = {
    (): Manifest,
    ("license",): License,
    ("files",): Rule,
    ("view",): View,
    ("view", "window", "Window"): Window,
    ("tables",): Table,
    ("exclude",): Exclude,
    ("fetch",): Fetch,
}


def key_suits(kind: str, key: str) -> bool:
    """Whether a key of `labels` can mean something to an annotation kind."""
    if kind in _VALUES:
        return bool(_INTEGER.fullmatch(key)) or key == ">0" or _ordered_range(key)
    if kind in _ONE:
        return key == "1"
    if kind == "bitfield":
        return key.isdecimal() or _ordered_range(key)
    if kind in _INTEGERS:
        return bool(_INTEGER.fullmatch(key))
    if kind == "color_map":
        return bool(_COLOR.fullmatch(key))
    return bool(key)


def _ordered_range(key: str) -> bool:
    match = _RANGE.fullmatch(key)
    return bool(match) and int(match[1]) <= int(match[2]) if match else False


def _normal_key(kind: str, key: str) -> str:
    if kind == "color_map":
        return key.lower()
    if kind in _VALUES or kind in _INTEGERS or kind in _ONE:
        tight = re.sub(r"\s+", "", key)
        number = re.fullmatch(r"([+-]?)(0|[1-9][0-9]*)(\.0*)?", tight)
        if number:
            return ("-" if number[1] == "-" and number[2] != "0" else "") + number[2]
        return tight
    return key


def load_manifest(path: Path) -> Manifest:
    """Read and check one manifest; every problem is in the message of one UsageError."""
    document = yamlfile.load(path, _TEXT_KEYS)
    problems = _prepare(document)
    try:
        manifest = Manifest.model_validate(document.data)
    except ValidationError as error:
        raise UsageError("\n".join(problems + yamlfile.explain(document, error, _MODELS))) from error
    problems += _problems(document, manifest)
    if problems:
        raise UsageError("\n".join(problems))
    rules = manifest.files
    if manifest.mask_grid:
        rules = tuple(rule.model_copy(update={"mask_grid": rule.mask_grid or manifest.mask_grid}) for rule in rules)
    names = {"group": manifest.group or manifest.slug, "title": manifest.title or manifest.slug}
    return manifest.model_copy(update={**names, "files": rules, "path": path})


def load_manifests(*folders: Path) -> dict[str, Manifest]:
    """The manifests of the folders by slug, sorted; a later folder hides the same slug of an earlier one."""
    paths: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder of manifests")
        here: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix in (".yaml", ".yml") and not path.name.startswith("."):
                if path.stem in here:
                    raise UsageError(f"{path}: {here[path.stem].name} describes the same source; keep one of them")
                here[path.stem] = path
        paths.update(here)
    manifests, problems = {}, []
    for slug in sorted(paths):
        try:
            manifests[slug] = load_manifest(paths[slug])
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))
    return manifests


def _prepare(document: yamlfile.Document) -> list[str]:
    """Bring label keys to one form, drop empty optional keys, return what cannot be."""
    data, problems = document.data, []
    if "path" in data:
        del data["path"]
        problems.append(document.message(("path",), "unknown key; the path is where the file lies"))
    if data.get("view") == "none":
        data["view"] = {"window": "none"}
    files = data.get("files")
    rules = [rule for rule in files if isinstance(rule, dict)] if isinstance(files, list) else []
    shared = [str(rule.get("kind")) for rule in rules if rule.get("labels") is None]
    problems += _normalize(document, data, (), shared)
    for index, rule in enumerate(files if isinstance(files, list) else []):
        if isinstance(rule, dict):
            problems += _normalize(document, rule, ("files", index), [str(rule.get("kind"))])
    return problems


def _normalize(
    document: yamlfile.Document, holder: dict[str, yamlfile.Value], at: yamlfile.Location, kinds: list[str]
) -> list[str]:
    labels, problems = holder.get("labels"), []
    if not isinstance(labels, dict):
        return []
    result: dict[str, yamlfile.Value] = {}
    for key, name in labels.items():
        location = (*at, "labels", key)
        forms = [_normal_key(kind, key) for kind in kinds]
        suits = [form for kind, form in zip(kinds, forms, strict=True) if key_suits(kind, form)]
        new = suits[0] if suits and key not in suits else key
        known = [kind for kind in kinds if kind in get_args(Kind)]
        if known and not suits:
            problems.append(document.message(location, _bad_key(key, known)))
        if new in result:
            problems.append(document.message(location, f"means the same as another key ({new}); keep one of them"))
        document.lines[(*at, "labels", new)] = document.lines[location]
        result[new] = name
    holder["labels"] = result
    return problems


def _bad_key(key: str, kinds: list[str]) -> str:
    text = f"'{key}' is no key of kind {', '.join(dict.fromkeys(kinds))}"
    if re.fullmatch(r"[+-]?0+[0-9]+", key):
        return f"{text}: write the number without leading zeros"
    if any(kind in _ONE for kind in kinds):
        return f"{text}: the one key is 1"
    if "color_map" in kinds:
        return f"{text}: write the color as \"#rrggbb\""
    return f"{text}: write an integer" + (', "a-b" or ">0"' if set(kinds) & _VALUES else "")


def _problems(document: yamlfile.Document, manifest: Manifest) -> list[str]:
    problems = []
    if manifest.slug != manifest.path.stem and manifest.slug != document.path.stem:
        problems.append(document.message(("slug",), f"must be the file's name, '{document.path.stem}'"))
    for index, rule in enumerate(manifest.files):
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
    for key, names in (("components", manifest.components), ("annotates", manifest.annotates)):
        if not isinstance(names, str):
            wanted += [((key, index), name, every) for index, name in enumerate(names)]
    for derived, parts in manifest.derive.items():
        wanted += [(("derive", derived, index), name, drawn) for index, name in enumerate(parts)]
    return wanted


def _table_problems(document: yamlfile.Document, manifest: Manifest) -> list[str]:
    problems = []
    for index, table in enumerate(manifest.tables):
        for rule in manifest.files:
            try:
                check_template(table.case, (*compile_pattern(rule.image).names, "case"))
            except ValueError as error:
                problems.append(document.message(("tables", index, "case"), str(error)))
    return list(dict.fromkeys(problems))


def schema() -> dict[str, Any]:
    """The JSON schema of a manifest, for editors and documentation."""
    return Manifest.model_json_schema()
