"""What is written about a source: the manifest's model, its patterns, names and tables."""
