"""Official checkpoints, and the checkpoints of a run.

An official file is read strictly: every key is used, known to be obsolete, or an error that names it.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etl.errors import Failure
from glip.experts import MedGLIP
from glip.model import GLIP

OBSOLETE = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""Ends of keys that older libraries saved and that the model does not have."""
BACKBONE = "backbone."


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of an official `.pth` (weights-only loading) or of a safetensors file, with plain keys."""
    if not path.is_file():
        raise Failure(f"--init {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message recommends to load it with the code in it
        raise Failure(f"--init {path}: no weights file, or one with code in it, which is not run") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise Failure(f"--init {path}: cannot be read as weights: {str(error).splitlines()[0]}") from error
    except Exception as error:  # safetensors raises an exception type of its own
        raise Failure(f"--init {path}: cannot be read as weights: {error}") from error
    if isinstance(found, dict) and isinstance(found.get("model"), dict):
        found = found["model"]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise Failure(f"--init {path}: holds no table of tensors, neither at the top nor under 'model'")
    return {str(k).removeprefix("module."): v for k, v in found.items()}


def load_official(model: GLIP, path: Path) -> tuple[str, ...]:
    """Fills a model; the obsolete keys that were left out. Failure names every key that is missing, unexpected, of
    another shape, or a constant (index table, anchors) of another value."""
    return _fill(model.state_dict(), read_weights(path), path)


def load_official_experts(model: MedGLIP, path: Path) -> tuple[str, ...]:
    """As `load_official`, with the checkpoint's image encoder given to every expert."""
    weights = read_weights(path)
    trunk = {k: v for k, v in weights.items() if k.startswith(BACKBONE)}
    rest = {k: v for k, v in weights.items() if k not in trunk}
    skipped = _fill(model.shared.state_dict(), rest, path)
    for expert in model.experts.values():
        _fill({BACKBONE + k: v for k, v in expert.state_dict().items()}, trunk, path)
    return skipped


def _fill(own: dict[str, Tensor], given: dict[str, Tensor], path: Path) -> tuple[str, ...]:
    skipped = tuple(k for k in given if k not in own and k.endswith(OBSOLETE))
    problems = [f"missing: {k}" for k in own if k not in given]
    problems += [f"unexpected: {k}" for k in given if k not in own and k not in skipped]
    for key, value in own.items():
        if key not in given:
            continue
        if given[key].shape != value.shape:
            problems.append(f"shape of {key}: {tuple(given[key].shape)}, the model has {tuple(value.shape)}")
        elif _is_constant(key) and not torch.equal(given[key].to(value.dtype), value):
            problems.append(f"constant of another value: {key}")
    if problems:
        raise Failure(f"--init {path}: does not fit the model\n  " + "\n  ".join(problems))
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(given[key])
    return skipped


def _is_constant(key: str) -> bool:
    return key.endswith("relative_position_index") or ".cell_anchors." in key


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint in one step: an interruption leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def load_state(path: Path) -> dict[str, Any]:
    """The state that `save_state` wrote."""
    if not path.is_file():
        raise Failure(f"{path}: no checkpoint here to resume from; begin without --resume")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
