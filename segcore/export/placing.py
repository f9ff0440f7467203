"""Placing: outlines in pixels of a mask -> *coordinates of a file*: pixels of the image, its CRS, or degrees."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import rasterio.warp
import shapely
from rasterio.crs import CRS
from rasterio.transform import Affine

from segcore.errors import StoreError
from segcore.export.geotiff import georeference
from segcore.export.simplify import Polygons
from segcore.store import Image, Label

LONGEST_EDGE_PX = 256
"""Longer edges get points in between before they are reprojected: a straight line is bent in another CRS."""
LONGEST_EDGE_M = 5e6
"""The same, of pixels as large as countries: an edge that went half around the earth would seem to go the other way."""
LON_LAT = CRS.from_epsg(4326)
TURN = 360.0
ANTIMERIDIAN = TURN / 2
DIGITS = 9
"""Of degrees: a tenth of a millimetre."""

Points = npt.NDArray[np.float64]
"""(N, 2), x before y."""
Target = Literal["pixels", "crs", "degrees"]


@dataclass(frozen=True)
class Placing:
    """How the outlines of one mask come into a file."""

    move: Callable[[Points], Points]
    """From pixels of the mask to coordinates of the file."""
    crs: CRS | None
    """Of the file; None for pixels of the image's level 0."""
    target: Target
    longest_px: float | None
    """Longer edges get points in between, for they are bent in the file; None = a straight edge stays straight."""

    def placed(self, polygons: Polygons, is_split: bool = False) -> Polygons:
        """Polygons in the file's coordinates, their outer rings counterclockwise as x and y are drawn (RFC 7946).

        In degrees, what crosses the antimeridian is cut there, and becomes a multipolygon; what lies beyond it, as in
        an image from 0 to 360, is moved to where RFC 7946 has it.

        Args:
            polygons: in pixels of the mask.
            is_split: whether long edges have points in between already.
        """
        split = polygons if is_split or self.longest_px is None else shapely.segmentize(polygons, self.longest_px)
        moved = shapely.transform(split, self.move)
        if self.target == "degrees":
            moved = _cut(moved, jumps=self.longest_px is not None)
        oriented: Polygons = shapely.orient_polygons(moved)
        return oriented


def placing(image: Image, mask: Label, target: Target) -> Placing:
    """How the outlines of a mask are placed.

    Raises:
        StoreError: if the CRS cannot be understood, or there is none and it was asked for.
    """
    where = f"image {image.image_id}"
    found = georeference(image.georef, where)
    factor, corner = 2**mask.base_level, np.array(image.shape()[:-3:-1], np.float64)

    def in_image(points: Points) -> Points:
        """In pixels of level 0; a last pixel of a coarser mask may reach beyond the image."""
        return np.asarray(np.minimum(points * factor, corner))

    if target == "pixels":
        return Placing(in_image, None, target, None)
    crs: CRS | None = found.get("crs")
    if crs is None:
        raise StoreError(f"{where}: has no CRS to write coordinates in; leave `coordinates` at auto")
    transform: Affine = found["transform"]

    def in_crs(points: Points) -> Points:
        a, b, c, d, e, f = transform[:6]
        x, y = in_image(points).T
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    if target == "crs":
        return Placing(in_crs, crs, target, None)

    def in_degrees(points: Points) -> Points:
        x, y = in_crs(points).T
        longitude, latitude = map(np.asarray, rasterio.warp.transform(crs, LON_LAT, x, y)[:2])
        if crs.is_geographic:  # stays on the side of the antimeridian on which it is in the image
            longitude = longitude + TURN * np.round((x - longitude) / TURN)
        return np.round(np.stack([longitude, latitude], axis=1), DIGITS)

    if crs.is_geographic:
        return Placing(in_degrees, LON_LAT, target, None)
    side_m = factor * math.hypot(transform.a, transform.d) * crs.linear_units_factor[1]
    return Placing(in_degrees, LON_LAT, target, min(LONGEST_EDGE_PX, LONGEST_EDGE_M / side_m))


def has_crs(image: Image) -> bool:
    """Whether it is known where on earth an image lies.

    Raises:
        StoreError: if the CRS cannot be understood.
    """
    return "crs" in georeference(image.georef, f"image {image.image_id}")


def _cut(polygons: Polygons, jumps: bool) -> Polygons:
    """Polygons in degrees, between the antimeridian and itself.

    Args:
        polygons: whose longitudes may lie beyond it.
        jumps: whether they begin anew there instead, in the middle of a polygon.
    """
    x0, _, x1, _ = shapely.bounds(polygons).T
    if jumps:
        for index in np.flatnonzero(x1 - x0 > ANTIMERIDIAN):
            polygons[index] = _unrolled(polygons[index])
        x0, _, x1, _ = shapely.bounds(polygons).T
    for index in np.flatnonzero((x0 < -ANTIMERIDIAN) | (x1 > ANTIMERIDIAN)):
        polygons[index] = _parted(polygons[index])
    return polygons


def _unrolled(polygon: shapely.Polygon) -> shapely.Polygon:
    """Without jumps: no edge is as long as half the earth. One around a pole has no such form, and stays as it is."""
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    for ring in rings:
        ring[:, 0] = np.round(np.unwrap(ring[:, 0], period=TURN), DIGITS)
    if any(abs(ring[0, 0] - ring[-1, 0]) > ANTIMERIDIAN for ring in rings):
        return polygon
    outer, *holes = rings
    for hole in holes:
        hole[:, 0] += TURN * np.round((np.ptp(outer[:, 0]) / 2 + outer[:, 0].min() - hole[:, 0].mean()) / TURN)
    return shapely.Polygon(outer, holes)


def _parted(polygon: shapely.Polygon) -> shapely.Polygon | shapely.MultiPolygon:
    """Cut at every antimeridian, each part moved into the degrees that there are."""
    west, _, east, _ = polygon.bounds
    parts: list[shapely.Polygon] = []
    for turn in range(round(west / TURN), round(east / TURN) + 1):
        start = TURN * turn - ANTIMERIDIAN
        inside = shapely.intersection(polygon, shapely.box(start, -90, start + TURN, 90))
        shift = np.array([TURN * turn, 0.0])
        parts += _parts(shapely.transform(inside, lambda points, shift=shift: np.round(points - shift, DIGITS)))
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _parts(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon"]
