"""A small local embedding model (WordLlama, whose weights are in its package): likeness of names by meaning."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.labels import text as label_text
from etl.labels.maps import Ontology
from etl.labels.match import Context

NAME = "wordllama"


def installed() -> bool:
    """Whether `pip install 'medglip-etl[labels]'` was done."""
    return importlib.util.find_spec(NAME) is not None


class Embedder:
    """The names of all labels as unit vectors; `rank` orders the labels by cosine."""

    def __init__(self, ontology: Ontology) -> None:
        level = logging.getLogger().level
        import wordllama

        logging.getLogger().setLevel(level)  # the package turns on INFO for everybody
        inside = Path(wordllama.__file__).parent  # weights and tokenizer lie in the package; nothing is downloaded
        self.model: Any = wordllama.WordLlama.load(cache_dir=inside, disable_download=True)
        named = [(label.name, n) for label in ontology.labels.values() for n in label.names]
        self.labels = [label for label, _ in named]
        self.ontology = ontology
        self.vectors = self._embed([name for _, name in named])

    def _embed(self, names: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.asarray(self.model.embed([" ".join(label_text.words(n)) for n in names]), dtype=np.float32)
        length: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
        return np.divide(vectors, np.maximum(length, np.float32(1e-9)), dtype=np.float32)

    def rank(self, raw: str, about: Context) -> list[tuple[str, float]]:
        """(label, cosine), best first; labels of the other side are left out."""
        told = label_text.side(label_text.words(raw))
        cosines = self.vectors @ self._embed([raw])[0]
        best: dict[str, float] = {}
        for label, cosine in zip(self.labels, cosines.tolist(), strict=True):
            if told is None or self.ontology.labels[label].laterality in ("none", told):
                best[label] = max(best.get(label, -1.0), cosine)
        return sorted(best.items(), key=lambda s: (-s[1], s[0]))
