"""The exported network gives what the network gives."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")
from glip.config import HeadConfig, ModelConfig, SwinConfig, TextConfig  # noqa: E402
from glip.experts import MedGLIP  # noqa: E402
from glip.onnx import export  # noqa: E402

TINY = ModelConfig(
    "tiny", SwinConfig(8, (1, 2, 1, 1), (1, 1, 2, 2), 7, 0.0), TextConfig(24, 1, 2, 32, 200),
    HeadConfig(16, 1, 32, 2, 4, (32, 64, 128, 256, 512), 4, 0.0, 0.0),
)  # fmt: skip


@pytest.mark.slow
def test_onnx_equals_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MedGLIP(TINY, ("ct",)).eval()
    export(tmp_path / "m.onnx", model, "ct", height=60, width=90, tokens=8)
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    images, ids = torch.randn(1, 3, 64, 96), torch.randint(1, 200, (1, 8))
    mask = torch.tensor([[1] * 6 + [0] * 2])
    model.shared.parity = True
    with torch.no_grad():
        want = model("ct", images, ids, mask)
    got = session.run(None, {"images": images.numpy(), "ids": ids.numpy(), "mask": mask.numpy()})
    for a, b in zip(got, (want.logits, want.deltas, want.centerness), strict=True):
        assert np.allclose(a, b.numpy(), atol=1e-4)
