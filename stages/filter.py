"""filter: regions under the least share of the image area go to quarantine."""

import pandas as pd

from etl.frames import image_area, reject


def process(regions: pd.DataFrame, min_area: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(regions with area >= min_area * width * height in float64, quarantine rows of the others)."""
    large = regions["area"].astype("float64") >= min_area * image_area(regions)
    return regions[large], reject(regions[~large], "filter", "too_small", f"under {min_area:g} of the image area")
