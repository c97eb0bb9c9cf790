"""The embedded VQA baseline: question words, grid cells and regions through a small transformer, one answer of the
training set out. It needs no endpoint and trains on a CPU. Torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from glip.downstream.vision import Seer, SeerConfig, Sight


@dataclass(frozen=True, slots=True)
class VqaConfig:
    """Sizes of the baseline."""

    seer: SeerConfig = field(default_factory=SeerConfig)
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1


class VqaModel(nn.Module):
    """Answer logits from a `Sight` and question word numbers."""

    def __init__(self, config: VqaConfig, vocabulary: int, answers: int) -> None:
        super().__init__()
        width = config.seer.width
        self.seer = Seer(config.seer, vocabulary)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.order = nn.Embedding(64, width)
        self.kinds = nn.Embedding(2, width)
        layer = nn.TransformerEncoderLayer(
            width, config.heads, 2 * width, dropout=config.dropout, batch_first=True, norm_first=True
        )
        self.mixer = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.answer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, answers))

    def forward(self, sight: Sight, question: Tensor) -> Tensor:
        """(B, answers): logits; question (B, L ≤ 64) of word numbers, 0 is padding. Phrases share the words."""
        seen, mask = self.seer(sight)
        order = torch.arange(question.shape[1], device=question.device)
        words = self.seer.words(question) + self.order(order) + self.kinds.weight[0]
        start = self.start.expand(len(question), 1, -1)
        tokens = torch.cat((start, words, seen + self.kinds.weight[1]), 1)
        valid = torch.cat((mask.new_ones(len(question), 1), question > 0, mask), 1)
        y: Tensor = self.answer(self.mixer(tokens, src_key_padding_mask=~valid)[:, 0])
        return y
