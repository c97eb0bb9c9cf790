"""bbox: region -> box [x, y, width, height], area share and phrase."""

import pyarrow as pa

from etl.frames import area_fraction


def process(regions: pa.Table) -> pa.Table:
    """Regions with `area_fraction` and `phrase`; the box columns x, y, w, h were measured with the mask."""
    return regions.append_column("area_fraction", area_fraction(regions)).append_column("phrase", regions["label"])
