"""A small classifier of the modality, for images that come without one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glip.config import ModelConfig
from glip.data import Source
from glip.images import to_input

SIDE = 64
"""Images are judged by a thumbnail of this side."""
FILE = "router.safetensors"


class Router(nn.Module):
    """Three convolutions over a thumbnail."""

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        widths = (3, 16, 32, 64)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(self.modalities)))

    def forward(self, thumbnails: Tensor) -> Tensor:
        """(B, 3, 64, 64) → logits (B, modalities)."""
        y: Tensor = self.net(thumbnails)
        return y

    def route(self, image: Tensor) -> str:
        """The modality of one normalised image (3, H, W)."""
        with torch.no_grad():
            return self.modalities[int(self(thumbnail(image)[None]).argmax())]


def thumbnail(image: Tensor) -> Tensor:
    """(3, H, W) → (3, 64, 64)."""
    return F.interpolate(image[None], size=(SIDE, SIDE), mode="bilinear", antialias=True)[0]


def fit_router(source: Source, numbers: Sequence[int], config: ModelConfig, *, steps: int = 300) -> Router:
    """A classifier of the modalities of these rows, trained on at most 100 images of each."""
    groups: dict[str, list[int]] = {}
    for n in numbers:
        groups.setdefault(source.rows[n].modality, []).append(n)
    names = sorted(groups)
    rng = np.random.default_rng(0)
    picked = {m: rng.permutation(groups[m])[:100].tolist() for m in names}
    images = torch.stack([thumbnail(to_input(source.read(n).image, config)) for m in names for n in picked[m]])
    classes = torch.tensor([names.index(m) for m in names for _ in picked[m]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        router = Router(names)
    optimizer = torch.optim.Adam(router.parameters(), lr=3e-3)
    for _ in range(steps):
        drawn = rng.integers(len(names), size=16)  # every modality equally often, however many images it has
        at = torch.tensor([int(rng.choice(np.flatnonzero(classes.numpy() == m))) for m in drawn])
        mirrored = images[at].flip(-1) if rng.random() < 0.5 else images[at]
        optimizer.zero_grad()
        F.cross_entropy(router(mirrored), classes[at]).backward()
        optimizer.step()
    return router.eval()


def save_router(folder: Path, router: Router) -> None:
    """`router.safetensors` in a bundle, with the modalities in its metadata."""
    from safetensors.torch import save_file

    weights = {k: v.contiguous() for k, v in router.state_dict().items()}
    save_file(weights, folder / FILE, metadata={"modalities": json.dumps(router.modalities)})


def load_router(folder: Path) -> Router | None:
    """The classifier of a bundle; None when it has none."""
    from safetensors import safe_open

    path = folder / FILE
    if not path.is_file():
        return None
    with safe_open(path, "pt") as stored:
        router = Router(json.loads(stored.metadata()["modalities"]))
        router.load_state_dict({k: stored.get_tensor(k) for k in stored.keys()})  # noqa: SIM118
    return router.eval()
