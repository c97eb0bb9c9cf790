"""The ontology and the label maps."""

from pathlib import Path

import pytest

from etl.errors import UsageError
from etl.labels.maps import load_label_map, load_ontology

ONTOLOGY = """body_regions: [abdomen]
categories: [{id: 1, name: Abdomen (spleen), body_region: abdomen}]
labels:
  - {id: 1, name: spleen, category: Abdomen (spleen), synonyms: [lien], kind: anatomy, laterality: none}
  - {id: 2, name: splenic lesion, category: Abdomen (spleen), kind: pathology, parent: spleen, codes: {snomed: 0123}}
"""
MAP = "source: toy\nlabels:\n  no: {label: spleen, status: approved, by: x}\n  s: {label: null, status: rejected}\n"


def test_ontology(tmp_path: Path) -> None:
    (tmp_path / "ontology.yaml").write_text(ONTOLOGY)
    found = load_ontology(tmp_path, tmp_path / "none")
    assert found.labels["splenic lesion"].codes == {"snomed": "0123"}
    assert found.categories["Abdomen (spleen)"].id == 1
    assert found.body_regions == ("abdomen",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("parent: spleen", "parent: spleem", r"yaml:5: labels\[1\].parent: 'spleem' is not defined.*'spleen'"),
        ("id: 2", "id: 1", r"yaml:5: labels\[1\].id: 1 is taken on line 4"),
        ("synonyms", "synonym", r"yaml:4: labels\[0\].synonym: unknown key \(did you mean 'synonyms'"),
        ("id: 2", "id: 199", r"labels\[1\].id"),
    ],
)
def test_ontology_messages(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "ontology.yaml").write_text(ONTOLOGY.replace(old, new))
    with pytest.raises(UsageError, match=message):
        load_ontology(tmp_path)


def test_label_map(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    path = tmp_path / "sources" / "toy.yaml"
    path.write_text(MAP)
    found = load_label_map("toy", tmp_path)
    assert found["no"].label == "spleen"
    assert found["s"].label is None
    assert load_label_map("other", tmp_path) == {}
    path.write_text(MAP.replace("label: spleen", "label: null"))
    with pytest.raises(UsageError, match=r"toy.yaml:3: labels.no: 'approved' needs a label"):
        load_label_map("toy", tmp_path)
    path.write_text(MAP.replace("status: approved", "statsu: approved"))
    with pytest.raises(UsageError, match=r"statsu: unknown key \(did you mean 'status'"):
        load_label_map("toy", tmp_path)
