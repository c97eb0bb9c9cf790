"""The ontology as columns: row n belongs to the label or category of id n."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from etl.labels.maps import Ontology

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Names by label id, and which label ids (rows) are in which category ids (columns); `anatomy` without pathology.

    Whether any of some labels is in a category is a product of matrices, hence 0 and 1 as float32.
    """

    label: pa.Array
    category: pa.Array
    body_region: pa.Array
    category_id: npt.NDArray[np.int16]
    members: Matrix
    anatomy: Matrix

    @property
    def width(self) -> int:
        """One more than the largest label id."""
        return len(self.category_id)


def label_table(ontology: Ontology) -> LabelTable:
    """The columns of an ontology."""
    width = 1 + max(label.id for label in ontology.labels.values())
    categories = 1 + max(category.id for category in ontology.categories.values())
    names: list[list[str | None]] = [[None] * width for _ in range(3)]
    category_id = np.zeros(width, np.int16)
    members, anatomy = np.zeros((2, width, categories), np.float32)
    for label in ontology.labels.values():
        category = ontology.categories[label.category]
        for column, name in zip(names, (label.name, category.name, category.body_region), strict=True):
            column[label.id] = name
        category_id[label.id] = category.id
        members[label.id, category.id] = 1
        anatomy[label.id, category.id] = label.kind == "anatomy"
    label_names, category_names, body_regions = (pa.array(column, pa.string()) for column in names)
    return LabelTable(label_names, category_names, body_regions, category_id, members, anatomy)
