"""The network gives the numbers of the reference implementation, tensor by tensor, for generated weights."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from glip_reference import fill  # noqa: E402

from glip import loss  # noqa: E402
from glip.assign import Targets, assign  # noqa: E402
from glip.boxes import iou  # noqa: E402
from glip.config import glip_t  # noqa: E402
from glip.detect import detect  # noqa: E402
from glip.dyhead import split_levels  # noqa: E402
from glip.head import Outputs  # noqa: E402
from glip.model import GLIP, build  # noqa: E402

HERE = Path(__file__).parent
DATA = HERE / "data" / "glip"
FULL = Path(os.environ.get("MEDGLIP_GLIP_GOLDEN", HERE.parent.parent / "shared" / "facts" / "glip_golden.npz"))
REFERENCE = json.loads((DATA / "reference.json").read_text())
GROUPS = ("a", "b")


@pytest.fixture(scope="module")
def model() -> GLIP:
    model = build(glip_t(), parity=True)
    fill(model)
    return model


@pytest.fixture(scope="module")
def seen(model: GLIP) -> dict[str, dict[str, Any]]:
    """Group → the run's named tensors, outputs, losses and gradient norms."""
    return {group: observed(model, group) for group in GROUPS}


def inputs(group: str) -> tuple[Any, list[tuple[int, int]]]:
    if group == "a":
        image = np.random.RandomState(0).standard_normal((1, 3, 256, 320))
        return torch.from_numpy(image.astype(np.float32)), [(256, 320)]
    sizes, rng = [(160, 224), (192, 176)], np.random.RandomState(1)
    images = np.zeros((2, 3, 192, 224), np.float32)
    for image, (h, w) in zip(images, sizes, strict=True):
        image[:, :h, :w] = rng.standard_normal((3, h, w))
    return torch.from_numpy(images), sizes


