"""Settings of a training run, and the presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from etl.errors import UsageError
from glip.phrases import PromptConfig

PARTS = ("language", "trunk", "fpn", "head", "shared")
"""What can be frozen; `shared` is everything but the experts."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One run. Data, model and folder come from the command line."""

    preset: str = "better"
    """The name of the recipe this started from."""
    optimizer: str = "adamw"
    """`adam` or `adamw`."""
    lr: float = 1e-4
    """Learning rate of the head and the FPN."""
    trunk_lr: float = 1.0
    """Factor on the rate of the image trunk."""
    language_lr: float = 0.1
    """Factor on the rate of the language encoder."""
    text_layer_lr: float = 1.0
    """Factor on the rate of the head's text layers. Above 1e-4 they make all tokens alike, and phrases with them."""
    bias_lr: float = 1.0
    """Factor on the rate of every parameter whose name contains `bias`; those are never decayed."""
    weight_decay: float = 0.05
    """Of everything else but norms."""
    decay_norms: bool = False
    """Whether norm weights are decayed, as the reference does."""
    batch: int = 4
    """Images per step and process."""
    accumulate: int = 1
    """Steps whose gradients are added up before the weights move."""
    epochs: float = 30
    """Passes over the training images, all processes together."""
    steps: int | None = None
    """Updates; instead of epochs."""
    warmup: int = 200
    """Updates over which the rate rises linearly."""
    schedule: str = "cosine"
    """`constant`, `cosine`, or `step` (a tenth at 67 % and again at 89 %)."""
    clip: float | None = 1.0
    """Largest norm of the whole gradient."""
    ema: float | None = 0.999
    """Decay of the moving average of the weights, which is what is saved; None: the last weights."""
    amp: bool | None = None
    """bfloat16 products; None: on CUDA alone, where they are faster."""
    freeze: tuple[str, ...] = ()
    """Parts that stay as they are."""
    temperature: float = 2.0
    """Modalities are drawn ∝ images^(1 / temperature); 1: as they come."""
    augment: bool = True
    """Whether images are changed at random."""
    prompt: PromptConfig = field(default_factory=lambda: PromptConfig(negatives=30, synonym=0.1))
    """How prompts are written."""
    seed: int = 0
    """Of everything random."""
    threads: int = 2
    """Threads that prepare batches."""
    save_every: int = 500
    """Updates between checkpoints."""

    def __post_init__(self) -> None:
        unknown = [part for part in self.freeze if part not in PARTS]
        if unknown:
            raise UsageError(f"--freeze {unknown[0]}: it is one of {', '.join(PARTS)}")
        if self.schedule not in ("constant", "cosine", "step"):
            raise UsageError(f"schedule '{self.schedule}': it is constant, cosine or step")
        if self.optimizer not in ("adam", "adamw"):
            raise UsageError(f"optimizer '{self.optimizer}': it is adam or adamw")
        if min(self.batch, self.accumulate) < 1 or self.lr <= 0:
            raise UsageError("batch and accumulate are at least 1, lr is above 0")
        if min(self.epochs, self.temperature) <= 0:
            raise UsageError("epochs and temperature are above 0")

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    # Med-GLIP: Adam, 2e-4, batch 5, 30 epochs; nothing else is stated, so nothing else is added.
    "paper": lambda: TrainConfig(
        "paper", optimizer="adam", lr=2e-4, language_lr=1.0, weight_decay=0.0, batch=5, epochs=30, warmup=0,
        schedule="constant", clip=None, ema=None, amp=False, temperature=1.0,
    ),
    # A small language rate, warm-up, decay, clipping and averaging: what GLIP's users report to be needed.
    "better": lambda: TrainConfig(),
    # The small model: a frozen language encoder and a higher rate.
    "nano": lambda: TrainConfig(
        "nano", lr=2e-3, text_layer_lr=0.05, batch=8, warmup=50, ema=0.99, freeze=("language",), amp=False, clip=5.0,
        save_every=200,
    ),
}  # fmt: skip


def preset(name: str, **changes: Any) -> TrainConfig:
    """A preset with changes; a change of None is none. UsageError lists the presets."""
    if name not in PRESETS:
        raise UsageError(f"no preset '{name}'; there are {', '.join(PRESETS)}")
    return replace(PRESETS[name](), **{k: v for k, v in changes.items() if v is not None})


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Where a run reads and writes, and which model it trains."""

    data: Path
    """A built dataset."""
    out: Path
    """Folder of the run."""
    size: str = "nano"
    """`nano` or `glip_t`."""
    split: str = "train"
    """Which part of the dataset."""
    modalities: tuple[str, ...] = ()
    """Train these; empty: all that have images."""
    init: Path | None = None
    """An official checkpoint."""
    bundle: Path | None = None
    """A bundle to start from; modalities it lacks get a new expert."""
    text: str | None = None
    """Folder or hub name of the language encoder, instead of the size's own."""
    limit: int | None = None
    """Use only so many images, spread over the modalities; for trials."""
    resume: bool = False
    """Go on from the folder's last checkpoint."""

    def __post_init__(self) -> None:
        if self.bundle is not None and (self.init or self.text):
            raise UsageError("--bundle brings its weights and its vocabulary: leave out --init and --text")
