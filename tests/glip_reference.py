"""Generated weights and comparisons for the parity tests: the same rule filled the reference model.

Every tensor is drawn from a generator seeded by the CRC-32 of its key, so the numbers need no file.
"""

import zlib

import numpy as np
import torch
from torch import nn

NORMS = {"norm", "norm1", "norm2", "norm3", "bn", "LayerNorm", "layer_norm_v", "layer_norm_l"}


def shift_and_scale(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and deviation of a tensor's generated values."""
    *_, parent, name = ["", *key.split(".")]
    fixed = {"gamma_v": (1 / 6, 0.02), "gamma_l": (1 / 6, 0.02), "log_scale": (0, 0.1), "bias0": (-2, 0.1),
             "bias_lang": (0, 1), "scale": (1, 0.1)}  # fmt: skip
    if name in fixed:
        return fixed[name]
    if parent in NORMS:
        return (1, 0.1) if name == "weight" else (0, 0.1)
    if parent.endswith("_embeddings") or name == "relative_position_bias_table":
        return 0, 0.5
    if len(shape) < 2:
        return 0, 0.05
    return 0, _gain(key) / float(np.sqrt(np.prod(shape[1:])))


def _gain(key: str) -> float:
    if key.endswith("output.dense.weight"):
        return 0.3
    if key.endswith("attention.self.query.weight"):
        return 2
    if key.endswith(("bbox_pred.weight", "centerness.weight")) or ".AttnConv." in key or ".relu.fc." in key:
        return 4
    return 20 if key.endswith("dot_product_projection_text.weight") else 1


def generated(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The generated value of a tensor, float32."""
    a, s = shift_and_scale(key, shape)
    z = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(shape)
    return torch.from_numpy((a + s * z).astype(np.float32))


def fill(model: nn.Module) -> None:
    """Generated weights for the whole model; index and anchor buffers keep what they are."""
    for key, value in model.state_dict().items():
        if not (key.endswith("relative_position_index") or "cell_anchors" in key):
            value.copy_(generated(key, tuple(value.shape)))
