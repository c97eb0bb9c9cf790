"""validate: every region has a value that the manifest defines."""

import pyarrow as pa
import pyarrow.compute as pc

from etl.frames import reject


def process(regions: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(regions with a defined label, quarantine rows of the others)."""
    unknown = regions.filter(pc.invert(regions["defined"]))
    value = unknown["raw_label"].cast(pa.string())
    detail = pc.binary_join_element_wise("value ", value, " is not among the labels of the manifest", "")
    return regions.filter(regions["defined"]), reject(unknown, "validate", "undefined_label", detail)
