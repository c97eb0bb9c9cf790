"""Our GLIP in an experiment: the trainer and the predictions that the commands use too."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from etl.labels.maps import load_ontology
from glip.checkpoint import load_official_experts
from glip.config import size
from glip.data import open_dataset
from glip.experiment.detector import Job, Rows
from glip.experiment.protocol import GlipModel
from glip.experts import BundleInfo, MedGLIP, save_bundle
from glip.ground import Grounder
from glip.predict import annotated, category_ids, predict
from glip.recipe import RunConfig, preset
from glip.text import load_language
from glip.train import BUNDLED, fit, label_names


@dataclass(frozen=True, slots=True)
class Glip:
    """GLIP with one expert a modality; goes on from the last checkpoint of an interrupted training."""

    model: GlipModel

    def train(self, job: Job) -> None:
        """The bundle in `model/bundle`; the checkpoint is removed when it is done."""
        if job.training is None:
            self._untrained(job)
            return
        m = self.model
        config = preset(
            m.preset, steps=m.steps, epochs=m.epochs, batch=m.batch, lr=m.lr, threads=m.threads, seed=job.seed
        )
        checkpoint = job.weights / "last.pt"
        where = RunConfig(job.training.folder, job.weights, m.size, init=m.init, text=m.text,
                          resume=checkpoint.is_file())  # fmt: skip
        fit(where, config)
        checkpoint.unlink(missing_ok=True)

    def _untrained(self, job: Job) -> None:
        torch.manual_seed(job.seed)
        model = MedGLIP(size(self.model.size), job.modalities)
        if self.model.init is not None:
            load_official_experts(model, self.model.init)
        else:
            load_language(model.shared.language_backbone, self.model.text or model.config.text_source)
        info = BundleInfo(text_source=self.model.text or "")
        save_bundle(job.weights / "bundle", model, info)

    def predict(self, job: Job, test: str) -> Rows:
        """As `medglip-etl predict`."""
        ontology = load_ontology(BUNDLED / "label_maps")
        source = open_dataset(job.tests[test].folder, "test", labels=label_names(ontology))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        grounder = Grounder.load(job.weights / "bundle", device=device)
        return predict(grounder, source, category_ids(ontology, "label"), asked=annotated)
