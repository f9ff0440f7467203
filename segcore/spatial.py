"""Spatial: where an image lies in the world; read from the source, kept in the store, written on export."""

from pydantic import BaseModel, ConfigDict

METERS_PER_UNIT = {
    "nanometer": 1e-9,
    "micrometer": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
    "meter": 1.0,
    "kilometer": 1e3,
    "inch": 0.0254,
    "foot": 0.3048,
}
"""NGFF units that are lengths; an angle (degree) is none."""


class Spacing(BaseModel):
    """Physical size of a pixel, per spatial axis."""

    model_config = ConfigDict(frozen=True)

    values: dict[str, float]
    """Axis name ("z", "y", "x") -> size in `unit`."""
    unit: str
    """An NGFF unit: "micrometer", "millimeter", "meter", "degree"..."""
    origin: str
    """Where it came from: "file", "user"..., shown to the user."""


class Georef(BaseModel):
    """Coordinate reference system and affine transform of level 0."""

    model_config = ConfigDict(frozen=True)

    crs_wkt: str | None
    """The CRS as WKT 2, whole: not every CRS has an EPSG code."""
    epsg: int | None
    transform: tuple[float, float, float, float, float, float]
    """a, b, c, d, e, f with x = a col + b row + c, y = d col + e row + f; pixel corners, as in rasterio."""
