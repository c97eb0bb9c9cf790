"""A tiny raw folder drawn from a manifest alone, and the regions to be found in it."""
