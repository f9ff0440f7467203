"""Spatial: where an image lies in the world; read from the source, kept in the store, written on export."""

import re
from typing import Self

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

UNIT_NAMES = {
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "km": "kilometer",
    "deg": "degree",
} | {name: name for name in (*METERS_PER_UNIT, "degree")}
"""How people write units, and their NGFF names. µ exists twice in Unicode."""


class Spacing(BaseModel):
    """Physical size of a pixel, per spatial axis."""

    model_config = ConfigDict(frozen=True)

    values: dict[str, float]
    """Axis name ("z", "y", "x") -> size in `unit`."""
    unit: str
    """An NGFF unit: "micrometer", "millimeter", "meter", "degree"..."""
    origin: str
    """Where it came from: "file", "user"..., shown to the user."""

    def at_level(self, level: int) -> "Spacing":
        """That of a pixel of a pyramid's level, where this is level 0's; only y and x are halved."""
        values = {axis: size * 2**level if axis in "yx" else size for axis, size in self.values.items()}
        return self.model_copy(update={"values": values})

    @property
    def px_per_cm(self) -> tuple[float, float] | None:
        """Along x and along y, as TIFF has it; None where the unit is no length."""
        if self.unit not in METERS_PER_UNIT or not {"y", "x"} <= self.values.keys():
            return None
        x, y = (0.01 / (self.values[axis] * METERS_PER_UNIT[self.unit]) for axis in "xy")
        return x, y


class WantedSpacing(BaseModel):
    """The spacing that a user asks for: `0.5`, in the source's own unit, or with a unit: `0.5um`, `10m`."""

    model_config = ConfigDict(frozen=True)

    value: float
    unit: str | None
    """An NGFF unit; None = whatever unit the source has."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what was written.

        Raises:
            ValueError: if it is no positive number, or the unit is not known.
        """
        found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµμ]*)\s*", text)
        unit = UNIT_NAMES.get(found[2]) if found else None
        if found is None or (found[2] and unit is None) or found[1].count(".") > 1 or not float(found[1]) > 0:
            raise ValueError(f"expected a spacing such as 0.5, 0.5um or 10m, got '{text}'")
        return cls(value=float(found[1]), unit=unit)


def parse_length(text: str) -> tuple[float, str]:
    """A length that a user asks for: `2px` or `0.5um` -> its value, and "px" or an NGFF unit that is a length.

    Raises:
        ValueError: if it is no positive number with such a unit.
    """
    number = text.strip().removesuffix("px")
    in_px = number != text.strip()
    try:
        wanted = WantedSpacing.parse(number)
        if in_px == (wanted.unit in METERS_PER_UNIT):
            raise ValueError(f"expected one unit, px or a length, got '{wanted.unit}'")
    except ValueError as error:
        raise ValueError(f"expected a length such as 2px, 0.5um or 3m, got '{text}'") from error
    return wanted.value, wanted.unit or "px"


class Affine(BaseModel):
    """Where the voxels of a volume lie in the patient."""

    model_config = ConfigDict(frozen=True)

    matrix: tuple[tuple[float, float, float, float], ...]
    """4 x 4: voxel index (x, y, z, 1), of voxel centres, -> millimetres, RAS+ (x to the right, y to the
    front, z to the head), as in NIfTI. DICOM counts in LPS: x and y change their sign."""
    orientation: str
    """The directions in which x, y and z of the array run, as nibabel writes them: "RAS", "LPS", "PSR"..."""

    def scaled(self, x: float, y: float) -> "Affine":
        """That of a grid whose pixels are so many times as wide and high: index i is (i + 0.5) * factor - 0.5 here."""
        shifts = (x - 1) / 2, (y - 1) / 2
        rows = ((a * x, b * y, c, d + a * shifts[0] + b * shifts[1]) for a, b, c, d in self.matrix)
        return self.model_copy(update={"matrix": tuple(rows)})

    def at_level(self, level: int) -> "Affine":
        """That of a pyramid's level, where this is level 0's."""
        return self.scaled(2**level, 2**level)


class Georef(BaseModel):
    """Coordinate reference system and affine transform of level 0."""

    model_config = ConfigDict(frozen=True)

    crs_wkt: str | None
    """The CRS as WKT 2, whole: not every CRS has an EPSG code."""
    epsg: int | None
    transform: tuple[float, float, float, float, float, float]
    """a, b, c, d, e, f with x = a col + b row + c, y = d col + e row + f; pixel corners, as in rasterio."""

    def at_level(self, level: int) -> "Georef":
        """That of a pyramid's level: its pixels are larger, the corner of the first one stays where it is."""
        a, b, c, d, e, f = self.transform
        factor = 2**level
        return self.model_copy(update={"transform": (a * factor, b * factor, c, d * factor, e * factor, f)})
