"""Training: set up, loop, save. The loop is `fit`, to be read from top to bottom."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from etl.errors import Failure, UsageError
from etl.labels.maps import Ontology, load_ontology
from etl.labels.phrases import phrases
from glip import loss
from glip.assign import Targets
from glip.batches import Batch, Collator, Plan, prefetched
from glip.checkpoint import load_official_experts, load_state, save_state
from glip.config import MODALITIES, STRIDES, size
from glip.data import Row, Source, open_dataset
from glip.experts import BundleInfo, MedGLIP, load_bundle, save_bundle
from glip.optim import Average, freeze, frozen_modules, optimizer, rate_factor, set_rate
from glip.recipe import RunConfig, TrainConfig
from glip.router import fit_router, save_router
from glip.text import TOKENIZER, bundle_tokenizer, load_language, tokenizer

BUNDLED = Path(__file__).resolve().parents[1]
CHECKPOINT = "last.pt"


@dataclass(slots=True)
class Run:
    """Everything that a training step touches."""

    model: MedGLIP
    optimizer: torch.optim.Optimizer
    average: Average | None
    plan: Plan
    collate: Collator
    updates: int
    """Number of updates in the whole run."""
    done: int
    """Updates that are done."""
    device: torch.device
    settings: dict[str, str]
    """What must not change when the run is resumed."""

    def anchors(self, batch: Batch) -> list[Tensor]:
        """The anchors of each level for a batch's canvas, where the batch is."""
        height, width = batch.images.shape[2:]
        found = self.model.shared.anchors(tuple((-(-height // s), -(-width // s)) for s in STRIDES))
        return [a.to(batch.images.device) for a in found]


def fit(where: RunConfig, config: TrainConfig) -> Path:
    """Trains; the folder of the finished bundle.

    Raises:
        Failure: the loss is no number; the batch and the weights are saved beside the checkpoint.
    """
    run = setup(where, config)
    log = Log(where.out, run)
    batches = prefetched(run.collate, _micro_steps(run, config), threads=config.threads)
    for update in range(run.done, run.updates):
        set_rate(run.optimizer, rate_factor(update, run.updates, config))
        run.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(zlib.crc32(repr((config.seed, update, _rank()[0])).encode()))  # a resumed run needs no state
        parts = list(islice(batches, config.accumulate))
        over = _totals(run, parts)
        for batch in parts:
            with _precision(run.device, config.amp):
                losses = step_losses(run.model, batch, run.device, over=over)
            if not torch.isfinite(losses.total):
                raise _not_a_number(where.out, run, batch, update)
            losses.total.backward()
            log.losses(losses, batch)
        _average_gradients(run.model)
        norm = _clipped(run.model, config.clip)
        if not torch.isfinite(norm):
            raise _not_a_number(where.out, run, batch, update)
        run.optimizer.step()
        run.done = update + 1
        if run.average is not None:
            run.average.update(run.done)
        log.line(run, norm)
        if run.done % config.save_every == 0 or run.done == run.updates:
            _save(where.out, run)
    return _finish(where, config, run)


def step_losses(
    model: MedGLIP, batch: Batch, device: torch.device, *, over: Tensor | None = None
) -> loss.Losses:  # fmt: skip
    """The losses of one batch, divided by `over`; None: by the batch's own totals."""
    mask = batch.mask.to(device)
    outputs = model(batch.modality, batch.images.to(device), batch.ids.to(device), mask, sizes=batch.sizes)
    targets = [Targets(t.boxes.to(device), t.tokens.to(device)) for t in batch.targets]
    return loss.compute(outputs, model.shared.anchors(outputs.shapes), targets, mask, over=over)


def _totals(run: Run, parts: list[Batch]) -> Tensor:
    """What the losses of an update are divided by, so that its parts weigh what they would in one large batch."""
    found = [loss.match(run.anchors(b), b.targets).totals() for b in parts]
    return loss.mean_over_ranks(torch.stack(found).sum(0).to(run.device))


def setup(where: RunConfig, config: TrainConfig) -> Run:
    """The run before its first update, or at the checkpoint it resumes from."""
    try:
        where.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"--out {where.out}: {error.strerror}") from error
    if not where.resume and (where.out / CHECKPOINT).is_file():
        raise UsageError(f"{where.out}: holds a run already; go on with --resume, or give another --out")
    device = _device()
    torch.manual_seed(config.seed)
    ontology = load_ontology(BUNDLED / "label_maps")
    source = open_dataset(where.data, where.split, labels=label_names(ontology))
    rows = _chosen(source, where)
    model = _model(where, tuple(dict.fromkeys(sorted(r.modality for _, r in rows))))
    freeze(model, config.freeze)
    model.to(device).train()
    for module in frozen_modules(model, config.freeze):
        module.eval()
    synonyms = {name: known[1:] for name, known in phrases(ontology).items()}
    words = _words(where, model)
    collate = Collator(source, model.config, words, config.prompt, synonyms, config.seed, config.augment)
    plan = Plan([r for _, r in rows], model.config, config.batch, config.seed, config.temperature)
    collate = replace(collate, numbers=tuple(n for n, _ in rows))
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    per_update = config.batch * config.accumulate * world
    updates = config.steps or max(1, round(config.epochs * len(rows) / per_update))
    average = Average(model, config.ema) if config.ema is not None else None
    fixed = _settings(config, updates=updates, world=world, images=len(rows), model=model.config.name)
    run = Run(model, optimizer(model, config), average, plan, collate, updates, 0, device, fixed)
    if where.resume:
        _restore(where.out, run)
    return run


def _settings(config: TrainConfig, **more: Any) -> dict[str, str]:
    """What the losses of a run depend on, as text; threads and checkpoints change none."""
    free = ("preset", "threads", "save_every", "epochs", "steps")
    return {k: str(v) for k, v in {**config.to_json(), **more}.items() if k not in free}


def label_names(ontology: Ontology) -> tuple[str, ...]:
    """The labels by id, from 1."""
    return tuple(sorted(ontology.labels, key=lambda name: ontology.labels[name].id))


def _chosen(source: Source, where: RunConfig) -> list[tuple[int, Row]]:
    """(number, row) of the images that take part."""
    unknown = [m for m in where.modalities if m not in MODALITIES]
    if unknown:
        raise UsageError(f"--modality {unknown[0]}: it is one of {', '.join(MODALITIES)}")
    rows = [(n, r) for n, r in enumerate(source.rows) if not where.modalities or r.modality in where.modalities]
    if where.limit is not None:
        turns: dict[str, int] = {}
        ranked = []
        for n, r in rows:
            turns[r.modality] = turns.get(r.modality, -1) + 1
            ranked.append((turns[r.modality], n, r))
        rows = sorted([(n, r) for _, n, r in sorted(ranked, key=lambda x: x[:2])[: where.limit]], key=lambda x: x[0])
    if not rows:
        raise Failure(f"{where.data}: no image of these modalities in the split {where.split}")
    return rows


def _model(where: RunConfig, modalities: tuple[str, ...]) -> MedGLIP:
    if where.bundle is not None:
        model, _ = load_bundle(where.bundle)
        for name in modalities:
            if name not in model.modalities:
                model.add_expert(name, like=model.modalities[0])
        return model
    model = MedGLIP(size(where.size), modalities)
    if where.init is not None:
        load_official_experts(model, where.init)
    else:
        load_language(model.shared.language_backbone, where.text or model.config.text_source)
    return model


def _words(where: RunConfig, model: MedGLIP) -> Any:
    if where.bundle is None:
        return tokenizer(where.text or model.config.text_source)
    return bundle_tokenizer(where.bundle, model.config.text_source)


def _device() -> torch.device:
    """This process's device; joins the group that `torchrun` started, if it did."""
    if "RANK" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cuda")


def _rank() -> tuple[int, int]:
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _micro_steps(run: Run, config: TrainConfig) -> Iterator[tuple[int, str, list[int]]]:
    rank, world = _rank()
    for step, modality, numbers in run.plan.steps(run.done * config.accumulate, rank=rank, world=world):
        if step >= run.updates * config.accumulate:
            return
        yield step, modality, numbers


def _precision(device: torch.device, amp: bool | None) -> Any:
    chosen = device.type == "cuda" if amp is None else amp
    return torch.autocast(device.type, torch.bfloat16) if chosen else nullcontext()


def _average_gradients(model: nn.Module) -> None:
    """The mean over processes; all of them trained the same expert, so they have the same gradients to share."""
    _, world = _rank()
    if world == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= world


def _clipped(model: nn.Module, limit: float | None) -> Tensor:
    parameters = [p for p in model.parameters() if p.grad is not None]
    return nn.utils.clip_grad_norm_(parameters, limit if limit is not None else float("inf"))


def _not_a_number(out: Path, run: Run, batch: Batch, update: int) -> Failure:
    path = out / f"not-a-number-{update}.pt"
    save_state(path, {
        "keys": list(batch.keys), "modality": batch.modality, "images": batch.images, "ids": batch.ids,
        "mask": batch.mask, "boxes": [t.boxes for t in batch.targets], "model": run.model.state_dict(),
    })  # fmt: skip
    return Failure(
        f"update {update}: the loss or its gradient is not a number, on {', '.join(batch.keys)}; the batch and the "
        f"weights are in {path}. A lower --lr or --clip usually helps"
    )


def _save(out: Path, run: Run) -> None:
    if _rank()[0]:
        return
    save_state(out / CHECKPOINT, {
        "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), "done": run.done,
        "average": run.average.values if run.average else None, "settings": run.settings,
    })  # fmt: skip


def _restore(out: Path, run: Run) -> None:
    state = load_state(out / CHECKPOINT)
    changed = [k for k, v in run.settings.items() if state["settings"].get(k) != v]
    if changed:
        was = ", ".join(f"{k} {state['settings'].get(k)}, now {run.settings[k]}" for k in changed)
        raise UsageError(f"{out}: the run to resume had other settings: {was}; repeat them, or give another --out")
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.done = state["done"]
    if run.average is not None:
        for name, value in state["average"].items():
            run.average.values[name].copy_(value)


def _finish(where: RunConfig, config: TrainConfig, run: Run) -> Path:
    folder = where.out / "bundle"
    if _rank()[0] == 0:
        if run.average is not None:
            run.average.swap()
        stats = [p for p in (where.data / "dataset" / "stats.json", where.data / "stats.json") if p.is_file()]
        fingerprint = hashlib.sha256(stats[0].read_bytes()).hexdigest() if stats else ""
        info = BundleInfo(run.collate.source.labels, fingerprint, where.text or "", config.to_json())
        save_bundle(folder, run.model, info)
        run.collate.tokenizer.save_pretrained(folder / TOKENIZER)
        if len(run.model.modalities) > 1 and set(run.model.modalities) == set(run.plan.modalities()):
            numbers = run.collate.numbers or range(len(run.plan.rows))
            save_router(folder, fit_router(run.collate.source, numbers, run.model.config))
        if run.average is not None:
            run.average.swap()
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
    return folder


class Log:
    """`losses.jsonl`, TensorBoard and a line with the time left; the first process alone writes."""

    def __init__(self, out: Path, run: Run) -> None:
        self.silent = _rank()[0] != 0
        self.sums: dict[str, float] = {}
        self.modality = ""
        self.begun, self.first, self.shown = time.monotonic(), run.done, 0.0
        if self.silent:
            return
        from torch.utils.tensorboard import SummaryWriter

        path = out / "losses.jsonl"
        kept = path.read_text().splitlines()[: run.done] if path.is_file() else []
        self.file = path.open("w")
        self.file.writelines(line + "\n" for line in kept)
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=run.done)

    def losses(self, losses: loss.Losses, batch: Batch) -> None:
        """Takes the losses of one batch."""
        for name in ("token", "regression", "centerness", "total"):
            self.sums[name] = self.sums.get(name, 0.0) + float(getattr(losses, name).detach())
        self.modality = batch.modality

    def line(self, run: Run, norm: Tensor) -> None:
        """Writes one update, and at most twice a second a line on stderr."""
        sums = torch.tensor(list(self.sums.values()), device=run.device)
        values = dict(zip(self.sums, loss.mean_over_ranks(sums).tolist(), strict=True))
        self.sums = {}
        if self.silent:
            return
        self.file.write(json.dumps({"update": run.done, "modality": self.modality, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(f"loss/{name}", value, run.done)
        self.board.add_scalar("gradient norm", float(norm), run.done)
        now = time.monotonic()
        if now - self.shown < 0.5 and run.done < run.updates:
            return
        self.shown = now
        left = (now - self.begun) / (run.done - self.first) * (run.updates - run.done)
        text = f"update {run.done}/{run.updates}  loss {values['total']:.3f}  {self.modality}  {left:.0f} s left"
        end = "\r" if sys.stderr.isatty() and run.done < run.updates else "\n"
        if sys.stderr.isatty() or run.done % 20 == 0 or run.done == run.updates:
            print(text, file=sys.stderr, end=end, flush=True)
