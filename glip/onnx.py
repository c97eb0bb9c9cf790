"""One expert with everything shared as an ONNX file, for a fixed canvas and number of tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from glip.config import MAX_TOKENS
from glip.experts import MedGLIP
from glip.images import canvas

OPSET = 18


class _Flat(nn.Module):
    """The network with tensors in and out."""

    def __init__(self, model: MedGLIP, modality: str) -> None:
        super().__init__()
        self.model, self.modality = model, modality

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.model(self.modality, images, ids, mask)
        return y.logits, y.deltas, y.centerness


def export(path: Path, model: MedGLIP, modality: str, *, height: int, width: int, tokens: int = MAX_TOKENS) -> None:
    """Writes `path`: inputs images (1, 3, H, W), ids and mask (1, tokens); outputs logits, deltas, centerness.

    H and W are the canvas of an image of this size; text attends to its whole canvas, as in parity mode. Boxes,
    suppression and tokens stay outside: `glip.detect` and `glip.phrases`.
    """
    size = canvas(height, width)
    inputs = (
        torch.zeros(1, 3, *size), torch.ones(1, tokens, dtype=torch.long), torch.ones(1, tokens, dtype=torch.long)
    )  # fmt: skip
    parity, model.shared.parity = model.shared.parity, True
    try:
        with torch.no_grad():
            # The exporter's own folding of constants does not end in minutes for glip_t; runtimes fold them themselves.
            program = torch.onnx.export(
                _Flat(model, modality).eval(), inputs, dynamo=True, opset_version=OPSET, verbose=False, optimize=False,
                input_names=["images", "ids", "mask"], output_names=["logits", "deltas", "centerness"],
            )  # fmt: skip
    finally:
        model.shared.parity = parity
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path))
