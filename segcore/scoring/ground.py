"""Ground: the true area of pixels whose sides are degrees.

On the ellipsoid of the CRS, between two meridians and two parallels (Snyder, "Map projections: a working manual", USGS
1987, eq. 3-12): the area is exact, and the same as in an equal-area projection.
"""

import math
import re

import numpy as np
import numpy.typing as npt
from rasterio.errors import CRSError

from segcore.scoring.areas import crs_of
from segcore.spatial import Georef

Floats = npt.NDArray[np.float64]


def row_areas(georef: Georef | None, start: int, count: int) -> Floats | None:
    """(count,): m^2 of a pixel of each row, from row `start` on.

    Args:
        georef: of the level that is measured.
        start: the first row.
        count: of rows.

    Returns:
        None where pixels are no degrees, or the image is turned against the meridians.
    """
    if georef is None:
        return None
    a, b, _, d, e, f = georef.transform
    ellipsoid = _ellipsoid(georef)
    if ellipsoid is None or b or d:
        return None
    axis, flattening, radians = ellipsoid
    edges = np.clip((f + e * np.arange(start, start + count + 1)) * radians, -math.pi / 2, math.pi / 2)
    zones = _zone(np.sin(edges), flattening) * axis**2 / 2
    return np.asarray(np.abs(np.diff(zones)) * abs(a) * radians)


def _zone(sine: Floats, flattening: float) -> Floats:
    """Area from the equator to a parallel over one radian, in halves of the squared great axis."""
    square = flattening * (2 - flattening)
    if square == 0:
        return 2 * sine
    e = math.sqrt(square)
    return np.asarray((1 - square) * (sine / (1 - square * sine**2) + np.arctanh(e * sine) / e))


def _ellipsoid(georef: Georef) -> tuple[float, float, float] | None:
    """Great axis in m, flattening, and radians in a unit of the CRS; None where that is no geographic one."""
    try:
        crs = crs_of(georef)
        if crs is None or not crs.is_geographic:
            return None
        found = re.search(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([0-9.eE+]+),\s*([0-9.eE+]+)', crs.to_wkt())
        if found is None:
            return None
        inverse = float(found[2])
        return float(found[1]), 1 / inverse if inverse else 0.0, float(crs.units_factor[1])
    except CRSError:
        return None
