"""The ontology of 198 labels in 38 categories, and the maps from raw labels to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from etl import yamlfile
from etl.errors import UsageError

Status = Literal["approved", "proposed", "rejected"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Category(_Model):
    """One anatomical class, named `Region (part)`."""

    id: int = Field(ge=1, le=38)
    name: str = Field(min_length=1)
    body_region: str


class Label(_Model):
    """One fine label; `parent` is the label it is part of, `codes` its codes in public terminologies.

    `components: either`: some sources split it into connected parts and others do not, which is known and accepted.
    """

    id: int = Field(ge=1, le=198)
    name: str = Field(min_length=1)
    category: str
    synonyms: tuple[str, ...] = ()
    kind: Literal["anatomy", "pathology"] = "anatomy"
    laterality: Literal["left", "right", "none"] = "none"
    parent: str | None = None
    codes: dict[str, str] = Field(default_factory=dict)
    components: Literal["alike", "either"] = "alike"

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, then its synonyms."""
        return (self.name, *self.synonyms)


class Mapping(_Model):
    """What a raw label is in the ontology; only `approved` reaches a dataset."""

    label: str | None = None
    status: Status
    by: str | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)
    why: str | None = None

    @model_validator(mode="after")
    def _has_label(self) -> Mapping:
        if self.label is None and self.status != "rejected":
            raise ValueError(f"'{self.status}' needs a label; name one of the ontology or set status: rejected")
        return self

    def used(self, *, accept_proposed: bool = False) -> str | None:
        """The label under which the regions of the raw label reach a dataset; None if they do not."""
        accepted = self.status == "approved" or (accept_proposed and self.status == "proposed")
        return self.label if accepted else None


@dataclass(frozen=True, slots=True)
class Ontology:
    """Labels and categories by name, and the body regions in their order."""

    labels: dict[str, Label]
    categories: dict[str, Category]
    body_regions: tuple[str, ...]

    def plain(self) -> list[list[dict[str, Any]]]:
        """All labels and categories as plain values."""
        return [[e.model_dump(mode="json") for e in part.values()] for part in (self.labels, self.categories)]


class _OntologyFile(_Model):
    body_regions: tuple[str, ...]
    categories: tuple[Category, ...]
    labels: tuple[Label, ...]


class _MapFile(_Model):
    source: str
    labels: dict[str, Mapping]


_ONTOLOGY_MODELS: dict[yamlfile.Location, type[BaseModel]] = {
    (): _OntologyFile,
    ("categories",): Category,
    ("labels",): Label,
}
_Named = TypeVar("_Named", Category, Label)


def load_ontology(*folders: Path) -> Ontology:
    """Read the `ontology.yaml` of the last folder that has one."""
    paths = [folder / "ontology.yaml" for folder in folders]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise UsageError(f"no ontology.yaml in: {', '.join(str(folder) for folder in folders) or 'no folder given'}")
    document = yamlfile.load(found[-1])
    try:
        content = _OntologyFile.model_validate(document.data)
    except ValidationError as error:
        raise UsageError("\n".join(yamlfile.explain(document, error, _ONTOLOGY_MODELS))) from error
    problems = _reference_problems(document, content)
    if problems:
        raise UsageError("\n".join(problems))
    labels = {label.name: label for label in content.labels}
    return Ontology(labels, {category.name: category for category in content.categories}, content.body_regions)


def _reference_problems(document: yamlfile.Document, content: _OntologyFile) -> list[str]:
    problems = _repeated(document, "categories", content.categories) + _repeated(document, "labels", content.labels)
    categories = [category.name for category in content.categories]
    labels = [label.name for label in content.labels]
    wanted: list[tuple[yamlfile.Location, str, Iterable[str]]] = []
    for index, category in enumerate(content.categories):
        wanted.append((("categories", index, "body_region"), category.body_region, content.body_regions))
    category_names, label_names = dict.fromkeys(categories), dict.fromkeys(labels)
    for index, label in enumerate(content.labels):
        wanted.append((("labels", index, "category"), label.category, category_names))
        if label.parent is not None:
            wanted.append((("labels", index, "parent"), label.parent, label_names))
    for location, name, known in wanted:
        if name not in known:
            cause = f"'{name}' is not defined in this file{yamlfile.suggestion(name, known)}"
            problems.append(document.message(location, cause))
    return problems + _parent_cycles(document, content.labels)


def _parent_cycles(document: yamlfile.Document, labels: tuple[Label, ...]) -> list[str]:
    parents = {label.name: label.parent for label in labels}
    problems = []
    for index, label in enumerate(labels):
        above, seen = label.parent, set[str]()
        while above is not None and above not in seen and above != label.name:
            seen.add(above)
            above = parents.get(above)
        if above == label.name:
            problems.append(document.message(("labels", index, "parent"), "the label is part of itself"))
    return problems


def _repeated(document: yamlfile.Document, key: str, items: tuple[_Named, ...]) -> list[str]:
    problems = []
    seen: dict[str | int, int] = {}
    for index, item in enumerate(items):
        for field, value in (("id", item.id), ("name", item.name)):
            if value in seen:
                line = document.line((key, seen[value], field))
                problems.append(document.message((key, index, field), f"{value!r} is taken on line {line}"))
            seen.setdefault(value, index)
    return problems


def load_label_map(slug: str, *folders: Path) -> dict[str, Mapping]:
    """Read `sources/<slug>.yaml` of the last folder that has one: raw label → mapping; none: empty."""
    paths = [folder / "sources" / f"{slug}.yaml" for folder in folders]
    found = [path for path in paths if path.is_file()]
    if not found:
        return {}
    document = yamlfile.load(found[-1])
    labels = document.data.get("labels")
    inner = list(labels) if isinstance(labels, dict) else []
    models: dict[yamlfile.Location, type[BaseModel]] = {(): _MapFile}
    models.update({("labels", name): Mapping for name in inner})
    try:
        content = _MapFile.model_validate(document.data)
    except ValidationError as error:
        raise UsageError("\n".join(yamlfile.explain(document, error, models))) from error
    if content.source != slug:
        cause = f"is '{content.source}', but the file is named {slug}.yaml; make them the same"
        raise UsageError(document.message(("source",), cause))
    return content.labels
