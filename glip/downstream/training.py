"""The two training loops: the embedded VQA baseline and the small R2Gen. One arm, one model, one seed. Torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from etl.errors import UsageError
from glip.downstream.answers import normalise
from glip.downstream.arms import Arm
from glip.downstream.items import Item, Question, Size, Study, images_of
from glip.downstream.r2gen import R2Gen, R2GenConfig, generate
from glip.downstream.vision import Seer, SeerConfig, Sight, sight
from glip.downstream.vqa_model import VqaConfig, VqaModel
from glip.downstream.words import Vocabulary

Maps = dict[str, NDArray[np.float32]]
"""Image → (C, H, W): grey pixels or an expert's feature map, all of one shape."""


@dataclass(frozen=True, slots=True)
class Training:
    """How a small model is trained."""

    epochs: int = 20
    batch: int = 64
    lr: float = 2e-3
    seed: int = 0
    threads: int = 1
    width: int = 64
    """Of all tokens."""
    cells: int = 4
    """The grid is cells × cells."""
    regions: int = 12
    """Most regions of an image."""
    least: int = 1
    """Rarer words of reports are unknown (R2Gen: 3 for IU-Xray, 10 for MIMIC-CXR)."""
    length: int = 60
    """Most words of a report (R2Gen: 60 for IU-Xray, 100 for MIMIC-CXR)."""
    beams: int = 3


@dataclass(frozen=True, slots=True)
class Views:
    """The images of an experiment: their maps and sizes in pixels."""

    maps: Maps
    sizes: dict[str, Size]

    @property
    def channels(self) -> int:
        """Of the maps."""
        return len(next(iter(self.maps.values())))


def pixels(root: str, images: Sequence[str], *, side: int = 32) -> Maps:
    """Each image as (1, side, side) grey from −1 to 1."""
    out: Maps = {}
    for image in images:
        with Image.open(f"{root}/{image}") as picture:
            grey = picture.convert("L").resize((side, side), Image.Resampling.BILINEAR)
        out[image] = np.asarray(grey, np.float32)[None] / 127.5 - 1
    return out


def seen(items: Sequence[Item], arm: Arm, views: Views, words: Vocabulary, most: int) -> Sight:
    """The first image of each item with its regions in this arm."""
    first = [images_of(item)[0] for item in items]
    regions = [arm.of(item)[0] for item in items]
    return sight([views.maps[i] for i in first], regions, [views.sizes[i] for i in first], words, most=most)


def fit_vqa(
    train: Sequence[Question], test: Sequence[Question], arm: Arm, views: Views, how: Training = Training()
) -> dict[str, str]:
    """Trains on some questions and answers others: {question id: answer}. UsageError without any to train on."""
    _settle(train, how)
    texts = [normalise(q.question) for q in train] + [r.phrase.lower() for rs in arm.regions.values() for r in rs]
    words = Vocabulary.of(texts)
    answers = sorted({normalise(q.answer) for q in train})
    number = {a: n for n, a in enumerate(answers)}
    config = VqaConfig(SeerConfig(views.channels, how.width, how.cells))
    model = VqaModel(config, len(words), len(answers))

    def loss(batch: Sequence[Question]) -> Tensor:
        wanted = torch.tensor([number[normalise(q.answer)] for q in batch])
        logits = model(seen(batch, arm, views, words, how.regions), _numbers(batch, words))
        return F.cross_entropy(logits, wanted)

    _descend(model, train, loss, how)
    found: dict[str, str] = {}
    model.eval()
    for batch in _batches(test, how.batch):
        with torch.no_grad():
            logits = model(seen(batch, arm, views, words, how.regions), _numbers(batch, words))
        found |= {q.id: answers[n] for q, n in zip(batch, logits.argmax(1).tolist(), strict=True)}
    return found


def _numbers(batch: Sequence[Question], words: Vocabulary) -> Tensor:
    return _padded([words.encode(normalise(q.question))[:64] or [0] for q in batch])


