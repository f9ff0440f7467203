"""Placing: where shapes lie on their image: from the file's coordinates to pixels (x right, y down, corner 0, 0).

Which coordinates a file has is never guessed from their values:

    the file names a CRS (GIS files, `crs` in GeoJSON)  -> that CRS; the image needs one too
    it is QuPath's                                      -> pixels of the source's finest level
    other GeoJSON, over an image with a CRS             -> longitude and latitude (RFC 7946)
    other GeoJSON, over an image without                -> pixels of the source's finest level
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import rasterio.warp
import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.transform import Affine, array_bounds

from segcore.errors import SourceError
from segcore.sources import SourceInfo
from segcore.targets.shapes import Geometries, Shapes

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top; of pixels: smallest x, smallest y, largest x, largest y."""
Points = npt.NDArray[np.float64]

LON_LAT = CRS.from_epsg(4326)
LONGEST_EDGE_PX = 64
"""Longer edges get points in between before they are reprojected: a straight line is bent in another CRS."""
POLYGON, MULTI_POINT, MULTI_POLYGON = 3, 4, 6
"""Shapely's type ids."""
ROUNDING_PX = 1e-3
"""A shape that reaches less than this over the image's border is not cut by it."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Shapes in pixels of their image."""

    areas: Geometries
    """(N,), one per feature: a valid polygon or several, empty where nothing of it is near the image."""
    notes: tuple[str, ...]


def place(shapes: Shapes, image: SourceInfo, buffer: float) -> Placed:
    """Bring the shapes of a file to the pixels of their image.

    Args:
        shapes: the file.
        image: its size, spacing and georeference.
        buffer: by how much lines and points are widened on every side, in the image's spacing unit (px without).

    Raises:
        SourceError: if file and image do not tell how they lie to each other, if they do not meet, or if there are
            lines or points and `buffer` is 0.
    """
    crs, notes = _crs_of(shapes, image)
    geometries, num_mended = _mended(shapes.geometries)
    if crs is not None:
        _check_meeting(shapes, crs, image)
        geometries, _ = _mended(_to_pixels(shapes.uri, geometries, crs, image))
    elif "resampled" in image.details:
        geometries = np.asarray(shapely.transform(geometries, lambda at: at / _step(shapes.uri, image)), dtype=object)
    areas = _areas(shapes.uri, geometries, buffer, image)
    is_empty = shapely.is_empty(shapes.geometries)
    if not is_empty.all():
        _check_overlap(shapes, shapely.total_bounds(areas), crs, image)
    height, width = image.shape[-2:]
    is_outside = ~is_empty & ~shapely.intersects(areas, shapely.box(0, 0, width, height))
    sides = shapely.bounds(areas)
    is_over = (sides[:, :2] < -ROUNDING_PX).any(axis=1) | (sides[:, 2:] > np.add((width, height), ROUNDING_PX)).any(1)
    counted = (
        (int(is_empty.sum()), "features without a geometry"),
        (num_mended, "invalid geometries (edges that cross), mended"),
        (int(is_outside.sum()), "features outside the image"),
        (int((is_over & ~is_outside).sum()), "features cut by the image's border"),
    )
    if not shapes.num_features:
        notes = (*notes, "the file has no features: nothing in this image is an object")
    return Placed(areas, (*shapes.notes, *notes, *(f"{count} {text}" for count, text in counted if count)))


def _crs_of(shapes: Shapes, image: SourceInfo) -> tuple[CRS | None, tuple[str, ...]]:
    """The CRS of the file's coordinates, None = they are pixels; and what was concluded rather than told."""
    image_crs = _image_crs(image)
    if shapes.crs is not None:
        if image_crs is None:
            raise SourceError(
                f"{shapes.uri}: its coordinates are in {_short(shapes.crs)}, but the image {image.uri} has no CRS to "
                "place them by; give the georeferenced image, or shapes in pixels"
            )
        return _parsed(shapes.crs, shapes.uri), ()
    if shapes.format == "qupath" or (shapes.format == "geojson" and image_crs is None):
        return None, ()
    if shapes.format == "geojson":
        return LON_LAT, ("coordinates taken as longitude and latitude, as GeoJSON has them where it names no CRS",)
    if image_crs is None:
        return None, ("coordinates taken as pixels: neither the file nor the image names a CRS",)
    raise SourceError(f"{shapes.uri}: names no CRS, but the image {image.uri} has one; save it with its CRS")


def _image_crs(image: SourceInfo) -> CRS | None:
    georef = image.georef
    if georef is None or (georef.crs_wkt is None and georef.epsg is None):
        return None
    return CRS.from_wkt(georef.crs_wkt) if georef.crs_wkt is not None else CRS.from_epsg(georef.epsg)


