"""Columns: sums -> *measurements*, in pixels and in the units that an image's pixels have.

Axes and orientation are those of the ellipse (or ellipsoid) with the same second moments, as in `skimage.measure`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.measurements.sums import STEPS, Floats, Sums
from segcore.scoring.areas import LARGE_UNITS, pixel_sides, pixel_size
from segcore.scoring.counts import foreground_rows
from segcore.store import Image, Label

Columns = dict[str, npt.NDArray[Any]]
ROUNDING = 1e-9
"""Of moments: what is less than this share of their sum is nothing."""
SAME_SIDES = 0.01
"""Sides that differ by more make no perimeter: its steps have no direction."""


@dataclass(frozen=True)
class Ruler:
    """The pixels of a mask, in physical units."""

    axes: tuple[str, ...]
    """Spatial ones, as the sums have them."""
    sizes: dict[str, float]
    """Area (or volume) of a pixel by unit; {} if not known."""
    sides: tuple[float, ...]
    unit: str
    """Of the sides; "px" if not known."""
    transform: tuple[float, float, float, float, float, float] | None
    """From the corner of a pixel to the CRS."""
    on_ground: bool
    """True if areas are sums of pixels whose size differs (degrees)."""

    @classmethod
    def of(cls, image: Image, mask: Label, on_ground: bool) -> "Ruler":
        """That of a mask's own level."""
        axes, level = tuple(axis for axis in mask.axes if axis != "t"), mask.base_level
        spacing, georef = image.spacing, image.georef
        spacing, georef = spacing and spacing.at_level(level), georef and georef.at_level(level)
        sides, unit = pixel_sides(axes, spacing, georef)
        transform = georef.transform if georef and "z" not in axes else None
        sizes = dict(LARGE_UNITS) if on_ground else pixel_size(axes, spacing, georef)
        return cls(axes, sizes, sides, unit, transform, on_ground)

    @property
    def what(self) -> str:
        """What the sizes are."""
        return "volume" if "z" in self.axes else "area"

    def areas(self, sums: Sums) -> Columns:
        """By unit, with pixels first."""
        found: Columns = {f"{self.what}_px": sums.area}
        for unit, size in self.sizes.items():
            found[f"{self.what}_{unit}"] = sums.ground / size if self.on_ground else sums.area * size
        return found


def columns_of(sums: Sums, ruler: Ruler, mask: Label, bands: tuple[str, ...], channels: tuple[str, ...]) -> Columns:
    """The measurements of some objects, by name.

    Args:
        sums: of the objects.
        ruler: of the mask.
        mask: whose classes they have.
        bands: names of the image's bands.
        channels: classes of the layer of probabilities.
    """
    rows = foreground_rows(mask.classes)
    of_class = np.array(rows)[sums.classes[:, rows].argmax(axis=1)] if len(sums) else np.zeros(0, np.int64)
    names = [info.name for info in mask.classes]
    found: Columns = {"object": sums.id, "class": np.array([names[row] for row in of_class], object)}
    found |= ruler.areas(sums)
    found |= {f"centroid_{axis}_px": sums.mean[:, at] for at, axis in enumerate(ruler.axes)}
    if ruler.transform is not None:
        a, b, c, d, e, f = ruler.transform
        y, x = sums.mean[:, -2] + 0.5, sums.mean[:, -1] + 0.5
        found |= {"centroid_x": a * x + b * y + c, "centroid_y": d * x + e * y + f}
    for at, axis in enumerate(ruler.axes):
        found |= {f"begin_{axis}_px": sums.low[:, at], f"end_{axis}_px": sums.high[:, at]}
    found |= _lengths(sums, ruler)
    known = np.where(sums.known > 0, sums.known, np.nan)
    for band, name in enumerate(bands):
        there = sums.known[:, band] > 0
        found[f"mean_{name}"] = sums.value[:, band] / known[:, band]
        for what, values in (("min", sums.least), ("max", sums.most)):
            found[f"{what}_{name}"] = np.where(there, values[:, band], np.nan)
    if channels:
        found["confidence"] = _confidence(sums, [names[row] for row in of_class], channels)
    return found


def _lengths(sums: Sums, ruler: Ruler) -> Columns:
    covariance = sums.spread / sums.area[:, None, None]
    plain = np.ones(len(ruler.axes))
    found = {f"axis_{which}_px": length for which, length in _axes(covariance, plain).items()}
    if ruler.unit != "px":
        sides = np.array(ruler.sides)
        found |= {f"axis_{which}_{ruler.unit}": length for which, length in _axes(covariance, sides).items()}
    if len(ruler.axes) == 2:
        found["orientation_rad"] = _orientation(covariance)
        found["perimeter_px"] = sums.steps @ STEPS
        least, most = min(ruler.sides), max(ruler.sides)
        if ruler.unit != "px" and most - least <= SAME_SIDES * most:
            found[f"perimeter_{ruler.unit}"] = found["perimeter_px"] * math.sqrt(least * most)
    return found


def _axes(covariance: Floats, sides: Floats) -> dict[str, Floats]:
    """Lengths of the great and the small axis: 4 standard deviations in a plane, sqrt(20) in a volume."""
    values = np.clip(np.linalg.eigvalsh(covariance * sides[:, None] * sides[None, :]), 0, None)
    times = 4.0 if len(sides) == 2 else math.sqrt(20)
    return {"major": times * np.sqrt(values[:, -1]), "minor": times * np.sqrt(values[:, 0])}


def _orientation(covariance: Floats) -> Floats:
    """Angle between the rows' direction (y) and the great axis, from -pi/2 to pi/2."""
    of_y, both, of_x = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    nothing = ROUNDING * (of_y + of_x)
    both = np.where(np.abs(both) <= nothing, 0.0, both)
    is_level = np.abs(of_y - of_x) <= nothing
    return np.where(is_level, np.where(both > 0, math.pi / 4, -math.pi / 4), 0.5 * np.arctan2(2 * both, of_y - of_x))


def _confidence(sums: Sums, classes: list[str], channels: tuple[str, ...]) -> Floats:
    """Mean probability of an object's own class; nan where the layer has none of it."""
    column = np.array([channels.index(name) if name in channels else -1 for name in classes], np.int64)
    summed = np.take_along_axis(sums.sure, np.maximum(column, 0)[:, None], axis=1)[:, 0] if len(sums) else np.zeros(0)
    there = (column >= 0) & (sums.sure_px > 0)
    return np.where(there, summed / np.maximum(sums.sure_px, 1), np.nan)
