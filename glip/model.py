"""GLIP: image trunk, language encoder and fusion head in one module, with the official checkpoint's key names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glip.config import STRIDES, ModelConfig
from glip.dyhead import Shapes
from glip.fpn import FPN
from glip.fusion import BOUND, text_bias
from glip.head import RPN, Outputs
from glip.swin import Swin


class Backbone(nn.Module):
    """The image encoder: Swin and FPN. A modality's expert is one of these."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = tuple(config.swin.embed * 2**i for i in (1, 2, 3))
        self.body = Swin(config.swin)
        self.fpn = FPN(widths, config.head.channels, config.head.dropblock)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), normalised → P3 … P7."""
        y: list[Tensor] = self.fpn(self.body(images)[1:])
        return y


class Language(nn.Module):
    """The language encoder: a `transformers` BERT without its pooler."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        t = config.text
        settings = BertConfig(
            vocab_size=t.vocabulary, hidden_size=t.hidden, num_hidden_layers=t.layers, num_attention_heads=t.heads,
            intermediate_size=t.ffn,
        )  # fmt: skip
        self.body = nn.ModuleDict({"model": BertModel(settings, add_pooling_layer=False)})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask (B, T) → the last layer (B, T, D); padding positions are not zeroed.

        What is learned never reads padding, so no gradient comes from it. Where a second, shorter pass costs less than
        going back through the padding, the real tokens are encoded for themselves and the rest without gradient.
        """
        used = int(mask.sum(1).max()) if self._learns() else ids.shape[1]
        if used * 3 >= ids.shape[1] * 2:
            return self._encoded(ids, mask)
        with torch.no_grad():
            rest = self._encoded(ids, mask)[:, used:]
        return torch.cat((self._encoded(ids[:, :used], mask[:, :used]), rest), 1)

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())

    def _encoded(self, ids: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.body["model"](input_ids=ids, attention_mask=mask).last_hidden_state
        return y


class GLIP(nn.Module):
    """One image encoder, one language encoder, one head.

    With `parity` text also attends to the zero padding of the batch, as the reference does, so that scores depend
    on the canvas; by default padding is masked.
    """

    def __init__(self, config: ModelConfig, *, parity: bool = False) -> None:
        super().__init__()
        self.config, self.parity = config, parity
        self.backbone = Backbone(config)
        self.language_backbone = Language(config)
        self.rpn = RPN(config)

    def forward(
        self, images: Tensor, ids: Tensor, mask: Tensor, *, sizes: list[tuple[int, int]] | None = None
    ) -> Outputs:
        """Normalised images (B, 3, H, W), token ids and mask (B, T ≤ 256) → outputs.

        `sizes` are (height, width) before padding; None: nothing is padded. Columns of tokens that are padding in the
        whole batch cost nothing: the head leaves them out, and their logits are the lowest there are.
        """
        levels = self.backbone(images)
        hidden = self.language_backbone(ids, mask)
        return self.fused(levels, hidden, mask, canvas=(images.shape[2], images.shape[3]), sizes=sizes)

    def fused(
        self, levels: list[Tensor], hidden: Tensor, mask: Tensor, *, canvas: tuple[int, int],
        sizes: list[tuple[int, int]] | None,
    ) -> Outputs:  # fmt: skip
        """Image levels and text hidden states (B, T, D) → outputs; as `forward`, after the encoders."""
        if self.parity:
            y: Outputs = self.rpn.head(levels, hidden, text=text_bias(mask), image=None)
            return y
        shapes = tuple((m.shape[2], m.shape[3]) for m in levels)
        padded = sizes is not None and any(size != canvas for size in sizes)
        image = image_bias(shapes, torch.tensor(sizes, device=mask.device)) if padded else None
        used = int(mask.sum(1).max())
        text = None if int(mask.sum()) == used * len(mask) else text_bias(mask[:, :used])
        y = self.rpn.head(levels, hidden[:, :used], text=text, image=image)
        return replace(y, logits=F.pad(y.logits, (0, mask.shape[1] - used), value=-BOUND))

    def anchors(self, shapes: Shapes) -> list[Tensor]:
        """The anchors of each level, (h · w, 4)."""
        y: list[Tensor] = self.rpn.anchor_generator(shapes)
        return y


def image_bias(shapes: Shapes, sizes: Tensor) -> Tensor:
    """(B, N) float: 0 at places whose cell begins inside the image, the lowest number at those in the padding."""
    valid = []
    for (h, w), stride in zip(shapes, STRIDES, strict=True):
        y = torch.arange(h, device=sizes.device) * stride < sizes[:, :1]
        x = torch.arange(w, device=sizes.device) * stride < sizes[:, 1:]
        valid.append((y[:, :, None] & x[:, None]).flatten(1))
    return torch.zeros(1, device=sizes.device).where(torch.cat(valid, 1), torch.finfo(torch.float32).min)


def build(config: ModelConfig, **options: Any) -> GLIP:
    """A model with fresh weights, in evaluation mode."""
    return GLIP(config, **options).eval()
