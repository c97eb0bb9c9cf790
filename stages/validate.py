"""validate: every region has a value that the manifest defines."""

import pandas as pd

from etl.frames import reject


def process(regions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(regions with a defined label, quarantine rows of the others)."""
    unknown = regions[~regions["defined"]]
    detail = "value " + unknown["raw_label"] + " is not among the labels of the manifest"
    return regions[regions["defined"]], reject(unknown, "validate", "undefined_label", detail)
