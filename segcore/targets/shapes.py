"""Shapes: polygons, lines and points as they stand in their file: GeoJSON here, the others in `geopackage.py`.

file --> Shapes --> placing (pixels) + naming (class ids) --> VectorTarget
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from segcore.errors import SourceError
from segcore.sources import Limits
from segcore.sources.files import SourceFile

Geometries = npt.NDArray[np.object_]
"""Shapely geometries (N,)."""
Format = Literal["geojson", "qupath", "geopackage", "shapefile"]

SQLITE_MAGIC = b"SQLite format 3\0"
SHAPEFILE_MAGIC = b"\x00\x00\x27\x0a"
SIMPLE = {"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon"}
QUPATH_TYPES = {"annotation", "detection", "cell", "tile", "tmacore", "root"}
"""`objectType` of QuPath's objects."""
QUPATH_ID = "Path"
"""What the ids of QuPath's features began with before it gave them an `objectType`: PathAnnotationObject..."""
OWN = "SEGCORE_STAMP"
"""Member of the files that segcore exports. They look like QuPath's, but lie where their image lies."""


@dataclass(frozen=True, eq=False)
class Shapes:
    """The features of one file, in its order."""

    uri: str
    format: Format
    geometries: Geometries
    """In the file's coordinates, x before y, without z; empty where a feature has none."""
    properties: tuple[Mapping[str, Any], ...]
    """Of every feature."""
    crs: str | None = None
    """The CRS that the file names: an authority's code, a URN or WKT; None if it names none."""
    notes: tuple[str, ...] = field(default=())

    @property
    def num_features(self) -> int:
        return len(self.properties)


def format_of(file: SourceFile) -> Format | None:
    """What kind of shapes a file holds, by its first bytes; None if it is no such file (an image, say)."""
    if file.head.startswith(SQLITE_MAGIC):
        return "geopackage"
    if file.head.startswith(SHAPEFILE_MAGIC):
        return "shapefile"
    text = file.head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return "geojson" if text[:1] in (b"{", b"[") else None


def read_geojson(file: SourceFile, limits: Limits) -> Shapes:
    """Read a FeatureCollection, one feature, one geometry, or a bare list of features (QuPath).

    Raises:
        SourceError: if it is over `max_shapes_bytes`, is no GeoJSON, or holds a feature that cannot be understood.
    """
    check_size(file.uri, file.num_bytes, limits)
    try:
        # Geometries become shapely's at once: coordinates as Python lists take ten times the memory.
        found = json.loads(_text(file, limits), object_hook=_decoded, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file.uri}: cannot be read as JSON ({' '.join(str(error).split())[:200]})") from error
    features = _features(found, file.uri)
    geometries = np.empty(len(features), dtype=object)
    for index, feature in enumerate(features):
        geometries[index] = _geometry(feature, f"{file.uri}, feature {index + 1}")
    head = found if isinstance(found, Mapping) else {}
    properties = tuple(given if isinstance(given := feature.get("properties"), Mapping) else {} for feature in features)
    is_qupath = OWN not in head and any(map(_is_qupath, features, properties))
    num_cells = sum("nucleusGeometry" in feature and feature.get("geometry") is not None for feature in features)
    note = f"{num_cells} cells have a nucleus too; their outer outline is what counts"
    return Shapes(
        uri=file.uri,
        format="qupath" if is_qupath else "geojson",
        geometries=geometries,
        properties=properties,
        crs=_crs_member(head, file.uri),
        notes=(note,) if num_cells else (),
    )


def _text(file: SourceFile, limits: Limits) -> str:
    """The whole file; its bytes are gone when it is parsed."""
    with file.open() as opened:
        data = opened.read(limits.max_shapes_bytes + 1)
    check_size(file.uri, len(data), limits)
    return data.decode("utf-8-sig")


def check_size(uri: str, num_bytes: int, limits: Limits) -> None:
    """Refuse a file that is too large to be read whole.

    Raises:
        SourceError: naming the limit.
    """
    if num_bytes > limits.max_shapes_bytes:
        raise SourceError(
            f"{uri}: {num_bytes} bytes of shapes are over the limit max_shapes_bytes = {limits.max_shapes_bytes}; "
            "give one file per image, with its own shapes alone"
        )


class _Broken(str):
    """Why a geometry cannot be understood; said when it is known which feature has it."""


def _decoded(found: dict[str, Any]) -> Any:
    """A JSON object; a geometry if it is one."""
    kind = found.get("type")
    try:
        if kind in SIMPLE and "coordinates" in found:
            if kind == "Polygon":  # shapely takes arrays ten times faster than lists
                found["coordinates"] = [np.asarray(ring, dtype=np.float64) for ring in found["coordinates"]]
            return shapely.force_2d(shape(found))
        if kind == "GeometryCollection" and isinstance(found.get("geometries"), list):
            return shapely.GeometryCollection([_whole(part) for part in found["geometries"]])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, ShapelyError) as error:
        return _Broken(f"its {kind} cannot be understood ({' '.join(str(error).split())[:200]})")
    return found


def _whole(part: Any) -> BaseGeometry:
    if not isinstance(part, BaseGeometry):
        raise ValueError(str(part)[:100])
    return part


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _features(found: Any, uri: str) -> list[Mapping[str, Any]]:
    """The features, whatever they are wrapped in."""
    kind = found.get("type") if isinstance(found, Mapping) else None
    if isinstance(found, BaseGeometry):
        found = [{"type": "Feature", "geometry": found}]
    elif kind == "Feature":
        found = [found]
    elif kind == "FeatureCollection":
        found = found.get("features")
    if not isinstance(found, list):
        raise SourceError(f"{uri}: is JSON but no GeoJSON; expected a FeatureCollection, a Feature or a list of them")
    for number, feature in enumerate(found, 1):
        if not isinstance(feature, Mapping) or feature.get("type") != "Feature":
            raise SourceError(f"{uri}, feature {number}: expected an object of the type Feature")
    return found


def _geometry(feature: Mapping[str, Any], where: str) -> BaseGeometry:
    """A feature's geometry; of a cell without an outline, its nucleus."""
    found = feature.get("geometry")
    if found is None:
        found = feature.get("nucleusGeometry")
    if found is None:
        return shapely.Polygon()
    if not isinstance(found, BaseGeometry):
        raise SourceError(f"{where}: {found if isinstance(found, _Broken) else 'its geometry is no GeoJSON geometry'}")
    if not np.isfinite(shapely.get_coordinates(found)).all():
        raise SourceError(f"{where}: coordinates must be finite numbers")
    return found


def _is_qupath(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> bool:
    """Does a feature carry what QuPath alone writes?"""
    kind = properties.get("objectType", properties.get("object_type"))
    return (
        (isinstance(kind, str) and kind.lower() in QUPATH_TYPES)
        or isinstance(properties.get("classification"), Mapping)
        or str(feature.get("id", "")).startswith(QUPATH_ID)
    )


def _crs_member(head: Mapping[str, Any], uri: str) -> str | None:
    """The CRS of GeoJSON 2008; None if there is none."""
    member = head.get("crs")
    if member is None:
        return None
    properties = member.get("properties") if isinstance(member, Mapping) else None
    name = properties.get("name") if isinstance(properties, Mapping) else None
    if not isinstance(name, str):
        raise SourceError(f"{uri}: its member 'crs' names no CRS; expected e.g. urn:ogc:def:crs:EPSG::32616")
    return name


def plain(value: Any) -> Any:
    """A property as JSON has it: no NaN for what is missing, whole floats as whole numbers, all else as text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    return value if value is None or isinstance(value, bool | int | str | Mapping) else str(value)
