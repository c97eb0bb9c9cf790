"""The columns of what `slice` commits: regions, encoded images, cases."""

import pyarrow as pa

REGIONS = pa.schema(
    [("case", pa.string()), ("axis", pa.string()), ("slice_index", pa.int32()), ("raw_label", pa.string()),
     ("n", pa.int32()), ("defined", pa.bool_()), ("height", pa.int32()), ("width", pa.int32()), ("x", pa.int32()),
     ("y", pa.int32()), ("w", pa.int32()), ("h", pa.int32()), ("area", pa.int64()), ("rle", pa.binary())]
)
IMAGES = pa.schema(
    [("case", pa.string()), ("axis", pa.string()), ("slice_index", pa.int32()), ("png", pa.binary()),
     ("pixels", pa.binary()), ("coarse", pa.uint64()), ("fine", pa.uint64())]
)
CASES = pa.schema(
    [("key", pa.string()), ("case", pa.string()), ("encode_from", pa.float64()), ("root", pa.string()),
     ("files", pa.list_(pa.string())), ("images", pa.string()), ("rejected", pa.string())]
)
NAMES = ("case", "axis", "raw_label")
"""Columns of names, few of them and often repeated: read dictionary-encoded."""
