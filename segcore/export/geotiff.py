"""GeoTIFF: a mask as a tiled, compressed TIFF over its source. Written window by window: memory does not grow."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import rasterio
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.stamp import KEY, stamp
from segcore.geometry import Grid
from segcore.spatial import METERS_PER_UNIT, Georef, Spacing
from segcore.store import Image, Label

WINDOW_PX = 2048
BLOCK_PX = 512
CACHE_MIB = 64
"""GDAL's block cache; by default it takes a share of the whole machine's memory."""


def write_geotiff(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write a mask with the CRS and transform of its source, its colours, and `ignore` as nodata.

    Its size is the source's, or that of the level at which the mask was made, whose transform it then has.
    Class names are tags of the band: `CLASS_<id>`. Of objects the ids are written, and 0 is nodata. Without a
    georeference the resolution comes from the spacing.

    Raises:
        StoreError: if the CRS cannot be understood, or the file not be written.
    """
    height, width = mask.shape()
    spacing = image.spacing and image.spacing.at_level(mask.base_level)
    georef = image.georef and image.georef.at_level(mask.base_level)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "dtype": mask.dtype.name,
        "count": 1,
        "height": height,
        "width": width,
        "nodata": 0 if mask.tells_objects else mask.ignore,
        "tiled": True,
        "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX,
        "compress": "deflate",
        "bigtiff": "if_safer",
        **georeference(georef, f"image {image.image_id}"),
    }
    try:
        with _quiet(), rasterio.Env(GDAL_CACHEMAX=CACHE_MIB), rasterio.open(path, "w", **profile) as sink:
            sink.update_tags(**_resolution(georef, spacing), SEGCORE_MASK=mask.name)
            sink.update_tags(**{KEY: stamp(mask, config)})
            sink.update_tags(1, **{f"CLASS_{info.id}": info.name for info in mask.classes})
            if not mask.tells_objects:
                sink.write_colormap(1, {info.id: (*info.color, 255) for info in mask.classes})
            grid = Grid((height, width), (WINDOW_PX, WINDOW_PX))
            for index in grid.indices():
                window = grid.window(index)
                (top, left), (rows, columns) = window.start, window.shape
                sink.write(mask.read(window), 1, window=RasterWindow(left, top, columns, rows))
    except RasterioError as error:
        raise StoreError(f"image {image.image_id}: cannot be written as GeoTIFF ({error})") from error
    return {"width": width, "height": height}


def geotiff_stamp(stream: IO[bytes]) -> str | None:
    """The stamp in a file that may be anything."""
    if stream.read(2) not in (b"II", b"MM"):  # rasterio takes an empty stream for a file to be written
        return None
    stream.seek(0)
    try:
        with _quiet(), rasterio.open(stream, driver="GTiff") as source:
            found: str | None = source.tags().get(KEY)
            return found
    except RasterioError:
        return None


def georeference(georef: Georef | None, where: str) -> dict[str, Any]:
    """`crs` and `transform` as rasterio takes them; {} without a georeference."""
    if georef is None:
        return {}
    found: dict[str, Any] = {"transform": Affine(*georef.transform)}
    try:
        if georef.crs_wkt is not None:
            found["crs"] = CRS.from_wkt(georef.crs_wkt)
        elif georef.epsg is not None:
            found["crs"] = CRS.from_epsg(georef.epsg)
    except CRSError as error:
        raise StoreError(f"{where}: its CRS cannot be understood ({' '.join(str(error).split())})") from error
    return found


def _resolution(georef: Georef | None, spacing: Spacing | None) -> dict[str, str]:
    """TIFF's pixels per centimetre, for images that lie nowhere on earth."""
    if georef is not None or spacing is None or spacing.unit not in METERS_PER_UNIT:
        return {}
    if not {"y", "x"} <= spacing.values.keys():
        return {}
    per_cm = {axis: 0.01 / (spacing.values[axis] * METERS_PER_UNIT[spacing.unit]) for axis in "yx"}
    return {
        "TIFFTAG_XRESOLUTION": f"{per_cm['x']:.9g}",
        "TIFFTAG_YRESOLUTION": f"{per_cm['y']:.9g}",
        "TIFFTAG_RESOLUTIONUNIT": "3",
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A mask of a slide has no georeference, and rightly so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
