"""The ontology and the label maps: read, checked, proposed, reviewed, compared."""
