"""The head: fusion, text layer and dynamic convolution six times over, then boxes and token scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glip import boxes
from glip.config import STRIDES, ModelConfig
from glip.dyhead import DyConv, Shapes, join_levels
from glip.fusion import BOUND, Fusion, TextLayer


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the network says of a batch, before any decision. A anchors: all levels, P3 → P7, each y-major."""

    logits: Tensor
    """(B, A, T): the score of every anchor with every token."""
    deltas: Tensor
    """(B, A, 4): box regression, to be decoded from the anchors."""
    centerness: Tensor
    """(B, A): logits."""
    shapes: Shapes
    """(h, w) of each level."""


class Scale(nn.Module):
    """A learned factor, one for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class VLHead(nn.Module):
    """The fusion tower and the predictions on top; parameter names of the official checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        h, text = config.head, config.text
        tower: list[nn.Module] = []
        for _ in range(h.blocks):
            tower.append(Fusion(h.channels, text.hidden, h.fusion_dim, heads=h.fusion_heads, dropout=h.dropout))
            tower.append(TextLayer(text.hidden, text.ffn, heads=text.heads, dropout=h.dropout))
            tower.append(DyConv(h.channels, h.groups))
        self.dyhead_tower = nn.ModuleList(tower)
        self.cls_logits = nn.Conv2d(h.channels, h.classes, 1).requires_grad_(False)  # only its place in checkpoints
        self.bbox_pred = nn.Conv2d(h.channels, 4, 1)
        self.centerness = nn.Conv2d(h.channels, 1, 1)
        self.scales = nn.ModuleList(Scale() for _ in STRIDES)
        self.dot_product_projection_text = nn.Linear(text.hidden, h.channels)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias_lang = nn.Parameter(torch.zeros(text.hidden))
        self.bias0 = nn.Parameter(torch.full((1,), -math.log(99)))
        for conv in (self.cls_logits, self.bbox_pred, self.centerness):
            assert conv.bias is not None
            nn.init.normal_(conv.weight, 0, 0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, levels: list[Tensor], tokens: Tensor, *, text: Tensor | None, image: Tensor | None) -> Outputs:
        """Levels (B, C, h, w) and tokens (B, T, D) → outputs; `text` (B, T) is added to the scores with which anything
        attends to tokens, `image` (B, N) to those with which text attends to image places."""
        v, shapes = join_levels(levels)
        t = tokens
        for module in self.dyhead_tower:
            if isinstance(module, Fusion):
                v, t = module(v, t, text=text, image=image)
            elif isinstance(module, TextLayer):
                t = module(t, text=text)
            else:
                v = module(v, shapes)
        scales = zip(self.scales, shapes, strict=True)
        scale = torch.cat([s.get_parameter("scale").expand(h * w) for s, (h, w) in scales])
        deltas = _pointwise(self.bbox_pred, v) * scale[:, None]
        return Outputs(self.token_logits(v, t), deltas, _pointwise(self.centerness, v).squeeze(-1), shapes)

    def token_logits(self, v: Tensor, t: Tensor) -> Tensor:
        """(B, A, T): how well each place (B, A, C) and each fused token (B, T, D) agree."""
        t = F.normalize(t, dim=-1)
        projected = self.dot_product_projection_text(t / 2) / self.log_scale.exp()
        bias = t @ self.bias_lang + self.bias0
        return torch.baddbmm(bias[:, None], v, projected.transpose(1, 2)).clamp(-BOUND, BOUND)


def _pointwise(conv: nn.Conv2d, v: Tensor) -> Tensor:
    return F.linear(v, conv.weight.flatten(1), conv.bias)


class _CellAnchors(nn.Module):
    """One buffer a level, named by its number."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        for i, (size, stride) in enumerate(zip(sizes, STRIDES, strict=True)):
            self.register_buffer(str(i), boxes.cell_anchor(size, stride))


class Anchors(nn.Module):
    """One square anchor at each place of each level."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.cell_anchors = _CellAnchors(sizes)

    def forward(self, shapes: Shapes) -> list[Tensor]:
        """A list of (h · w, 4), one a level."""
        cells = self.cell_anchors.buffers()
        return [boxes.grid_anchors(c, s, stride) for c, s, stride in zip(cells, shapes, STRIDES, strict=True)]


class RPN(nn.Module):
    """Head and anchors, under the names of the official checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head = VLHead(config)
        self.anchor_generator = Anchors(config.head.anchors)
