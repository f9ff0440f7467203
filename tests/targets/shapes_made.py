"""Shapes for tests: GeoJSON as QuPath and GIS programs write it, and the pixels they cover by brute force."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import mapping

from segcore.geometry import Window
from segcore.sources import SourceInfo
from segcore.spatial import Georef, Spacing
from segcore.targets import Target, TargetOpening
from segcore.targets.target import open_target

SHAPE = (90, 120)


def image_of(shape: tuple[int, int] = SHAPE, **more: Any) -> SourceInfo:
    sides = {"axes": ("c", "y", "x"), "shape": (1, *shape), "dtype": "uint8", "channels": ("grey",)}
    return SourceInfo(uri="image.tif", reader="tiff", reader_version="-", num_bytes=1, **sides, **more)


def geo_image(epsg: int, transform: tuple[float, ...], shape: tuple[int, int] = SHAPE) -> SourceInfo:
    spacing = Spacing(values={"y": abs(transform[4]), "x": abs(transform[0])}, unit="meter", origin="file")
    return image_of(shape, georef=Georef(crs_wkt=None, epsg=epsg, transform=transform), spacing=spacing)


def feature(geometry: Any, name: str | None = None, **properties: Any) -> dict[str, Any]:
    """A feature as GIS programs write it."""
    named = {} if name is None else {"class": name}
    return {"type": "Feature", "geometry": mapping(geometry), "properties": named | properties}


def annotation(geometry: Any, name: str | None, color: Any = None, **members: Any) -> dict[str, Any]:
    """A feature as QuPath writes it."""
    classification = {} if name is None else {"classification": {"name": name, "color": color or [1, 2, 3]}}
    properties = {"objectType": "annotation", **classification}
    return {"type": "Feature", "id": "0-1", "geometry": mapping(geometry), "properties": properties, **members}


def save(path: Path, features: Any, **members: Any) -> str:
    path.write_text(json.dumps({"type": "FeatureCollection", **members, "features": features}))
    return str(path)


def opened(uri: str, image: SourceInfo | None = None, aoi: str | None = None, **how: Any) -> Target:
    return open_target([uri], image or image_of(), TargetOpening.model_validate(how), aoi=aoi)


def whole(target: Target, shape: tuple[int, int] = SHAPE) -> Any:
    return target.read(Window.whole(shape))


def covered(geometry: Any, shape: tuple[int, int] = SHAPE) -> Any:
    """Which pixels have their centre in a geometry in pixels, one by one."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return shapely.contains_xy(geometry, x, y)


def blobs(count: int, shape: tuple[int, int] = SHAPE, seed: int = 5) -> list[Any]:
    """Star-like polygons, every third with a hole, some of them over the border."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        angle = np.linspace(0, 2 * np.pi, 14)[:-1]
        radius = rng.uniform(6, 22, 13)
        center = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        ring = np.stack([center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)], axis=1)
        hole = [ring.mean(axis=0) + (ring - ring.mean(axis=0)) * 0.4] if number % 3 == 0 else []
        found.append(shapely.Polygon(ring, hole))
    return found
