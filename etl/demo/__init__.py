"""A small dataset with known boxes, drawn from nothing, in the formats of public sources."""
