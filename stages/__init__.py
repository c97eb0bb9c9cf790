"""The stages, one file each; `pipeline.py` orders them."""

STAGES = ("fetch", "decode", "slice", "validate", "filter", "harmonize", "bbox", "export")
