"""R2Gen (Chen et al., EMNLP 2020): a transformer whose decoder is steered by a relational memory. Plain PyTorch.

Parameter names below `encoder_decoder` are those of the published checkpoints. Number 0 is beginning, end and padding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class R2GenConfig:
    """Sizes; the defaults are the published ones."""

    features: int = 2048
    """Of a visual token."""
    width: int = 512
    ffn: int = 512
    heads: int = 8
    layers: int = 3
    slots: int = 3
    """Rows of the memory."""
    memory_heads: int = 8
    dropout: float = 0.1
    feature_dropout: float = 0.5


class Attention(nn.Module):
    """Multi-head attention; `linears` are the projections of query, key, value and output."""

    def __init__(self, heads: int, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads = heads
        self.linears = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) × (B, N, D) → (B, L, D); mask (B, 1 or L, N), False where nothing may be seen."""
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, x in zip(self.linears, (query, key, value), strict=False)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -1e9)
        y: Tensor = self.linears[3]((self.dropout(scores.softmax(-1)) @ v).transpose(1, 2).flatten(2))
        return y


class FeedForward(nn.Module):
    """Two linear layers at each place."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.w_1, self.w_2, self.dropout = nn.Linear(width, inner), nn.Linear(inner, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        y: Tensor = self.w_2(self.dropout(F.relu(self.w_1(x))))
        return y


def _standard(x: Tensor) -> Tensor:
    """Mean 0 and (unbiased) standard deviation 1, with R2Gen's ε on the deviation."""
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)


class Norm(nn.Module):
    """Layer normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return self.gamma * _standard(x) + self.beta


class MemoryNorm(nn.Module):
    """Memory-driven conditional layer normalisation: the memory shifts gain and bias at every place (§2.4)."""

    def __init__(self, width: int, slots: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.mlp_gamma = nn.Sequential(nn.Linear(slots * width, width), nn.ReLU(), nn.Linear(width, width))
        self.mlp_beta = nn.Sequential(nn.Linear(slots * width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """x (B, L, D), memory (B, L, slots · D) → (B, L, D)."""
        y: Tensor = (self.gamma + self.mlp_gamma(memory)) * _standard(x) + self.beta + self.mlp_beta(memory)
        return y


class RelationalMemory(nn.Module):
    """A gated matrix of `slots` rows that attends to itself and the last word (§2.3)."""

    def __init__(self, slots: int, width: int, heads: int) -> None:
        super().__init__()
        self.slots, self.width = slots, width
        self.attn = Attention(heads, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.W, self.U = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)

    def start(self, like: Tensor) -> Tensor:
        """(B, slots, D): the unit matrix, padded with zeros or cut."""
        return torch.eye(self.slots, self.width, device=like.device, dtype=like.dtype).expand(len(like), -1, -1)

    def step(self, word: Tensor, memory: Tensor) -> Tensor:
        """word (B, D), memory (B, slots, D) → the next memory."""
        seen = torch.cat((memory, word[:, None]), 1)
        new = memory + self.attn(memory, seen, seen)
        new = new + self.mlp(new)
        take, keep = (self.W(word[:, None]) + self.U(memory.tanh())).sigmoid().chunk(2, 2)
        y: Tensor = take * new.tanh() + keep * memory
        return y

    def forward(self, words: Tensor) -> Tensor:
        """words (B, L, D) → the memory after each, (B, L, slots · D)."""
        memory, out = self.start(words), []
        for word in words.unbind(1):
            memory = self.step(word, memory)
            out.append(memory.flatten(1))
        return torch.stack(out, 1)


class Residual(nn.Module):
    """x + f(norm(x)); with `slots` the norm is the memory's."""

    def __init__(self, width: int, dropout: float, slots: int = 0) -> None:
        super().__init__()
        self.norm: nn.Module = MemoryNorm(width, slots) if slots else Norm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, inner: Callable[[Tensor], Tensor], *memory: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        y: Tensor = x + self.dropout(inner(self.norm(x, *memory)))
        return y


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer."""

    def __init__(self, c: R2GenConfig) -> None:
        super().__init__()
        self.self_attn, self.feed_forward = Attention(c.heads, c.width), FeedForward(c.width, c.ffn, c.dropout)
        self.sublayer = nn.ModuleList(Residual(c.width, c.dropout) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, N, D), mask (B, 1, N)."""
        x = self.sublayer[0](x, lambda y: self.self_attn(y, y, y, mask))
        out: Tensor = self.sublayer[1](x, self.feed_forward)
        return out


class DecoderLayer(nn.Module):
    """Self-attention, attention to the image and a feed-forward layer, each normalised by the memory."""

    def __init__(self, c: R2GenConfig) -> None:
        super().__init__()
        self.self_attn, self.src_attn = Attention(c.heads, c.width), Attention(c.heads, c.width)
        self.feed_forward = FeedForward(c.width, c.ffn, c.dropout)
        self.sublayer = nn.ModuleList(Residual(c.width, c.dropout, c.slots) for _ in range(3))

    def forward(self, x: Tensor, seen: Tensor, masks: tuple[Tensor, Tensor], memory: Tensor) -> Tensor:
        """x (B, L, D), seen (B, N, D), masks of seen (B, 1, N) and of words (B, L, L)."""
        x = self.sublayer[0](x, lambda y: self.self_attn(y, y, y, masks[1]), memory)
        x = self.sublayer[1](x, lambda y: self.src_attn(y, seen, seen, masks[0]), memory)
        out: Tensor = self.sublayer[2](x, self.feed_forward, memory)
        return out


