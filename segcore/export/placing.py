"""Placing: outlines in pixels of a mask -> *coordinates of a file*: pixels of the image, its CRS, or degrees."""

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
LON_LAT = CRS.from_epsg(4326)
ANTIMERIDIAN = 180.0

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
    bends: bool
    """Whether a straight edge of the mask is none in the file."""

    def placed(self, polygons: Polygons, longest_px: float | None = LONGEST_EDGE_PX) -> Polygons:
        """Polygons in the file's coordinates, their outer rings counterclockwise as x and y are drawn (RFC 7946).

        In degrees, what crosses the antimeridian is cut there, and becomes a multipolygon.

        Args:
            polygons: in pixels of the mask.
            longest_px: edges that are longer get points in between, where they are bent; None = they stay as they are.
        """
        split = shapely.segmentize(polygons, longest_px) if self.bends and longest_px else polygons
        moved = shapely.transform(split, self.move)
        if self.crs == LON_LAT:
            moved = _cut(moved)
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
        return Placing(in_image, None, False)
    crs: CRS | None = found.get("crs")
    if crs is None:
        raise StoreError(f"{where}: has no CRS to write coordinates in; leave `coordinates` at auto")
    transform: Affine = found["transform"]

    def in_crs(points: Points) -> Points:
        a, b, c, d, e, f = transform[:6]
        x, y = in_image(points).T
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    if target == "crs":
        return Placing(in_crs, crs, False)

    def in_degrees(points: Points) -> Points:
        x, y = in_crs(points).T
        longitude, latitude = rasterio.warp.transform(crs, LON_LAT, x, y)[:2]
        return np.round(np.stack([longitude, latitude], axis=1), 9)

    return Placing(in_degrees, LON_LAT, crs != LON_LAT)


def has_crs(image: Image) -> bool:
    """Whether it is known where on earth an image lies.

    Raises:
        StoreError: if the CRS cannot be understood.
    """
    return "crs" in georeference(image.georef, f"image {image.image_id}")


def _cut(polygons: Polygons) -> Polygons:
    """Polygons in degrees, those cut that cross the antimeridian: their points lie on both sides of it."""
    x0, _, x1, _ = shapely.bounds(polygons).T
    for index in np.flatnonzero(x1 - x0 > ANTIMERIDIAN):
        polygons[index] = _halves(polygons[index])
    return polygons


def _halves(polygon: shapely.Polygon) -> shapely.Polygon | shapely.MultiPolygon:
    whole = shapely.transform(polygon, lambda points: np.where(points[:, :1] < 0, [[360.0, 0.0]], 0.0) + points)
    west = shapely.intersection(whole, shapely.box(0, -90, ANTIMERIDIAN, 90))
    east = shapely.intersection(whole, shapely.box(ANTIMERIDIAN, -90, 360, 90))
    east = shapely.transform(east, lambda points: points - [360.0, 0.0])
    return shapely.MultiPolygon([*_parts(west), *_parts(east)])


def _parts(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon"]
