"""A folder of raw files as its manifest sees it: cases, splits, checks, and a manifest proposed."""
