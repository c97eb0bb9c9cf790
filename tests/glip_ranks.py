"""Trains the tiny model with one process, or under `torchrun` with several; test_glip_update compares them."""

import sys
from pathlib import Path

import torch
from glip_tiny import TINY, quick

import glip.config
from glip import train
from glip.phrases import PromptConfig
from glip.recipe import RunConfig


def main(data: str, out: str, accumulate: str) -> None:
    """One process with `accumulate` 2 sees what two processes see."""
    torch.set_num_threads(1)
    glip.config.SIZES["nano"] = lambda: TINY
    train.load_language = lambda *_: None
    config = quick(steps=4, accumulate=int(accumulate), augment=False, threads=0,
                   prompt=PromptConfig(negatives=0, shuffle=False))  # fmt: skip
    train.fit(RunConfig(Path(data), Path(out), modalities=("ct",)), config)


if __name__ == "__main__":
    main(*sys.argv[1:])
