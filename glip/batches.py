"""Which images meet in which step, and the tensors made of them.

The plan is a pure function of the seed: a run resumed at step k sees what it would have seen. A batch holds images
of one modality and one canvas, so a result does not depend on what else is in the batch.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glip import boxes
from glip.assign import Targets
from glip.augment import RECIPES, Region, augment
from glip.config import ModelConfig
from glip.data import Row, Sample, Source
from glip.images import canvas, scaled_size, stack, to_input
from glip.phrases import Encoded, PromptConfig, encode, pad, training_prompt

WINDOW = 8
"""Storage blocks that are mixed with one another; shuffling within so many keeps reading sequential."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything one training step reads."""

    modality: str
    keys: tuple[str, ...]
    images: Tensor
    sizes: list[tuple[int, int]]
    ids: Tensor
    mask: Tensor
    targets: list[Targets]


@dataclass(frozen=True, slots=True)
class Plan:
    """The endless sequence of batches over a list of rows."""

    rows: Sequence[Row]
    model: ModelConfig
    batch: int
    """Images per batch and process."""
    seed: int
    temperature: float = 1.0
    """Modalities are drawn with probability ∝ images^(1 / temperature)."""

    def modalities(self) -> dict[str, list[int]]:
        """Row numbers by modality."""
        out: dict[str, list[int]] = {}
        for number, row in enumerate(self.rows):
            out.setdefault(row.modality, []).append(number)
        return dict(sorted(out.items()))

    def steps(self, start: int = 0, *, rank: int = 0, world: int = 1) -> Iterator[tuple[int, str, list[int]]]:
        """(step, modality, row numbers) from a step on; the processes of a run share the modality of each step."""
        groups = self.modalities()
        names = list(groups)
        weight = np.array([len(groups[n]) for n in names]) ** (1 / self.temperature)
        streams = {n: self._stream(n, groups[n]) for n in names}
        step = 0
        while True:
            name = names[_rng(self.seed, "modality", step).choice(len(names), p=weight / weight.sum())]
            mine = [next(streams[name]) for _ in range(world)][rank]
            if step >= start:
                yield step, name, mine
            step += 1

    def _stream(self, name: str, numbers: list[int]) -> Iterator[list[int]]:
        epoch = 0
        while True:
            yield from self._epoch(numbers, _rng(self.seed, name, epoch))
            epoch += 1

    def _epoch(self, numbers: list[int], rng: np.random.Generator) -> Iterator[list[int]]:
        """Every row once, in batches of one canvas; the last batch of each canvas may be smaller."""
        blocks: dict[int, list[int]] = {}
        for number in numbers:
            blocks.setdefault(self.rows[number].block, []).append(number)
        order = [list(blocks.values())[i] for i in rng.permutation(len(blocks))]
        waiting: dict[tuple[int, int], list[int]] = {}
        for first in range(0, len(order), WINDOW):
            mixed = [n for block in order[first : first + WINDOW] for n in block]
            for number in (mixed[i] for i in rng.permutation(len(mixed))):
                row = self.rows[number]
                size = canvas(*scaled_size(row.height, row.width, self.model))
                waiting.setdefault(size, []).append(number)
                if len(waiting[size]) == self.batch:
                    yield waiting.pop(size)
        yield from waiting.values()


def _rng(seed: int, *parts: object) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(repr(parts).encode())])


@dataclass(frozen=True, slots=True)
class Collator:
    """Samples to batches: augmentation, prompt, tensors."""

    source: Source
    model: ModelConfig
    tokenizer: Any
    prompt: PromptConfig
    synonyms: Mapping[str, tuple[str, ...]]
    seed: int
    augmented: bool = True
    numbers: tuple[int, ...] | None = None
    """The source's row for each of the plan's, when the plan is over a part of it."""

    def __call__(self, step: int, modality: str, numbers: list[int]) -> Batch:
        """The batch of a step; random choices depend on seed, step and place alone."""
        rows = numbers if self.numbers is None else [self.numbers[n] for n in numbers]
        parts = [self._one(self.source.read(n), _rng(self.seed, step, n)) for n in rows]
        images, sizes = stack([p[0] for p in parts])
        encoded = [p[1] for p in parts]
        ids, mask = pad(encoded)
        width = ids.shape[1]
        targets = [Targets(t.boxes, F.pad(t.tokens, (0, width - t.tokens.shape[1]))) for _, _, t, _ in parts]
        return Batch(modality, tuple(p[3] for p in parts), images, sizes, ids, mask, targets)

    def _one(self, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, Encoded, Targets, str]:
        image, regions, absent = sample.image, sample.regions, sample.absent
        if self.augmented:
            image, regions, absent = augment(
                image, regions, absent, recipe=RECIPES[sample.modality], axis=sample.axis,
                labels=set(self.source.labels), rng=rng,
            )  # fmt: skip
        present = list(dict.fromkeys(r.label for r in regions))
        prompt, place = training_prompt(
            present or absent[:1] or ["background"], absent, self.tokenizer, rng,
            synonyms=dict(self.synonyms), config=self.prompt,
        )  # fmt: skip
        kept = [r for r in regions if r.label in place]
        encoded = encode(prompt, self.tokenizer)
        targets = _targets(kept, encoded.phrases[[place[r.label] for r in kept]], image.shape[:2], self.model)
        return to_input(image, self.model), encoded, targets, sample.key


def _scaled(regions: list[Region], shape: tuple[int, ...], model: ModelConfig) -> Tensor:
    """(n, 4): the regions' boxes on the network's input, inclusive corners."""
    height, width = scaled_size(shape[0], shape[1], model)
    factor = torch.tensor([width / shape[1], height / shape[0]] * 2)
    return boxes.from_xywh(torch.tensor([r.box for r in regions]).view(-1, 4) * factor)


def _targets(regions: list[Region], tokens: Tensor, shape: tuple[int, ...], model: ModelConfig) -> Targets:
    """The boxes on the network's input with the tokens (n, T) of their phrases.

    Regions of one and the same box (a tumour and its rim) are one target that wants the tokens of all: an anchor
    belongs to one box alone, so the others would never be found.
    """
    box, owner = torch.unique(_scaled(regions, shape, model), dim=0, return_inverse=True)
    together = torch.zeros(len(box), tokens.shape[1], dtype=torch.long).index_add_(0, owner, tokens.long())
    return Targets(box, together > 0)


def prefetched(
    collate: Collator, steps: Iterator[tuple[int, str, list[int]]], *, threads: int, ahead: int = 8
) -> Iterator[Batch]:
    """The batches of the steps in order, made ahead by threads."""
    if threads == 0:
        yield from (collate(*step) for step in steps)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for step in steps:
                waiting.append(pool.submit(collate, *step))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
