"""From a picture and a prompt to boxes: the Python API of inference.

    from glip.ground import Grounder
    for box in Grounder.load("run/bundle").ground("chest.png", "left lung. right lung.", modality="xray"):
        print(box.phrase, box.score, box.bbox)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etl.errors import UsageError
from glip import boxes
from glip.detect import DetectConfig, Detections, detect
from glip.experts import MedGLIP, load_bundle
from glip.images import canvas, stack, to_input
from glip.phrases import encode, join, pack, pad, parse
from glip.router import Router, load_router
from glip.slices import View, views
from glip.text import bundle_tokenizer


@dataclass(frozen=True, slots=True)
class Box:
    """One found region; `bbox` is [x, y, width, height] in pixels of the image as given."""

    phrase: str
    score: float
    bbox: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Grounder:
    """A loaded model with its tokenizer."""

    model: MedGLIP
    words: Any
    router: Router | None = None
    thresholds: DetectConfig = field(default_factory=DetectConfig)

    @staticmethod
    def load(bundle: str | Path, *, device: str = "cpu", min_score: float = 0.05) -> Grounder:
        """The model of a bundle folder."""
        if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise UsageError(f"--device {device}: it is cpu" + (" or cuda" if torch.cuda.is_available() else " here"))
        model, info = load_bundle(Path(bundle))
        words, router = bundle_tokenizer(Path(bundle), info.text_source), load_router(Path(bundle))
        return Grounder(model.to(device), words, router, DetectConfig(min_score=min_score))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that this model has an expert for."""
        return self.model.modalities

    def ground(
        self, image: NDArray[np.uint8] | str | Path, prompt: str | Sequence[str], *, modality: str | None = None
    ) -> list[Box]:
        """The boxes of one 2D image, best first; an array is uint8 (rows, columns[, 3])."""
        if not isinstance(image, np.ndarray):
            found = list(views(Path(image), modality))
            if len(found) != 1:
                raise UsageError(f"{image}: holds {len(found)} images; pass the slices of glip.slices.views")
            image = found[0].image
        return self.ground_all([image], prompt, modality=modality)[0]

    def ground_all(
        self, images: Sequence[NDArray[np.uint8]], prompt: str | Sequence[str], *, modality: str | None = None
    ) -> list[list[Box]]:
        """The boxes of each image. Images of one canvas share a batch; what is found does not depend on the batch.

        More phrases than a prompt of 256 tokens holds are asked for in several prompts, and the boxes merged.
        """
        phrases = parse(prompt) if isinstance(prompt, str) else tuple(prompt)
        inputs = [to_input(image, self.model.config) for image in images]
        chosen = [modality or self._routed(x) for x in inputs]
        groups: dict[tuple[str, tuple[int, int]], list[int]] = {}
        for n, (x, name) in enumerate(zip(inputs, chosen, strict=True)):
            groups.setdefault((name, canvas(x.shape[1], x.shape[2])), []).append(n)
        out: list[list[Box]] = [[] for _ in images]
        for part in pack(phrases, self.words):
            for (name, _), members in groups.items():
                found = self._detected(name, [inputs[n] for n in members], part)
                for n, (detections, size) in zip(members, found, strict=True):
                    out[n] += _boxes(detections, part, size, images[n].shape)
        return [sorted(b, key=lambda x: -x.score)[: self.thresholds.per_image] for b in out]

    @torch.no_grad()
    def _detected(
        self, modality: str, inputs: list[Tensor], phrases: Sequence[str]
    ) -> list[tuple[Detections, tuple[int, int]]]:
        device = next(self.model.parameters()).device
        encoded = encode(join(phrases), self.words)
        ids, mask = (t.to(device) for t in pad([encoded] * len(inputs)))
        images, sizes = stack(inputs)
        outputs = self.model(modality, images.to(device), ids, mask, sizes=sizes)
        tokens = [encoded.phrases.to(device)] * len(inputs)
        found = detect(outputs, self.model.shared.anchors(outputs.shapes), tokens, sizes, self.thresholds)
        return list(zip(found, sizes, strict=True))

    def _routed(self, image: Tensor) -> str:
        if len(self.modalities) == 1:
            return self.modalities[0]
        if self.router is None:
            raise UsageError(f"say --modality: {', '.join(self.modalities)}; this bundle has no classifier for it")
        return self.router.route(image)


def _boxes(found: Detections, phrases: Sequence[str], size: tuple[int, int], shape: tuple[int, ...]) -> Iterator[Box]:
    """Detections on the network's input as boxes on the image itself."""
    factor = torch.tensor([shape[1] / size[1], shape[0] / size[0]] * 2)
    xywh = boxes.to_xywh(found.boxes.cpu()) * factor
    for box, score, label in zip(xywh.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
        x, y, w, h = box
        yield Box(phrases[label - 1], score, (x, y, w, h))


def coco_results(found: Sequence[tuple[View, list[Box]]], names: Sequence[str]) -> dict[str, Any]:
    """COCO `images`, `categories` (the prompt's phrases, from 1) and `annotations` with scores."""
    number = {name: n for n, name in enumerate(names, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (view, items) in enumerate(found, 1):
        height, width = view.image.shape[:2]
        images.append({"id": image_id, "file_name": view.name, "width": width, "height": height})
        for box in items:
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": number[box.phrase],
                "bbox": list(box.bbox), "area": box.bbox[2] * box.bbox[3], "iscrowd": 0, "score": box.score,
            })  # fmt: skip
    return {"images": images, "categories": [{"id": n, "name": name} for name, n in number.items()],
            "annotations": annotations}  # fmt: skip
