"""filter: regions under the least share of the image area go to quarantine."""

import pyarrow as pa
import pyarrow.compute as pc

from etl.frames import reject


def process(regions: pa.Table, min_area: float) -> tuple[pa.Table, pa.Table]:
    """(regions with area >= min_area * width * height in float64, quarantine rows of the others)."""
    width, height = (regions[side].cast(pa.float64()) for side in ("width", "height"))
    least = pc.multiply(pc.multiply(min_area, width), height)  # in this order, as etl.pixels.regions.least_area
    large = pc.greater_equal(regions["area"].cast(pa.float64()), least)
    small = regions.filter(pc.invert(large))
    return regions.filter(large), reject(small, "filter", "too_small", f"under {min_area:g} of the image area")
