"""bbox: region -> box [x, y, width, height], area share and phrase."""

import pandas as pd

from etl.frames import image_area


def process(regions: pd.DataFrame) -> pd.DataFrame:
    """Regions with `area_fraction` and `phrase`; the box columns x, y, w, h were measured with the mask."""
    return regions.assign(area_fraction=regions["area"] / image_area(regions), phrase=regions["label"])
