"""Edges of what users may rely on that no other test comes near."""

from pathlib import Path

from etl.labelmap import Mapping, load_ontology
from stages.records import Naming


def test_a_proposed_entry_makes_no_label_annotated() -> None:
    entries = {"Milz": Mapping(label="spleen", status="proposed"), "liver": Mapping(label="liver", status="approved"),
               "stent": Mapping(label=None, status="rejected")}  # fmt: skip
    ontology = load_ontology(Path(__file__).parent.parent / "label_maps")
    spleen, liver = (ontology.labels[name].id for name in ("spleen", "liver"))
    assert Naming(entries, ontology).used() == {"liver": liver}
    assert Naming(entries, ontology, accept_proposed=True).used() == {"Milz": spleen, "liver": liver}
    assert Naming(entries, ontology).ids() == {"Milz": spleen, "liver": liver}  # its pixels are still not exhaustive
