"""Areas and lengths: pixels -> *physical units*, where the size of a pixel is known."""

import math

from rasterio.crs import CRS
from rasterio.errors import CRSError

from segcore.spatial import METERS_PER_UNIT, Georef, Spacing

SMALL_UNITS = {"um2": 1e-12, "mm2": 1e-6}
LARGE_UNITS = {"m2": 1.0, "ha": 1e4}
VOLUME_UNITS = {"mm3": 1e-9, "ml": 1e-6}

UNIT_LABELS = {"um2": "µm²", "mm2": "mm²", "m2": "m²", "ha": "ha", "mm3": "mm³", "ml": "ml"}
"""How the units of areas and volumes are written for people."""

LENGTH_UNITS = {"um": 1e-6, "mm": 1e-3, "m": 1.0, "px": 1.0}
"""Those of distances, in metres; where the size of a pixel is not known, a distance is in "px"."""

LENGTH_LABELS = {"um": "µm", "mm": "mm", "m": "m", "px": "px"}
"""How they are written for people."""


def pixel_size(axes: tuple[str, ...], spacing: Spacing | None, georef: Georef | None) -> dict[str, float]:
    """The area (or, with a z axis, the volume) of one pixel in every unit that suits it; {} if not known.

    A georeference in a projected CRS comes first: its transform may be rotated. Areas are those of the map's
    plane. Degrees have no fixed length, so they give no area; pixels of a time series do not add up to one.

    Args:
        axes: of the mask, e.g. ("y", "x").
        spacing: of level 0.
        georef: of level 0.
    """
    if "t" in axes:
        return {}
    if georef is not None and "z" not in axes:
        meters = _meters_per_crs_unit(georef)
        if meters is not None:
            a, b, _, d, e, _ = georef.transform
            return _in_units(abs(a * e - b * d) * meters**2, LARGE_UNITS)
    if spacing is None or spacing.unit not in METERS_PER_UNIT or any(axis not in spacing.values for axis in axes):
        return {}
    meters = METERS_PER_UNIT[spacing.unit]
    size = 1.0
    for axis in axes:
        size *= spacing.values[axis] * meters
    if "z" in axes:
        return _in_units(size, VOLUME_UNITS)
    return _in_units(size, SMALL_UNITS if meters < 1e-1 else LARGE_UNITS)


def pixel_sides(axes: tuple[str, ...], spacing: Spacing | None, georef: Georef | None) -> tuple[tuple[float, ...], str]:
    """The sides of a pixel along each axis, in the unit that goes with them; of 1 "px" where they are not known.

    The same rules as for areas; but the unit is near the one that the spacing is given in, and a time series is
    measured in each of its planes: its t has the side 0.

    Args:
        axes: of the mask.
        spacing: of the level that is measured.
        georef: likewise.
    """
    if georef is not None and "z" not in axes and (meters := _meters_per_crs_unit(georef)) is not None:
        a, b, _, d, e, _ = georef.transform
        sides, unit = {"y": math.hypot(b, e) * meters, "x": math.hypot(a, d) * meters}, "m"
    elif spacing is not None and spacing.unit in METERS_PER_UNIT and set(axes) - {"t"} <= set(spacing.values):
        meters = METERS_PER_UNIT[spacing.unit]
        unit = "um" if meters <= 1e-6 else "mm" if meters < 1e-1 else "m"
        sides = {axis: side * meters for axis, side in spacing.values.items()}
    else:
        sides, unit = dict.fromkeys("zyx", LENGTH_UNITS["px"]), "px"
    return tuple(0.0 if axis == "t" else sides[axis] / LENGTH_UNITS[unit] for axis in axes), unit


def unmeasured(spacing: Spacing | None, georef: Georef | None, asked: str, in_px: str) -> str:
    """Why a length or a size means nothing in pixels of which none is known, and what to do; the rest of an error.

    Args:
        spacing: of the image.
        georef: likewise.
        asked: what a user gave, with its unit.
        in_px: how it would be given in px.
    """
    why, instead = "its pixel size is not known", "the pixel size to `segcore ingest --spacing`"
    if (spacing is not None and spacing.unit == "degree") or (georef is not None and _is_geographic(georef)):
        why, instead = (
            "its pixels are measured in degrees, which are no lengths",
            "warp its file to a CRS in metres first",
        )
    return f"{why}, so that {asked} means nothing there; give it in px ({in_px}), or {instead}"


def crs_of(georef: Georef) -> CRS | None:
    """The CRS of a georeference, by its WKT or else its EPSG code; None where it has neither.

    Raises:
        CRSError: if it cannot be understood.
    """
    if georef.crs_wkt is not None:
        return CRS.from_wkt(georef.crs_wkt)
    return None if georef.epsg is None else CRS.from_epsg(georef.epsg)


def _meters_per_crs_unit(georef: Georef) -> float | None:
    """Metres per unit of a projected CRS; None for a geographic or unknown one."""
    try:
        crs = crs_of(georef)
        return float(crs.linear_units_factor[1]) if crs is not None and crs.is_projected else None
    except CRSError:
        return None


def _is_geographic(georef: Georef) -> bool:
    try:
        crs = crs_of(georef)
        return crs is not None and crs.is_geographic
    except CRSError:
        return False


def _in_units(square_meters: float, units: dict[str, float]) -> dict[str, float]:
    return {unit: square_meters / meters for unit, meters in units.items()}
