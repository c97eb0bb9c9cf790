"""Every hand-written operator: its gradient against finite differences, its values against plain loops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from torch.autograd import gradcheck  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from glip import boxes, loss  # noqa: E402
from glip.assign import assign  # noqa: E402
from glip.config import HeadConfig, ModelConfig, SwinConfig, TextConfig  # noqa: E402
from glip.deform import places, sample  # noqa: E402
from glip.dyhead import COARSER, FINER, DyConv, DyReLU, branches, join_levels, reread, split_levels  # noqa: E402
from glip.fpn import drop_block  # noqa: E402
from glip.fusion import BiAttention, Fusion, TextLayer, text_bias  # noqa: E402
from glip.head import VLHead  # noqa: E402
from glip.model import image_bias  # noqa: E402
from glip.swin import PatchMerging, Swin, SwinBlock  # noqa: E402

TINY = ModelConfig(
    "tiny", SwinConfig(8, (1, 2), (1, 2), 3, 0.0), TextConfig(12, 1, 3, 16, 50),
    HeadConfig(8, 1, 16, 2, 2, (32, 64, 128, 256, 512), 3, 0.0, 0.0),
)  # fmt: skip
SHAPES = ((5, 6), (3, 3), (2, 2))


def double(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """The module in float64 with parameters away from 0 and from kinks."""
    generator = torch.Generator().manual_seed(3)
    for p in module.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.3
    return module.eval()


def sample_points(table: torch.Tensor, y: torch.Tensor, x: torch.Tensor, m: torch.Tensor, grid: Any) -> torch.Tensor:
    """(B, n, taps · C): the maps of the table (B, N, C) read at the points."""
    index, weight = places(y, x, m, grid, table.shape[1])
    read = sample(table.flatten(0, 1), index.view(-1, 4), weight.view(-1, 4))
    return read.view(len(table), y.shape[1], -1)


def test_gradient_of_deformable_sampling() -> None:
    grid = (torch.tensor([[4.0], [4.0], [2.0]]), torch.tensor([[5.0], [5.0], [3.0]]), torch.tensor([[0], [0], [20]]))
    y, x = double(2, 3, 2, seed=1) * 1.7 + 1.03, double(2, 3, 2, seed=2) * 1.7 + 1.01
    inputs = [t.detach().requires_grad_() for t in (double(2, 26, 3), y, x, double(2, 3, 2, seed=4))]
    assert gradcheck(lambda t, y, x, m: sample_points(t, y, x, m, grid), inputs)


def test_sampling_is_bilinear_with_zero_outside() -> None:
    table, rng = double(1, 20, 3).detach(), np.random.default_rng(0)
    y, x = (torch.from_numpy(rng.uniform(-2, 6, (1, 40, 1))) for _ in range(2))
    n = torch.ones(40, 1)
    got = sample_points(table, y, x, torch.ones_like(y), (4 * n, 5 * n, 0 * n))
    image = table.transpose(1, 2).view(1, 3, 4, 5)
    at = torch.cat((x * 2 / 4 - 1, y * 2 / 3 - 1), -1)[:, :, None]
    want = F.grid_sample(image, at, align_corners=True, padding_mode="zeros")
    assert torch.allclose(got, want[..., 0].transpose(1, 2))


def test_dynamic_convolution_equals_a_plain_loop() -> None:
    block = filled(DyConv(8, 2))
    pyramid = double(2, sum(h * w for h, w in SHAPES)).detach()[..., None] * double(2, 43, 8, seed=5).detach()
    maps = split_levels(pyramid, SHAPES)
    parts: list[list[torch.Tensor]] = [[] for _ in SHAPES]
    for branch, level in branches(len(SHAPES)):
        y = looped(block, branch, maps[level], maps[level + 1 - branch])
        if branch == COARSER:
            y = F.interpolate(y, size=SHAPES[level], mode="bilinear", align_corners=True)
        pooled = block.AttnConv(y)
        parts[level].append(y * F.relu6(pooled + 3) / 6)
    want = join_levels([block.relu(torch.stack(p).mean(0)) for p in parts])[0]
    assert torch.allclose(block(pyramid, SHAPES), want)


def looped(block: DyConv, branch: int, own: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """One deformable convolution, tap by tap, with the offsets taken from memory as the reference does."""
    step = 2 if branch == FINER else 1
    height, width = -(-read.shape[2] // step), -(-read.shape[3] // step)
    raw = block.offset(own)
    offsets, masks = reread(raw[:, :18], (height, width)), reread(raw[:, 18:], (height, width)).sigmoid()
    h, w = read.shape[2:]
    out = 0
    for tap in range(9):
        y = torch.arange(height)[:, None] * step - 1 + tap // 3 + offsets[:, 2 * tap]
        x = torch.arange(width)[None] * step - 1 + tap % 3 + offsets[:, 2 * tap + 1]
        at = torch.stack((2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1), -1)
        seen = F.grid_sample(read, at, align_corners=True, padding_mode="zeros") * masks[:, tap, None]
        out = out + torch.einsum("oc,bchw->bohw", block.DyConv[branch].conv.weight[..., tap // 3, tap % 3], seen)
    return block.DyConv[branch].bn(out + block.DyConv[branch].conv.bias[:, None, None])


def test_offsets_are_reread_not_cropped() -> None:
    values = torch.arange(2 * 4 * 6).view(1, 2, 4, 6)
    assert reread(values, (2, 3)).flatten().tolist() == list(range(12))


def test_folded_attention_equals_the_plain_one() -> None:
    attention = filled(BiAttention(8, 12, 16, heads=2, dropout=0.0))
    v, t = double(2, 7, 8).detach(), double(2, 5, 12, seed=1).detach()
    text = text_bias(torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])).double()
    image = torch.zeros(2, 7, dtype=torch.float64)
    image[1, 5:] = -1e30

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (2, 8)).transpose(1, 2)

    score = heads(attention.v_proj(v)) / 8**0.5 @ heads(attention.l_proj(t)).transpose(2, 3)
    to_image = (score + text[:, None, None]).softmax(-1) @ heads(attention.values_l_proj(t))
    to_text = (score + image[:, None, :, None]).softmax(2).transpose(2, 3) @ heads(attention.values_v_proj(v))
    want = (attention.out_v_proj(to_image.transpose(1, 2).flatten(2)),
            attention.out_l_proj(to_text.transpose(1, 2).flatten(2)))  # fmt: skip
    for got, expected in zip(attention(v, t, text=text, image=image), want, strict=True):
        assert torch.allclose(got, expected)


@pytest.mark.parametrize(("module", "inputs"), [
    (Fusion(4, 6, 8, heads=2, dropout=0.0), ((1, 5, 4), (1, 3, 6))),
    (TextLayer(6, 8, heads=2, dropout=0.0), ((1, 4, 6),)),
    (DyReLU(8), ((2, 8, 2, 3),)),
    (SwinBlock(4, 2, 3, shifted=True, rate=0.0), ((1, 4, 5, 4),)),
    (PatchMerging(3), ((1, 3, 5, 3),)),
], ids=["fusion", "text layer", "dynamic relu", "swin block", "patch merging"])  # fmt: skip
def test_gradients_of_modules(module: torch.nn.Module, inputs: tuple[tuple[int, ...], ...]) -> None:
    filled(module)
    extra = {"text": None} if isinstance(module, Fusion | TextLayer) else {}
    extra |= {"image": None} if isinstance(module, Fusion) else {}
    given_ = [double(*shape, seed=n) for n, shape in enumerate(inputs)]
    assert gradcheck(lambda *x: module(*x, **extra), given_)


def test_gradient_of_the_dynamic_convolution() -> None:
    block = filled(DyConv(4, 2))
    small = ((3, 4), (2, 2))
    assert gradcheck(lambda p: block(p, small), [double(1, 16, 4)], nondet_tol=1e-12)
    weights = [p for p in block.parameters() if p.ndim == 4]
    pyramid = double(1, 43, 4).detach()
    grads = torch.autograd.grad(block(pyramid, SHAPES).square().sum(), weights)
    for p, g in zip(weights, grads, strict=True):
        step = torch.zeros_like(p)
        step.view(-1)[p.numel() // 2] = 1e-6
        sums = []
        for sign in (1, -1):
            with torch.no_grad():
                p += sign * step
                sums.append(float(block(pyramid, SHAPES).square().sum()))
                p -= sign * step
        assert (sums[0] - sums[1]) / 2e-6 == pytest.approx(float(g.reshape(-1)[p.numel() // 2]), rel=1e-4, abs=1e-6)


def test_gradients_of_losses() -> None:
    target = (torch.arange(12).view(3, 4) % 3 == 0).double()
    assert gradcheck(lambda x: loss.focal(x, target), [double(3, 4)])
    a = torch.tensor([[0.0, 0, 10, 8], [3, 4, 20, 30], [40, 40, 50, 60]], dtype=torch.float64)
    b = torch.tensor([[2.0, 1, 12, 7], [5, 1, 18, 33], [0, 0, 5, 5]], dtype=torch.float64)
    assert gradcheck(loss.giou, [a.requires_grad_(), b.requires_grad_()])
    anchors = torch.tensor([[0.0, 0, 63, 63], [8, 16, 71, 79]], dtype=torch.float64)
    assert gradcheck(lambda d: boxes.decode(d, anchors), [double(2, 4)])
    head = filled(VLHead(TINY))
    assert gradcheck(head.token_logits, [double(1, 3, 8), double(1, 4, 12, seed=1)])


def test_focal_and_giou_by_hand() -> None:
    got = loss.focal(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
    assert got.tolist() == pytest.approx([0.25 * 0.25 * np.log(2), 0.75 * 0.25 * np.log(2)])
    same, apart = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[20.0, 0, 30, 10]])
    assert float(loss.giou(same, same)) == pytest.approx(1)
    assert float(loss.giou(same, apart)) == pytest.approx(0 - 100 / 300)


BOX = st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 60), st.integers(1, 60))


@given(st.lists(BOX, min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_coder_and_formats_round_trip(raw: list[tuple[int, int, int, int]]) -> None:
    xywh = torch.tensor(raw, dtype=torch.float64)
    corners = boxes.from_xywh(xywh)
    assert torch.equal(boxes.to_xywh(corners), xywh)
    anchors = torch.tensor([[10.0, 10, 73, 73]], dtype=torch.float64).expand(len(raw), 4)
    assert torch.allclose(boxes.decode(boxes.encode(corners, anchors), anchors), corners, atol=1e-9)


@given(st.lists(st.tuples(BOX, st.integers(1, 2)), min_size=1, max_size=12), st.randoms())
@settings(max_examples=50, deadline=None)
def test_suppression_equals_a_plain_loop(raw: list[tuple[tuple[int, int, int, int], int]], random: object) -> None:
    corners = boxes.from_xywh(torch.tensor([b for b, _ in raw]).float())
    labels = torch.tensor([n for _, n in raw])
    scores = torch.linspace(1, 0.1, len(raw))[torch.randperm(len(raw))]
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        rivals = [k for k in kept if labels[k] == labels[i]]
        if not rivals or float(boxes.iou(corners[rivals], corners[i : i + 1]).max()) <= 0.6:
            kept.append(i)
    assert boxes.nms(corners, scores, labels, threshold=0.6).tolist() == kept


@given(st.lists(BOX, min_size=0, max_size=4))
@settings(max_examples=40, deadline=None)
def test_assignment(raw: list[tuple[int, int, int, int]]) -> None:
    cells = [boxes.grid_anchors(boxes.cell_anchor(8 * s, s), (128 // s, 160 // s), s) for s in (8, 16, 32)]
    truth = boxes.from_xywh(torch.tensor(raw).float().view(-1, 4))
    owners, everything = assign(cells, truth), torch.cat(cells)
    assert len(owners) == len(everything)
    for place in (owners >= 0).nonzero().flatten().tolist():
        box, center = truth[owners[place]], (everything[place, :2] + everything[place, 2:]) / 2
        assert bool((center > box[:2]).all() and (center < box[2:]).all())
        assert float(boxes.iou(everything[place : place + 1], box[None])) > 0


def test_anchors_of_the_official_model() -> None:
    want = [(-28, 35), (-56, 71), (-112, 143), (-224, 287), (-448, 575)]
    for (low, high), size, stride in zip(want, HeadConfig().anchors, (8, 16, 32, 64, 128), strict=True):
        assert boxes.cell_anchor(size, stride).tolist() == [[low, low, high, high]]
    assert boxes.grid_anchors(boxes.cell_anchor(64, 8), (2, 3), 8)[4].tolist() == [-20, -20, 43, 43]


def test_drop_block_keeps_the_sum_and_drops_squares() -> None:
    torch.manual_seed(0)
    x = torch.ones(2, 3, 32, 32)
    y = drop_block(x, 0.3, training=True)
    assert float(y.sum()) == pytest.approx(float(x.sum()), rel=1e-5)
    assert torch.equal(y[:, 0] == 0, y[:, 2] == 0)
    assert 0.1 < float((y == 0).float().mean()) < 0.4
    assert drop_block(x, 0.3, training=False) is x


def test_swin_pads_and_halves() -> None:
    maps = Swin(SwinConfig(8, (1, 1, 1, 1), (1, 2, 2, 2), 7, 0.1)).eval()(torch.zeros(1, 3, 50, 66))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 13, 17), (16, 7, 9), (32, 4, 5), (64, 2, 3)]


def test_padding_of_the_image_is_masked() -> None:
    bias = image_bias(((4, 4), (2, 2), (1, 1), (1, 1), (1, 1)), torch.tensor([[32, 20], [17, 32]]))
    assert (bias[0, :16].view(4, 4) == 0).tolist() == [[True, True, True, False]] * 4
    assert (bias[1, 16:20].view(2, 2) == 0).tolist() == [[True, True], [True, True]]