def _parsed(text: str, uri: str) -> CRS:
    """A CRS from a code, a URN or WKT; nothing else, for GDAL would also take a file or a URL.

    x is always the easting or the longitude, as every GeoJSON in use has it.
    """
    code = re.fullmatch(r"(?:urn:(?:x-)?ogc:def:crs:)?(EPSG|ESRI|OGC):(?:[\d.]*:)?(\w+)", text.strip(), re.IGNORECASE)
    try:
        if code is None:
            return CRS.from_wkt(text)
        authority, number = code[1].upper(), code[2].upper()
        return LON_LAT if number == "CRS84" else CRS.from_authority(authority, number)
    except CRSError as error:
        raise SourceError(
            f"{uri}: its CRS cannot be understood ({_short(text)}); expected e.g. urn:ogc:def:crs:EPSG::32616"
        ) from error


def _short(crs: str) -> str:
    """The name of a CRS for a person."""
    named = re.match(r'\w+\["([^"]*)"', crs)
    return named[1] if named else crs[:80]


def _mended(geometries: Geometries) -> tuple[Geometries, int]:
    """Valid geometries, and how many of them were not: rings that cross themselves, parts that overlap."""
    invalid = ~shapely.is_valid(geometries)
    mended = geometries.copy()
    mended[invalid] = shapely.make_valid(geometries[invalid], method="structure", keep_collapsed=False)
    return mended, int(invalid.sum())


def _to_pixels(uri: str, geometries: Geometries, crs: CRS, image: SourceInfo) -> Geometries:
    """Reproject to the image's CRS, then to pixels; of shapes that reach far beyond the image, what lies near it."""
    assert image.georef is not None
    to_pixel = ~Affine(*image.georef.transform)
    image_crs = _image_crs(image)
    if crs != image_crs:
        left, bottom, right, top = _bounds_in(crs, image)
        height, width = image.shape[-2:]
        if left < right:  # else it lies across the meridian of 180 degrees
            near = (left * 2 - right, bottom * 2 - top, right * 2 - left, top * 2 - bottom)
            sides = shapely.bounds(geometries)
            far = (sides[:, :2] < near[:2]).any(axis=1) | (sides[:, 2:] > near[2:]).any(axis=1)
            geometries = geometries.copy()
            geometries[far] = shapely.intersection(geometries[far], shapely.box(*near))
        longest = LONGEST_EDGE_PX * min((top - bottom) / height, (right - left) / width if left < right else np.inf)
        geometries = np.asarray(shapely.segmentize(geometries, longest), dtype=object)

    def placed(points: Points) -> Points:
        x, y = points[:, 0], points[:, 1]
        if crs != image_crs and len(points):
            x, y = (np.asarray(line) for line in _warped(uri, crs, image_crs, x, y))
        a, b, c, d, e, f = to_pixel[:6]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    return np.asarray(shapely.transform(geometries, placed), dtype=object)


def _warped(uri: str, crs: CRS, other: CRS | None, x: Points, y: Points) -> tuple[Points, Points]:
    found = rasterio.warp.transform(crs, other, x, y)
    warped = np.asarray(found[0]), np.asarray(found[1])
    if not np.isfinite(warped).all():
        raise SourceError(f"{uri}: some coordinates have no place in the image's CRS; cut the shapes to the image")
    return warped


def _bounds_in(crs: CRS, image: SourceInfo) -> Bounds:
    """Where the image lies, in another CRS."""
    assert image.georef is not None
    height, width = image.shape[-2:]
    own = array_bounds(height, width, Affine(*image.georef.transform))
    left, bottom, right, top = rasterio.warp.transform_bounds(_image_crs(image), crs, *own)
    return left, bottom, right, top


def _step(uri: str, image: SourceInfo) -> Points:
    """How many pixels of the source (x, y) one of the resampled image spans."""
    step = image.details["resampled"].get("step")
    if step is None:
        raise SourceError(
            f"{uri}: its coordinates are pixels of the source, but the image {image.uri} is resampled; ingest it at "
            "its own spacing (without --spacing)"
        )
    return np.array([step[1], step[0]], dtype=np.float64)


