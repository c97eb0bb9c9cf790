"""Swin transformer: the image trunk (Liu et al. 2021), with the parameter names of the official checkpoints.

Feature maps travel as (batch, height, width, channels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glip.config import SwinConfig


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """`x` with whole samples of the batch zeroed at this rate and the others scaled up (stochastic depth)."""
    if rate == 0.0 or not training:
        return x
    keep = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device) >= rate
    return x * (keep / (1 - rate)).to(x.dtype)


def relative_position_index(window: int) -> Tensor:
    """(w², w²) int64: the row of the bias table for each pair of places in a window."""
    place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    delta = place[:, :, None] - place[:, None, :] + window - 1
    return delta[0] * (2 * window - 1) + delta[1]


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """(windows, w², w²): −100 between places that are not neighbours before the cyclic shift by window // 2."""
    shift = window // 2

    def regions(n: int) -> Tensor:
        at = torch.arange(n, device=device)
        return (at >= n - window).long() + (at >= n - shift).long()

    region = regions(height)[:, None] * 3 + regions(width)[None]
    cut = to_windows(region[None, :, :, None], window).squeeze(-1)
    return (cut[:, :, None] != cut[:, None, :]).float() * -100.0


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) → (B · windows, window², C); H and W are multiples of the window."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c).transpose(2, 3)
    return x.reshape(-1, window * window, c)


def from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """(B · windows, window², C) → (B, H, W, C)."""
    c = x.shape[-1]
    x = x.view(-1, height // window, width // window, window, window, c).transpose(2, 3)
    return x.reshape(-1, height, width, c)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a bias for each relative position."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B · windows, n, C) → the same; `mask` (windows, n, n) is added to the scores."""
        m, n, c = x.shape
        q, k, v = self.qkv(x).view(m, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        index = self.get_buffer("relative_position_index").flatten()
        bias = self.relative_position_bias_table[index].view(n, n, self.heads).permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(m // mask.shape[0], 1, 1, 1)
        score = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1) + bias
        out = score.softmax(-1) @ v
        y: Tensor = self.proj(out.transpose(1, 2).reshape(m, n, c))
        return y


class Mlp(nn.Module):
    """Linear, exact GELU, linear; the width is four times the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C)."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP; `shifted` moves the windows by half their side."""

    def __init__(self, channels: int, heads: int, window: int, *, shifted: bool, rate: float) -> None:
        super().__init__()
        self.window, self.shift, self.rate = window, window // 2 if shifted else 0, rate
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → the same. The map is padded with zeros after the norm; padding takes part in attention."""
        _, h, w, _ = x.shape
        y = F.pad(self.norm1(x), (0, 0, 0, -w % self.window, 0, -h % self.window))
        hp, wp = y.shape[1:3]
        mask = None
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
            mask = shift_mask(hp, wp, self.window, x.device).to(x.dtype)
        y = from_windows(self.attn(to_windows(y, self.window), mask), self.window, hp, wp)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + drop_path(y[:, :h, :w], self.rate, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.rate, self.training)


class PatchMerging(nn.Module):
    """Halves the map and doubles the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, 2C); (row, column) parity in the order 00, 10, 01, 11."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        y: Tensor = self.reduction(self.norm(torch.cat(parts, -1)))
        return y


class Stage(nn.Module):
    """Blocks of one resolution, and the merging after them in all but the last stage."""

    def __init__(self, channels: int, heads: int, window: int, rates: list[float], *, merge: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, window, shifted=i % 2 == 1, rate=rate) for i, rate in enumerate(rates)
        )
        self.downsample = PatchMerging(channels) if merge else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(the stage's output, the next stage's input)."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """4 × 4 pixels to one token."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, ⌈H/4⌉, ⌈W/4⌉, C)."""
        images = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        y: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return y


class Swin(nn.Module):
    """The trunk; every stage's output but the first is layer-normed."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        rates = torch.linspace(0, config.drop_path, sum(config.depths)).tolist()
        self.patch_embed = PatchEmbed(config.embed)
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
            first, last = sum(config.depths[:i]), i == len(config.depths) - 1
            width = config.embed * 2**i
            self.layers.append(Stage(width, heads, config.window, rates[first : first + depth], merge=not last))
            if i:
                self.add_module(f"norm{i}", nn.LayerNorm(width))
        self.apply(_init)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) → maps (B, C, h, w) of strides 4, 8, 16, 32."""
        x, out = self.patch_embed(images), []
        for i, stage in enumerate(self.layers):
            y, x = stage(x)
            y = self.get_submodule(f"norm{i}")(y) if i else y
            out.append(y.permute(0, 3, 1, 2))
        return out


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