class Reporter(nn.Module):
    """A `Seer` for each image of a study, and R2Gen on the tokens of all of them."""

    def __init__(self, seer: SeerConfig, config: R2GenConfig, phrases: Vocabulary, words: Vocabulary) -> None:
        super().__init__()
        self.seer = Seer(seer, len(phrases))
        self.encoder_decoder = R2Gen(config, len(words))

    def tokens(self, sights: Sequence[Sight]) -> tuple[Tensor, Tensor]:
        """(tokens, mask) of the images of each study, one after the other."""
        parts = [self.seer(one) for one in sights]
        return torch.cat([t for t, _ in parts], 1), torch.cat([m for _, m in parts], 1)


def fit_reports(
    train: Sequence[Study], test: Sequence[Study], arm: Arm, views: Views, clean: Callable[[str], str],
    how: Training = Training(),
) -> dict[str, str]:  # fmt: skip
    """Trains R2Gen on some studies and writes the reports of others: {study id: report}. Studies of several images
    are cut to the number that all have. UsageError without any to train on."""
    _settle(train, how)
    phrases = Vocabulary.of(r.phrase.lower() for rs in arm.regions.values() for r in rs)
    words = Vocabulary.of((clean(s.report) for s in train), least=how.least)
    count = min(len(s.images) for s in (*train, *test))
    config = R2GenConfig(how.width, how.width, 2 * how.width, 4, 2, 3, 4, feature_dropout=0.1)
    model = Reporter(SeerConfig(views.channels, how.width, how.cells), config, phrases, words)

    def look(batch: Sequence[Study]) -> tuple[Tensor, Tensor]:
        singles = [[replace(s, images=(s.images[n],)) for s in batch] for n in range(count)]
        return model.tokens([seen(single, arm, views, phrases, how.regions) for single in singles])

    def loss(batch: Sequence[Study]) -> Tensor:
        reports = [[0, *words.encode(clean(s.report))[: how.length], 0] for s in batch]
        numbers = _padded(reports)
        counted = _padded([[1] * (len(r) - 1) for r in reports])
        after = model.encoder_decoder(*look(batch), numbers[:, :-1])
        right = after.gather(2, numbers[:, 1:, None])[..., 0]
        y: Tensor = -(right * counted).sum() / counted.sum()
        return y

    _descend(model, train, loss, how)
    found: dict[str, str] = {}
    model.eval()
    for batch in _batches(test, how.batch):
        with torch.no_grad():
            tokens, mask = look(batch)
        written = generate(model.encoder_decoder, tokens, mask, length=how.length, beams=how.beams)
        found |= {s.id: words.decode(row) for s, row in zip(batch, written, strict=True)}
    return found


def _settle(train: Sequence[Item], how: Training) -> None:
    if not train:
        raise UsageError("the dataset has no item in its split train to train on")
    torch.set_num_threads(how.threads)
    torch.manual_seed(how.seed)


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _descend(model: nn.Module, train: Sequence[Any], loss: Callable[[Any], Tensor], how: Training) -> None:
    """AdamW with a linear warm-up and a cosine decay; the order of the items is a function of the seed."""
    rng = np.random.default_rng(how.seed)
    steps = how.epochs * -(-len(train) // how.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.lr, weight_decay=0.01)
    warm = max(1, steps // 20)

    def rate(step: int) -> float:
        return min((step + 1) / warm, 0.5 + 0.5 * float(np.cos(np.pi * step / steps)) + 1e-3)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    for _ in range(how.epochs):
        order = rng.permutation(len(train))
        for places in _batches(order.tolist(), how.batch):
            value = loss([train[i] for i in places])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """(B, L) int64, zeros at the end."""
    out = torch.zeros(len(rows), max(len(r) for r in rows), dtype=torch.long)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = torch.tensor(values, dtype=torch.long)
    return out
