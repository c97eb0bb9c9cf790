"""RT-DETR (arXiv:2304.08069) of `transformers`: a closed set of classes, the ontology's labels.

It has no word for "not annotated": what a source is silent on is background to it, as for every such detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etl.errors import Failure
from etl.labels.maps import load_ontology
from glip.data import Sample, open_dataset
from glip.experiment.detector import Job, Rows
from glip.experiment.fitting import Fit, best, centred, cornered, device, fit, pixels
from glip.experiment.protocol import DetrModel, updates
from glip.predict import annotated
from glip.train import BUNDLED, label_names


@dataclass(frozen=True, slots=True)
class RtDetr:
    """A pretrained RT-DETR with a new head for our labels, or a small one from scratch."""

    model: DetrModel

    def train(self, job: Job) -> None:
        """The model in `model/`, as `from_pretrained` reads it."""
        labels = label_names(load_ontology(BUNDLED / "label_maps"))
        torch.manual_seed(job.seed)
        model = _loaded(self.model.weights, labels) if self.model.weights else _small(labels)
        if job.training is not None:
            source = open_dataset(job.training.folder, "train", labels=labels)
            number = {name: n for n, name in enumerate(labels)}

            def loss(samples: Sequence[Sample], _: np.random.Generator) -> Tensor:
                images = torch.stack([pixels(s.image, self.model.side, self.model.side) for s in samples])
                wanted = []
                for s in samples:
                    classes = torch.tensor([number[r.label] for r in s.regions], dtype=torch.long)
                    wanted.append({"class_labels": classes.to(device()), "boxes": centred(s).to(device())})
                value: Tensor = model(pixel_values=images.to(device()), labels=wanted).loss
                return value

            checkpoint = job.weights / "last.pt"
            settings = Fit(updates(self.model, len(source.rows)), self.model.batch, self.model.lr, job.seed)
            fit(model, source, loss, settings, checkpoint)
            checkpoint.unlink(missing_ok=True)
        model.save_pretrained(job.weights)

    @torch.no_grad()
    def predict(self, job: Job, test: str) -> Rows:
        """The best 100 of all queries and all labels that an image is asked for."""
        labels = label_names(load_ontology(BUNDLED / "label_maps"))
        model = _loaded(str(job.weights), labels).eval().to(device())
        source = open_dataset(job.tests[test].folder, "test", labels=labels)
        number = {name: n for n, name in enumerate(labels)}
        rows: Rows = []
        for n in range(len(source.rows)):
            sample = source.read(n)
            asked = torch.tensor([number[name] for name in annotated(sample)])
            image = pixels(sample.image, self.model.side, self.model.side)[None]
            outputs = model(pixel_values=image.to(device()))
            score, query, place = best(outputs.logits[0].cpu().sigmoid()[:, asked])
            found = cornered(outputs.pred_boxes[0].cpu()[query], sample)
            for s, box, label in zip(score.tolist(), found.tolist(), asked[place].tolist(), strict=True):
                rows.append({"image_id": sample.image_id, "category_id": label + 1, "bbox": box, "score": s})
        return rows


def _loaded(weights: str, labels: Sequence[str]) -> Any:
    """A model of a folder or the hub, with a head of our labels: its own one is taken if it has as many."""
    from transformers import RTDetrForObjectDetection

    names = dict(enumerate(labels))
    try:
        return RTDetrForObjectDetection.from_pretrained(
            weights, id2label=names, label2id={v: k for k, v in names.items()}, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError) as error:
        raise Failure(f"no RT-DETR '{weights}': it is no folder here and the hub gave none "
                      f"({type(error).__name__})") from error  # fmt: skip


def _small(labels: Sequence[str]) -> Any:
    """0.7 M parameters, random."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], layer_type="bottleneck",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return RTDetrForObjectDetection(RTDetrConfig(
        backbone_config=backbone, freeze_backbone_batch_norms=False, encoder_in_channels=[64, 128, 256],
        encoder_hidden_dim=64, encoder_ffn_dim=128, encoder_attention_heads=4, hidden_expansion=0.5, d_model=64,
        decoder_in_channels=[64, 64, 64], decoder_ffn_dim=128, decoder_layers=2, decoder_attention_heads=4,
        num_queries=50, num_denoising=20, id2label=dict(enumerate(labels)),
        label2id={name: n for n, name in enumerate(labels)},
    ))  # fmt: skip
