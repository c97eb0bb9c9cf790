"""The names under which a label may be asked for."""

from etl.labels.maps import Ontology


def phrases(ontology: Ontology) -> dict[str, tuple[str, ...]]:
    """Label → its phrases: first the canonical one, which the dataset's `phrase` holds, then its synonyms.

    No phrase stands under two labels (`labels lint` sees to that), so a phrase drawn in training names one label.
    """
    return {label.name: (label.name, *label.synonyms) for label in ontology.labels.values()}
