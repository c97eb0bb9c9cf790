"""What `export` writes: records, COCO, grounding, shards, statistics, the card."""