class Stack(nn.Module):
    """Equal layers and a last normalisation."""

    def __init__(self, layer: nn.Module, count: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(count))
        self.norm = Norm(width)


class Words(nn.Module):
    """Word embeddings times √D."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.lut = nn.Embedding(vocabulary, width)

    def forward(self, words: Tensor) -> Tensor:
        """(B, L) → (B, L, D)."""
        y: Tensor = self.lut(words) * math.sqrt(self.lut.embedding_dim)
        return y


class Positions(nn.Module):
    """Adds sines and cosines of the place."""

    pe: Tensor

    def __init__(self, width: int, dropout: float, most: int = 5000) -> None:
        super().__init__()
        place = torch.arange(most)[:, None].float()
        rate = torch.exp(torch.arange(0, width, 2).float() * -(math.log(10000.0) / width))
        pe = torch.zeros(1, most, width)
        pe[0, :, 0::2], pe[0, :, 1::2] = torch.sin(place * rate), torch.cos(place * rate)
        self.register_buffer("pe", pe)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        y: Tensor = self.dropout(x + self.pe[:, : x.shape[1]])
        return y


class Transformer(nn.Module):
    """Encoder, decoder, word embedding and relational memory."""

    def __init__(self, c: R2GenConfig, vocabulary: int) -> None:
        super().__init__()
        self.encoder = Stack(EncoderLayer(c), c.layers, c.width)
        self.decoder = Stack(DecoderLayer(c), c.layers, c.width)
        self.tgt_embed = nn.Sequential(Words(c.width, vocabulary), Positions(c.width, c.dropout))
        self.rm = RelationalMemory(c.slots, c.width, c.memory_heads)

    def encode(self, seen: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        for layer in self.encoder.layers:
            seen = layer(seen, mask)
        y: Tensor = self.encoder.norm(seen)
        return y

    def decode(self, seen: Tensor, mask: Tensor, words: Tensor, words_mask: Tensor) -> Tensor:
        """(B, L, D): what follows each word."""
        memory = self.rm(self.tgt_embed(words))
        x = self.tgt_embed(words)
        for layer in self.decoder.layers:
            x = layer(x, seen, (mask, words_mask), memory)
        y: Tensor = self.decoder.norm(x)
        return y


class R2Gen(nn.Module):
    """Visual tokens (B, N, features) and words → log-probabilities of the next words."""

    def __init__(self, config: R2GenConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.att_embed = nn.Sequential(
            nn.Linear(config.features, config.width), nn.ReLU(), nn.Dropout(config.feature_dropout)
        )
        self.model = Transformer(config, vocabulary)
        self.logit = nn.Linear(config.width, vocabulary)
        for parameter in self.model.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def encode(self, features: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D) of visual tokens; mask (B, N), False at padding."""
        return self.model.encode(self.att_embed(features), mask[:, None])

    def forward(self, features: Tensor, mask: Tensor, words: Tensor) -> Tensor:
        """(B, L, vocabulary): after each of words (B, L), which begin with 0."""
        return self.follow(self.encode(features, mask), mask, words)

    def follow(self, seen: Tensor, mask: Tensor, words: Tensor) -> Tensor:
        """As `forward`, after the encoder."""
        length = words.shape[1]
        real = words > 0
        real[:, 0] = True
        earlier = torch.ones(length, length, dtype=torch.bool, device=words.device).tril()
        hidden = self.model.decode(seen, mask[:, None], words, real[:, None] & earlier)
        return F.log_softmax(self.logit(hidden), -1)


@torch.no_grad()
def generate(model: R2Gen, features: Tensor, mask: Tensor, *, length: int, beams: int = 3) -> list[list[int]]:
    """The most probable report of each row by beam search, at most `length` words, without beginning and end.

    Beams are ranked by the sum of their log-probabilities, as R2Gen ranks them; equal sums by the lower number.
    """
    count, size = len(features), model.logit.out_features
    seen = model.encode(features, mask).repeat_interleave(beams, 0)
    mask = mask.repeat_interleave(beams, 0)
    words = torch.zeros(count * beams, 1, dtype=torch.long, device=features.device)
    totals = torch.full((count, beams), -math.inf, device=features.device)
    totals[:, 0] = 0
    ended = torch.zeros(count, beams, dtype=torch.bool, device=features.device)
    for _ in range(length):
        after = model.follow(seen, mask, words)[:, -1].unflatten(0, (count, beams))
        stay = torch.full_like(after, -math.inf)
        stay[..., 0] = 0
        sums = (totals[..., None] + torch.where(ended[..., None], stay, after)).flatten(1)
        totals, best = sums.topk(beams, 1)
        parent, word = best // size, best % size
        rows = (torch.arange(count, device=features.device)[:, None] * beams + parent).flatten()
        words = torch.cat((words[rows], word.flatten()[:, None]), 1)
        ended = ended.gather(1, parent) | (word == 0)
        if bool(ended.all()):
            break
    out = []
    for row in words.unflatten(0, (count, beams))[:, 0, 1:].tolist():
        out.append(row[: row.index(0)] if 0 in row else row)
    return out
