"""What the tests of experiments share."""

from typing import Any

from etl.cli.common import BUNDLED
from etl.labels.maps import load_ontology
from glip.experiment.protocol import Study

_BY_ID = {label.id: name for name, label in load_ontology(BUNDLED / "label_maps").labels.items()}
LABELS = tuple(_BY_ID[number] for number in sorted(_BY_ID))


def study(**changes: Any) -> Study:
    """A study of two sources, with these changes."""
    given = {"train": ("drawn_ct", "drawn_xray"), "tests": {"a": {"sources": ("drawn_ct",)}}}
    return Study.model_validate({**given, "models": {"m": ("10 %",)}, **changes})
