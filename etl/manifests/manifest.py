"""Manifests: what a public dataset looks like on disk and what its annotations mean."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from etl import yamlfile
from etl.manifests import labelkeys
from etl.manifests.patterns import check_template, compile_pattern

MaskGrid = Literal["nearest", "voxels"]
Modality = Literal["ct", "mri", "ultrasound", "xray", "dermoscopy", "endoscopy", "fundus"]
BodyRegion = Literal["head and neck", "chest", "abdomen", "pelvis", "spine and limbs", "skin"]
Axis = Literal["axial", "coronal", "sagittal"]
Split = Literal["train", "val", "test"]
Kind = Literal[
    "label_map", "binary", "file_per_label", "color_map", "outline", "multipage", "bitfield", "image_stack",
    "dicom_seg", "rtstruct", "dicom_label", "coco", "voc", "yolo", "labelme", "csv_boxes", "rle_csv", "json_polygons",
    "mat", "npy",
]  # fmt: skip
Column = Literal["image", "label", "xmin", "ymin", "xmax", "ymax", "x", "y", "width", "height", "rle", "polygons"]
Fact = Literal["subject", "split", "sex", "age", "diagnosis", "license", "scanner", "contrast_phase"]

OPTIONS: dict[str, frozenset[str]] = {
    "threshold": frozenset({"binary", "file_per_label", "outline", "multipage", "dicom_seg"}),
    "tolerance": frozenset({"color_map"}),
    "background": frozenset({"color_map"}),
    "variable": frozenset({"mat", "npy"}),
    "order": frozenset({"image_stack", "mat", "npy"}),
    "columns": frozenset({"csv_boxes", "rle_csv", "json_polygons"}),
    "ignore": frozenset({"label_map", "image_stack", "dicom_label", "mat", "npy"}),
    "runs": frozenset({"rle_csv"}),
}
"""The keys of a rule that belong to some kinds only."""
TEXT_KEYS = ("labels", "derive", "components", "annotates", "channels", "values", "subjects")


def _relative(text: str) -> str:
    if not text or text.startswith("/") or "\\" in text or ".." in PurePosixPath(text).parts:
        raise ValueError(f"'{text}' must be a path below the folder, with / and without ..")
    return text


def _color(text: str) -> str:
    if not labelkeys.COLOR.fullmatch(text.lower()):
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
    image_variable: Text | None = None
    columns: dict[Column, Text] | None = None
    runs: Literal["columns", "rows"] = "columns"
    order: Literal["position", "reversed", "filename", "instance_number"] = "position"
    mask_grid: MaskGrid | None = None
    ignore: tuple[int, ...] = ()
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
        boxes = {"xmin", "ymin", "xmax", "ymax", "x", "y", "width", "height"}
        others = {"csv_boxes": {"rle", "polygons"}, "rle_csv": boxes | {"polygons"}, "json_polygons": boxes | {"rle"}}
        foreign = others.get(self.kind, set()) & set(self.columns or {})
        if foreign:
            raise ValueError(f"kind {self.kind} has no column {', '.join(sorted(foreign))}")
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


class SplitList(_Model):
    """A text file that names what belongs to a split, one a line: the text of the `case` template."""

    file: RelativePath
    split: Split
    case: Text = "{case}"
    optional: bool = False


class Exclude(_Model):
    """A case with a known fault; with `labels`, those alone are not used. `*` in a name stands for any text."""

    case: Text
    labels: tuple[Text, ...] = ()
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
    size: str | None = None
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
    third_axis: Literal["space", "time", "color"] = "space"
    fourth_axis: Literal["time"] | None = None
    mask_grid: MaskGrid | None = None
    tables: tuple[Table, ...] = ()
    split_lists: tuple[SplitList, ...] = ()
    subjects: dict[str, Text] = Field(default_factory=dict)
    overlaps: tuple[Text, ...] = ()
    exclude: tuple[Exclude, ...] = ()
    pseudonymize: bool = False
    fetch: tuple[Fetch, ...] = ()
    path: Path = Field(default=Path(), exclude=True)

    def root(self, raw: Path) -> Path | None:
        """The source's folder below `raw`: `folder`, the slug, else the group; None if there is none."""
        names = [self.folder, self.slug, self.group]
        return next((raw / name for name in names if name and (raw / name).is_dir()), None)

    def folders(self) -> set[str]:
        """The names of a folder below `--raw` that would be taken for this source's."""
        return {self.folder} if self.folder else {self.slug, self.group}

    def rule_labels(self, rule: Rule) -> dict[str, str]:
        """The labels that hold for a rule: its own, else the manifest's whose keys suit its kind."""
        if rule.labels is not None:
            return rule.labels
        kind = labelkeys.key_kind(rule.kind, rule.mask)
        return {key: name for key, name in self.labels.items() if labelkeys.suits(kind, key)}

    def raw_labels(self) -> tuple[str, ...]:
        """Every raw label of the source, each once: of the manifest, of the rules, derived."""
        names = [name for rule in self.files for name in (rule.labels or {}).values()]
        return tuple(dict.fromkeys([*self.labels.values(), *names, *self.derive]))


MODELS: dict[yamlfile.Location, type[BaseModel]] = {
    (): Manifest,
    ("license",): License,
    ("files",): Rule,
    ("view",): View,
    ("view", "window", "Window"): Window,
    ("tables",): Table,
    ("split_lists",): SplitList,
    ("exclude",): Exclude,
    ("fetch",): Fetch,
}