def _areas(uri: str, geometries: Geometries, buffer: float, image: SourceInfo) -> Geometries:
    """Polygons as they are, lines and points widened."""
    kinds = shapely.get_type_id(geometries)
    thin = ~np.isin(kinds, (POLYGON, MULTI_POLYGON)) & ~shapely.is_empty(geometries)
    areas = geometries.copy()
    areas[shapely.is_empty(geometries)] = shapely.Polygon()
    spacing = image.spacing.values if image.spacing else {}
    unit = image.spacing.unit if image.spacing else "px"
    scale = np.array([spacing.get("x", 1.0), spacing.get("y", 1.0)])
    num_thin = 0
    for index in np.flatnonzero(thin):
        parts = _flat(geometries[index])
        areal = [part for part in parts if part.geom_type == "Polygon"]
        rest = [part for part in parts if part.geom_type != "Polygon" and not part.is_empty]
        num_thin += bool(rest)
        if rest and buffer > 0:
            wide = shapely.transform(shapely.GeometryCollection(rest), lambda points: points * scale).buffer(buffer)
            areal.append(shapely.transform(wide, lambda points: points / scale))
        areas[index] = shapely.union_all(areal) if areal else shapely.Polygon()
    if num_thin and not buffer > 0:
        raise SourceError(
            f"{uri}: {num_thin} features are lines or points, which cover no pixel; give --buffer, by how much they "
            f"are widened on every side, in {unit}"
        )
    return areas


def _flat(geometry: shapely.Geometry) -> list[shapely.Geometry]:
    """The single polygons, lines and points in a geometry."""
    if shapely.get_type_id(geometry) < MULTI_POINT:
        return [geometry]
    return [single for part in shapely.get_parts(geometry) for single in _flat(part)]


def _check_meeting(shapes: Shapes, crs: CRS, image: SourceInfo) -> None:
    """Refuse shapes that lie elsewhere on earth, before they are brought to where they have no place."""
    bounds = shapely.total_bounds(shapes.geometries)
    if np.isnan(bounds).any():
        return
    if crs.is_geographic and not -90 <= bounds[1] <= bounds[3] <= 90:
        raise SourceError(
            f"{shapes.uri}: its coordinates run from y = {bounds[1]:.9g} to {bounds[3]:.9g}, which are no latitudes; "
            f"{_hint(shapes)}"
        )
    left, bottom, right, top = here = _bounds_in(crs, image)
    is_beside = left < right and (bounds[0] > right or bounds[2] < left)
    if not is_beside and bounds[1] <= top and bounds[3] >= bottom:
        return
    image_crs = _image_crs(image)
    try:
        there = np.array(rasterio.warp.transform_bounds(crs, image_crs, *bounds))
    except Exception:  # noqa: BLE001 - PROJ's own errors: so far away, the image's CRS may have no coordinates
        there = np.full(4, np.nan)
    if np.isfinite(there).all() and image_crs is not None:
        raise _no_overlap(shapes, there, _bounds_in(image_crs, image), image_crs.to_string(), image)
    raise _no_overlap(shapes, bounds, here, crs.to_string(), image)


def _check_overlap(shapes: Shapes, bounds: Points, crs: CRS | None, image: SourceInfo) -> None:
    """Refuse shapes of which none touches the image, given their bounds in pixels."""
    height, width = image.shape[-2:]
    if bounds[0] < width and bounds[1] < height and bounds[2] > 0 and bounds[3] > 0:
        return
    image_crs = _image_crs(image)
    if crs is None or image_crs is None or image.georef is None or np.isnan(bounds).any():
        raise _no_overlap(shapes, bounds, (0, 0, width, height), "pixels", image)
    to_crs = Affine(*image.georef.transform)
    corners = np.array([to_crs * (x, y) for x in bounds[::2] for y in bounds[1::2]])
    there = (*corners.min(axis=0), *corners.max(axis=0))
    raise _no_overlap(shapes, there, _bounds_in(image_crs, image), image_crs.to_string(), image)


def _no_overlap(
    shapes: Shapes, there: Sequence[float] | Points, here: Sequence[float], name: str, image: SourceInfo
) -> SourceError:
    """The error that names both extents, in coordinates of this name."""

    def said(sides: Sequence[float] | Points) -> str:
        return f"x {sides[0]:.9g} to {sides[2]:.9g}, y {sides[1]:.9g} to {sides[3]:.9g}"

    return SourceError(
        f"{shapes.uri}: no shape touches the image {image.uri}: they lie at {said(there)}, the image at {said(here)} "
        f"({_short(name)}); {_hint(shapes)}"
    )


def _hint(shapes: Shapes) -> str:
    """What to do about shapes that lie wrong."""
    if shapes.format == "geojson" and shapes.crs is None:
        return "it names no CRS, so that they count as longitude and latitude: name another in its member 'crs'"
    return "give the shapes of this image, or mend the CRS that the file names"
