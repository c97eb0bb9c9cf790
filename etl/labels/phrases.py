"""The names under which a label may be asked for."""

from etl.labels.maps import Ontology
from etl.labels.text import normal


def phrases(ontology: Ontology) -> dict[str, tuple[str, ...]]:
    """Label → its phrases: first the canonical one, which the dataset's `phrase` holds, then its synonyms.

    No phrase stands under two labels (`labels lint` sees to that), so a phrase drawn in training names one label.
    """
    return {label.name: label.names for label in ontology.labels.values()}


def by_name(ontology: Ontology) -> dict[str, str]:
    """Name or synonym in its normal spelling (`etl.labels.text.normal`) → label."""
    return {normal(name): label.name for label in ontology.labels.values() for name in label.names}
