"""Feature pyramid (Lin et al. 2017) with two extra coarse levels, and the DropBlock of its training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DROP_BLOCK = 3


def drop_block(x: Tensor, probability: float, training: bool) -> Tensor:
    """`x` (B, C, H, W) with 3 × 3 squares zeroed, one mask an image for all channels, rescaled to keep the sum."""
    if probability == 0.0 or not training:
        return x
    seeds = torch.rand(x.shape[0], 1, *x.shape[2:], device=x.device) < probability / DROP_BLOCK**2
    keep = 1 - F.max_pool2d(seeds.to(x.dtype), DROP_BLOCK, stride=1, padding=DROP_BLOCK // 2)
    return x * keep * (keep.numel() / keep.sum().clamp(min=1))


class TopBlocks(nn.Module):
    """P6 from P5, P7 from P6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, p5: Tensor) -> list[Tensor]:
        """The two coarsest levels; only P7 sees a ReLU."""
        p6 = self.p6(p5)
        return [p6, self.p7(F.relu(p6))]


class FPN(nn.Module):
    """Maps of strides 8, 16, 32 to five levels of equal channels."""

    def __init__(self, inputs: tuple[int, ...], channels: int, dropblock: float) -> None:
        super().__init__()
        self.dropblock = dropblock
        for i, width in enumerate(inputs, 2):
            self.add_module(f"fpn_inner{i}", nn.Conv2d(width, channels, 1))
            self.add_module(f"fpn_layer{i}", nn.Conv2d(channels, channels, 3, padding=1))
        self.top_blocks = TopBlocks(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Three maps (B, C_i, h, w), fine to coarse → P3 … P7, each (B, channels, h, w).

        DropBlock acts on what the 3 × 3 convolutions of P3 and P4 read; the map that goes on downwards is whole.
        """
        merged = self.get_submodule("fpn_inner4")(maps[2])
        levels = [self.get_submodule("fpn_layer4")(merged)]
        for i in (3, 2):
            lateral = self.get_submodule(f"fpn_inner{i}")(maps[i - 2])
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            kept = drop_block(merged, self.dropblock, self.training)
            levels.insert(0, self.get_submodule(f"fpn_layer{i}")(kept))
        return [*levels, *self.top_blocks(levels[-1])]
