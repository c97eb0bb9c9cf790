

STAGES = ("fetch", "decode", "slice", "validate", "filter", "harmonize", "bbox", "export")