def text(group: str) -> tuple[Any, Any]:
    rows = REFERENCE[group]["ids"]
    ids, mask = torch.zeros(len(rows), 256, dtype=torch.long), torch.zeros(len(rows), 256, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return ids, mask


def phrases(group: str) -> list[Any]:
    out = []
    for rows in REFERENCE[group]["phrases"]:
        tokens = torch.zeros(len(rows), 256, dtype=torch.bool)
        for row, at in zip(tokens, rows, strict=True):
            row[at] = True
        out.append(tokens)
    return out


def targets(group: str) -> list[Targets]:
    r = REFERENCE[group]
    return [
        Targets(torch.tensor(b), p[torch.tensor(n) - 1])
        for b, n, p in zip(r["boxes"], r["labels"], phrases(group), strict=True)
    ]


def observed(model: GLIP, group: str) -> dict[str, Any]:
    caught: dict[str, Any] = {}
    watched = {"swin": model.backbone.body, "fpn": model.backbone.fpn, "bert": model.language_backbone}
    watched |= {f"tower{i}": block for i, block in enumerate(model.rpn.head.dyhead_tower)}
    hooks = [m.register_forward_hook(lambda _m, _i, o, n=n: caught.__setitem__(n, o)) for n, m in watched.items()]
    images, sizes = inputs(group)
    ids, mask = text(group)
    outputs = model(images, ids, mask)
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    anchors = model.anchors(outputs.shapes)
    losses = loss.compute(outputs, anchors, targets(group), mask, no_object=True)
    losses.total.backward()
    gradients = {n: -1.0 if p.grad is None else float(p.grad.double().norm()) for n, p in model.named_parameters()}
    tensors = {"image": images} | named(caught, outputs, mask)
    return {"tensors": tensors, "outputs": outputs, "sizes": sizes, "losses": losses,
            "gradients": gradients, "anchors": anchors}  # fmt: skip


def named(caught: dict[str, Any], outputs: Outputs, mask: Any) -> dict[str, Any]:
    out = {f"swin.stage{i}": t for i, t in enumerate(caught["swin"], 2)}
    out |= {f"fpn.p{i}": t for i, t in enumerate(caught["fpn"], 3)}
    out |= {"bert.hidden": caught["bert"], "bert.embedded": caught["bert"] * mask[..., None]}
    for i in range(6):
        v, t = caught[f"tower{3 * i}"]
        out |= {f"block{i}.vlfuse.p{k}": m for k, m in enumerate(split_levels(v, outputs.shapes), 3)}
        out |= {f"block{i}.vlfuse.lang": t, f"block{i}.bertlayer.lang": caught[f"tower{3 * i + 1}"]}
        levels = split_levels(caught[f"tower{3 * i + 2}"], outputs.shapes)
        out |= {f"block{i}.dyconv.p{k}": m for k, m in enumerate(levels, 3)}
    return out | {"head.dot_logits": outputs.logits}


def tolerance(name: str) -> float:
    if name.startswith("block"):
        return 1e-4 * (int(name[5]) + 1)
    return 3e-3 if name.startswith("head") else 1e-4


def test_every_official_key_and_shape(model: GLIP) -> None:
    state = model.state_dict()
    with (DATA / "official_keys.csv").open() as stream:
        official = {r["key"]: tuple(int(n) for n in r["shape"].split("x")) for r in csv.DictReader(stream)}
    assert {k: tuple(v.shape) for k, v in state.items()} == official


def test_generated_weights(model: GLIP) -> None:
    state = model.state_dict()
    for key, (total, norm) in REFERENCE["weights"].items():
        assert float(state[key].double().sum()) == pytest.approx(total, rel=1e-6, abs=1e-6)
        assert float(state[key].double().norm()) == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("group", GROUPS)
def test_intermediate_tensors(seen: dict[str, Any], group: str) -> None:
    got = seen[group]["tensors"]
    for name, want in REFERENCE[group]["tensors"].items():
        assert list(got[name].shape) == want["shape"], name
        samples = got[name].detach().reshape(-1)[:: want["stride"]].double().numpy()
        assert np.abs(samples - want["samples"]).max() < tolerance(name), name
        whole = got[name].detach().double()
        stats = [whole.mean(), whole.std(correction=0), whole.abs().max()]
        assert np.allclose([float(s) for s in stats], want["stats"][:3], atol=tolerance(name)), name


@pytest.mark.parametrize("group", GROUPS)
def test_detections(seen: dict[str, Any], group: str) -> None:
    run = seen[group]
    found = detect(run["outputs"], run["anchors"], phrases(group), run["sizes"])
    for got, want in zip(found, REFERENCE[group]["detections"], strict=True):
        assert len(got.scores) == want["count"]
        overlap = iou(torch.tensor(want["boxes"]), got.boxes.detach())
        overlap[torch.tensor(want["labels"])[:, None] != got.labels[None]] = 0
        best = overlap.argmax(1)
        assert torch.allclose(got.boxes[best], torch.tensor(want["boxes"]), atol=0.1)
        assert torch.allclose(got.scores[best], torch.tensor(want["scores"]), atol=1e-3)


@pytest.mark.parametrize("group", GROUPS)
def test_targets_losses_gradients(seen: dict[str, Any], group: str) -> None:
    run, want = seen[group], REFERENCE[group]
    owners = torch.stack([assign(run["anchors"], t.boxes) for t in targets(group)])
    assert (owners >= 0).nonzero().tolist() == want["positives"]
    losses = run["losses"]
    got = [float(v.detach()) for v in (losses.token, losses.regression, losses.centerness, losses.total)]
    assert got == pytest.approx(want["loss"], rel=1e-4)
    for name, norm in want["gradients"].items():
        if norm > 1e-3 * want["gradient_median"]:
            assert run["gradients"][name] == pytest.approx(norm, rel=5e-2 if "AttnConv" in name else 1e-3), name
        if norm == -1:
            assert run["gradients"][name] == -1, name


@pytest.mark.skipif(not FULL.is_file(), reason=f"the full reference numbers are not at {FULL}")
@pytest.mark.parametrize("group", GROUPS)
def test_full_reference(seen: dict[str, Any], group: str) -> None:
    full, run = np.load(FULL), seen[group]
    strides = json.loads(str(full["strides_json"]))
    for name, tensor in run["tensors"].items():
        samples = tensor.detach().reshape(-1)[:: strides[f"{group}.{name}"]["stride"]].numpy()
        assert np.abs(samples - full[f"{group}.{name}.samples"]).max() < tolerance(name), name
    outputs = run["outputs"]
    for name, got in (("bbox_reg", outputs.deltas), ("centerness", outputs.centerness),
                      ("dot_logits.real_tokens", outputs.logits[:, :, :16])):  # fmt: skip
        assert np.abs(got.detach().numpy() - full[f"{group}.head.{name}"]).max() < 3e-3, name
    for name, norm in zip(full["grad.names"], full[f"{group}.grad.l2norm"], strict=True):
        if norm > 1e-3 * np.median(full[f"{group}.grad.l2norm"]):
            limit = 5e-2 if "AttnConv" in str(name) else 1e-3
            assert run["gradients"][str(name)] == pytest.approx(norm, rel=limit), name


def test_trimming_text_changes_nothing(model: GLIP, seen: dict[str, Any]) -> None:
    """By default padding tokens are left out: the same numbers on the real ones."""
    images, _ = inputs("a")
    ids, mask = text("a")
    model.parity = False
    try:
        with torch.no_grad():
            got = model(images, ids, mask)
    finally:
        model.parity = True
    n = int(mask.sum())
    want = seen["a"]["outputs"]
    assert torch.allclose(got.logits[..., :n], want.logits[..., :n], atol=3e-3)
    assert torch.allclose(got.deltas, want.deltas, atol=3e-3)
