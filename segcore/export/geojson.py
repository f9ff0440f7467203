"""GeoJSON: every region of a mask, or every object, as one polygon; background and ignore are left out.

Where the image lies on earth, coordinates are longitude and latitude (RFC 7946), or, with
`coordinates: crs`, those of the image's own CRS, which is then named in the `crs` member of GeoJSON 2008.
Elsewhere they are pixels (x right, y down), as QuPath takes them, with its `classification`.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import rasterio.warp
import shapely
from rasterio.crs import CRS
from rasterio.transform import Affine
from shapely.geometry import Polygon, mapping
from shapely.geometry.polygon import orient

from segcore.classes import ClassInfo
from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.geotiff import georeference
from segcore.export.objects import object_classes, signed
from segcore.export.polygons import trace_windows
from segcore.export.stamp import KEY, stamp
from segcore.scoring.counts import foreground_rows
from segcore.store import Image, Label, Workspace

WINDOW_PX = 2048
LONGEST_EDGE_PX = 256
"""Longer edges get points in between before they are reprojected: a straight line is bent in another CRS."""
LON_LAT = CRS.from_epsg(4326)

Points = npt.NDArray[np.float64]
Place = Callable[[Points], Points]
"""Pixel coordinates (N, 2) -> the file's coordinates (N, 2)."""


def write_geojson(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write the regions of a mask, or its objects, as a FeatureCollection, one feature a line.

    Raises:
        StoreError: if the CRS cannot be understood, or is asked for where there is none.
    """
    of_image, densify, head = _coordinates(image, config.coordinates)
    in_image = _in_image(image, mask)
    head = {KEY: stamp(mask, config), **head}
    num_objects = 0

    def place(points: Points) -> Points:
        return of_image(in_image(points))

    with path.open("w", encoding="utf-8") as sink:
        sink.write('{"type": "FeatureCollection", ' + "".join(f'"{k}": {json.dumps(v)}, ' for k, v in head.items()))
        sink.write('"features": [')
        for info, of_object, outline in _objects(mask, config) if mask.tells_objects else _regions(mask):
            sink.write(",\n" if num_objects else "\n")
            num_objects += 1
            feature = _feature(of_object or num_objects, info, _placed(outline, place, densify))
            sink.write(json.dumps(feature, ensure_ascii=False))
        sink.write("\n]}\n")
    return {"objects": num_objects}


def _regions(mask: Label) -> Iterator[tuple[ClassInfo, None, Polygon]]:
    """Connected pixels of one class."""
    classes = {mask.classes[row].id: mask.classes[row] for row in foreground_rows(mask.classes)}
    skip = {mask.ignore, *(info.id for info in mask.classes if info.id not in classes)}
    for class_id, outline in trace_windows(mask.read, _sides(mask), WINDOW_PX, skip):
        if class_id not in classes:
            raise StoreError(f"image {mask.image_id}: mask {mask.name} holds {class_id}, which is no class")
        yield classes[class_id], None, outline


def _objects(objects: Label, config: ExportConfig) -> Iterator[tuple[ClassInfo, int, Polygon]]:
    """Each object with its id and its class."""
    mask = Workspace.open(config.workspace).label(objects.image_id, objects.attributes["mask"])
    classes = object_classes(objects, mask)
    for number, outline in trace_windows(partial(signed, objects), _sides(objects), WINDOW_PX, {0}):
        yield classes[number - 1], number, outline


def geojson_stamp(stream: IO[bytes]) -> str | None:
    """The stamp in a file that may be anything: it stands in the first bytes."""
    found = re.search(rb'"%s": "([A-Za-z0-9-]+)"' % KEY.encode(), stream.read(256))
    return found[1].decode() if found else None


def _sides(mask: Label) -> tuple[int, int]:
    height, width = mask.shape()
    return height, width


def _in_image(image: Image, mask: Label) -> Place:
    """From the mask's pixels to those of the image's level 0; a last pixel of the mask may reach beyond the image."""
    factor, corner = 2**mask.base_level, np.array(image.shape()[:-3:-1], np.float64)
    return lambda points: np.minimum(points * factor, corner)


def _coordinates(image: Image, wanted: str) -> tuple[Place, bool, dict[str, Any]]:
    """How to place pixels of level 0, whether long edges are split first, and members for the file's head."""
    found = georeference(image.georef, f"image {image.image_id}")
    crs: CRS | None = found.get("crs")
    if crs is None:
        if wanted == "crs":
            raise StoreError(f"image {image.image_id}: has no CRS to write coordinates in; leave `coordinates` at auto")
        return lambda points: points, False, {}
    transform: Affine = found["transform"]

    def in_crs(points: Points) -> Points:
        a, b, c, d, e, f = transform[:6]
        x, y = points[:, 0], points[:, 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    if wanted == "crs":
        return in_crs, False, {"crs": {"type": "name", "properties": {"name": _crs_name(crs)}}}

    def in_degrees(points: Points) -> Points:
        placed = in_crs(points)
        longitude, latitude = rasterio.warp.transform(crs, LON_LAT, placed[:, 0], placed[:, 1])[:2]
        return np.round(np.stack([longitude, latitude], axis=1), 9)

    return in_degrees, crs != LON_LAT, {}


def _crs_name(crs: CRS) -> str:
    """The URN of a CRS that has one, its WKT otherwise."""
    authority = crs.to_authority()
    return f"urn:ogc:def:crs:{authority[0]}::{authority[1]}" if authority else str(crs.to_wkt())


def _placed(outline: Polygon, place: Place, densify: bool) -> Polygon:
    split = shapely.segmentize(outline, LONGEST_EDGE_PX) if densify else outline
    moved = shapely.transform(split, place)
    # RFC 7946: the outer ring runs counterclockwise as seen on the map.
    return orient(moved)


def _feature(number: int, info: ClassInfo, outline: Polygon) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": number,
        "geometry": mapping(outline),
        "properties": {
            "class_id": info.id,
            "class": info.name,
            "color": "#{:02x}{:02x}{:02x}".format(*info.color),
            "objectType": "annotation",
            "classification": {"name": info.name, "color": list(info.color)},
        },
    }
