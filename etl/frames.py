"""Region tables between the stages: columns, quarantine rows. Pure pandas."""

import pandas as pd

REGION_KEY = ["case", "axis", "slice_index", "raw_label", "n"]
QUARANTINE = ["source", "case", "axis", "slice_index", "raw_label", "stage", "reason", "detail", "area_fraction"]


def image_area(regions: pd.DataFrame) -> pd.Series:
    """width * height of each region's image, in pixels (float64)."""
    return regions["width"].astype("float64") * regions["height"].astype("float64")


def reject(regions: pd.DataFrame, stage: str, reason: "str | pd.Series", detail: "str | pd.Series") -> pd.DataFrame:
    """Quarantine rows for these regions (without `source`)."""
    rows = regions[["case", "axis", "slice_index", "raw_label"]].copy()
    rows["stage"], rows["reason"], rows["detail"] = stage, reason, detail
    rows["area_fraction"] = regions["area"] / image_area(regions)
    return rows
