"""MedGLIP: one image encoder per modality over one shared language encoder and head; bundles on disk.

An expert that is added later is trained with everything shared frozen, so what the others say does not change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from etl.errors import Failure, UsageError
from glip.config import ModelConfig
from glip.head import Outputs
from glip.model import GLIP, Backbone

FORMAT = "medglip-bundle-1"


class MedGLIP(nn.Module):
    """Experts by modality; each is a `Backbone`, everything else is shared."""

    def __init__(self, config: ModelConfig, modalities: Iterable[str], *, parity: bool = False) -> None:
        super().__init__()
        self.config = config
        self.shared = GLIP(config, parity=parity)
        self.experts = nn.ModuleDict()
        first = self.shared.backbone
        del self.shared.backbone
        for n, name in enumerate(modalities):
            self.experts[name] = first if n == 0 else _copy(first, config)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have an expert."""
        return tuple(self.experts)

    def expert(self, modality: str) -> Backbone:
        """A modality's image encoder; UsageError lists those there are."""
        if modality not in self.experts:
            raise UsageError(f"no expert for '{modality}'; this model has {', '.join(self.experts)}")
        found = self.experts[modality]
        assert isinstance(found, Backbone)
        return found

    def add_expert(self, modality: str, *, like: str | None = None) -> None:
        """A new expert, a copy of the expert `like` or fresh; the others stay as they are."""
        if modality in self.experts:
            raise UsageError(f"there is an expert for '{modality}' already")
        self.experts[modality] = _copy(self.expert(like), self.config) if like else Backbone(self.config)
        self.experts[modality].train(self.training)

    def forward(
        self, modality: str, images: Tensor, ids: Tensor, mask: Tensor, *, sizes: list[tuple[int, int]] | None = None
    ) -> Outputs:
        """As `GLIP.forward`, through the modality's expert."""
        levels = self.expert(modality)(images)
        hidden = self.shared.language_backbone(ids, mask)
        return self.shared.fused(levels, hidden, mask, canvas=(images.shape[2], images.shape[3]), sizes=sizes)


def _copy(backbone: Backbone, config: ModelConfig) -> Backbone:
    new = Backbone(config)
    new.load_state_dict(backbone.state_dict())
    return new


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What a bundle says of itself, beside the model's config."""

    labels: tuple[str, ...] = ()
    """The labels it was trained on."""
    fingerprint: str = ""
    """SHA-256 over the training data's statistics file; empty when unknown."""
    text_source: str = ""
    """Where its tokenizer comes from."""
    training: dict[str, Any] = field(default_factory=dict)
    """The settings of the run."""


def save_bundle(folder: Path, model: MedGLIP, info: BundleInfo) -> None:
    """`shared.safetensors`, `experts/<modality>.safetensors` and `bundle.json` below a folder."""
    from safetensors.torch import save_file

    (folder / "experts").mkdir(parents=True, exist_ok=True)
    save_file(_plain(model.shared), folder / "shared.safetensors")
    for name, expert in model.experts.items():
        save_file(_plain(expert), folder / "experts" / f"{name}.safetensors")
    about = {
        "format": FORMAT, "model": model.config.to_json(), "experts": list(model.modalities),
        "labels": list(info.labels), "fingerprint": info.fingerprint,
        "text_source": info.text_source or model.config.text_source, "training": info.training,
    }  # fmt: skip
    (folder / "bundle.json").write_text(json.dumps(about, indent=1) + "\n")


def _plain(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}


def _about(folder: Path) -> dict[str, Any]:
    """`bundle.json`, checked; Failure says what is wrong with it."""
    path = folder / "bundle.json"
    if not path.is_file():
        raise Failure(f"{folder}: no bundle here, bundle.json is missing; `medglip-etl train` writes RUN/bundle")
    try:
        about: Any = json.loads(path.read_text())
    except ValueError as error:
        raise Failure(f"{path}: no JSON: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else None
        raise Failure(f"{path}: format '{found}', this version reads {FORMAT}")
    missing = {"model", "experts", "labels", "fingerprint", "text_source", "training"} - set(about)
    if missing:
        raise Failure(f"{path}: lacks {', '.join(sorted(missing))}")
    return about


def bundle_size(folder: Path) -> str:
    """The name of the size of a bundle's model."""
    return ModelConfig.from_json(_about(folder)["model"]).name


def load_bundle(folder: Path, *, only: str | None = None) -> tuple[MedGLIP, BundleInfo]:
    """(model in evaluation mode, what it says of itself); `only` reads one expert. Failure names what is missing."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    about = _about(folder)
    names = about["experts"] if only is None else [only]
    if only is not None and only not in about["experts"]:
        raise UsageError(f"{folder}: no expert for '{only}'; it has {', '.join(about['experts'])}")
    model = MedGLIP(ModelConfig.from_json(about["model"]), names)
    parts: list[tuple[nn.Module, Path]] = [(model.shared, folder / "shared.safetensors")]
    parts += [(model.experts[n], folder / "experts" / f"{n}.safetensors") for n in names]
    for module, file in parts:
        try:
            module.load_state_dict(load_file(file))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise Failure(f"{file}: {error}") from error
    info = BundleInfo(tuple(about["labels"]), about["fingerprint"], about["text_source"], about["training"])
    return model.eval(), info
