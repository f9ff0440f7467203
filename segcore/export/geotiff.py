"""GeoTIFF: a mask as a tiled, compressed TIFF over its source, plain or cloud-optimised (COG).

    levels of the mask --window by window--> a plain TIFF each --GDAL copies--> one file with overviews

The overviews are the mask's own levels. GDAL makes its own from blocks that are a little off in an image with odd
sides, and lets no one else write them, but copies those of a virtual dataset. Memory does not grow with the image.
"""

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import rasterio
import rasterio.shutil
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.stamp import KEY, LINEAGE, lineage, plain, stamp
from segcore.geometry import Grid, level_shapes
from segcore.scoring.areas import crs_of
from segcore.spatial import Georef, Spacing
from segcore.store import Image, Label

WINDOW_PX = 2048
BLOCK_PX = 512
CACHE_MIB = 64
"""GDAL's block cache; by default it takes a share of the whole machine's memory."""


def write_geotiff(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write a mask with the CRS and transform of its source, its colours, overviews, and `ignore` as nodata.

    Its size is the source's, or that of the level at which the mask was made, whose transform it then has. Overviews
    hold the most frequent class of a block. Class names are tags of the band: `CLASS_<id>`. Of objects the ids are
    written, 0 is nodata, and overviews take the nearest. Without a georeference the resolution comes from the spacing.

    Raises:
        StoreError: if the CRS cannot be understood, or the file not be written.
    """
    sides = {"TILED": "YES", "BLOCKXSIZE": BLOCK_PX, "BLOCKYSIZE": BLOCK_PX}
    return _write(image, mask, path, config, driver="GTiff", COPY_SRC_OVERVIEWS="YES", **sides)


def write_cog(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write a cloud-optimised GeoTIFF: what `write_geotiff` writes, in the order in which a reader over HTTP wants it.

    Raises:
        StoreError: if the CRS cannot be understood, or the file not be written.
    """
    return _write(image, mask, path, config, driver="COG", BLOCKSIZE=BLOCK_PX)


def _write(image: Image, mask: Label, path: Path, config: ExportConfig, **options: Any) -> dict[str, Any]:
    """Write each level, and let GDAL's driver make one file of them."""
    height, width = mask.shape()
    profile = {
        "driver": "GTiff",
        "dtype": mask.dtype.name,
        "count": 1,
        "nodata": 0 if mask.tells_objects else mask.ignore,
        "tiled": True,
        "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX,
        "compress": "deflate",
        "zlevel": 1,
        "bigtiff": "if_safer",
    }
    georef = image.georef and image.georef.at_level(mask.base_level)
    num_levels = len(level_shapes((height, width), (True, True)))
    scratch = path.parent / f"{path.stem}.levels"
    scratch.mkdir()
    try:
        with _quiet(), rasterio.Env(GDAL_CACHEMAX=CACHE_MIB):
            for level in range(num_levels):
                placed = {} if level else georeference(georef, f"image {image.image_id}")
                with rasterio.open(scratch / f"{level}.tif", "w", **_sides(mask, level), **placed, **profile) as sink:
                    if level == 0:
                        _describe(sink, image, mask, config)
                    _fill(sink, mask, level)
            whole = _joined(scratch, num_levels)
            rasterio.shutil.copy(whole, path, COMPRESS="DEFLATE", BIGTIFF="IF_SAFER", **options)
    except RasterioError as error:
        raise StoreError(f"image {image.image_id}: cannot be written as {config.format} ({error})") from error
    shutil.rmtree(scratch)
    return {"width": width, "height": height, "overviews": num_levels - 1}


def _sides(mask: Label, level: int) -> dict[str, int]:
    height, width = mask.shape(level)
    return {"height": height, "width": width}


def _describe(sink: Any, image: Image, mask: Label, config: ExportConfig) -> None:
    """Everything but the pixels, of the finest level."""
    spacing = image.spacing and image.spacing.at_level(mask.base_level)
    sink.update_tags(**_resolution(image.georef, spacing), SEGCORE_MASK=mask.name)
    sink.update_tags(**{KEY: stamp(mask, config), LINEAGE: json.dumps(lineage(image, mask))})
    sink.update_tags(1, **{f"CLASS_{info.id}": plain(info.name) for info in mask.classes})
    if not mask.tells_objects:
        sink.write_colormap(1, {info.id: (*info.color, 255) for info in mask.classes})


def _fill(sink: Any, mask: Label, level: int) -> None:
    grid = Grid(mask.shape(level), (WINDOW_PX, WINDOW_PX))
    for index in grid.indices():
        window = grid.window(index)
        (top, left), (rows, columns) = window.start, window.shape
        sink.write(mask.read(window, level), 1, window=RasterWindow(left, top, columns, rows))


def _joined(scratch: Path, num_levels: int) -> Path:
    """A virtual dataset of the finest level, with the others as its overviews."""
    path = scratch / "all.vrt"
    rasterio.shutil.copy(scratch / "0.tif", path, driver="VRT")
    overviews = "".join(
        f'<Overview><SourceFilename relativeToVRT="1">{level}.tif</SourceFilename><SourceBand>1</SourceBand></Overview>'
        for level in range(1, num_levels)
    )
    end = "</VRTRasterBand>"
    path.write_text(path.read_text("utf-8").replace(end, overviews + end), "utf-8")
    return path


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
        crs = crs_of(georef)
    except CRSError as error:
        raise StoreError(f"{where}: its CRS cannot be understood ({' '.join(str(error).split())})") from error
    return found if crs is None else found | {"crs": crs}


def _resolution(georef: Georef | None, spacing: Spacing | None) -> dict[str, str]:
    """TIFF's pixels per centimetre, for images that lie nowhere on earth."""
    if georef is not None or spacing is None or spacing.px_per_cm is None:
        return {}
    x, y = spacing.px_per_cm
    return {"TIFFTAG_XRESOLUTION": f"{x:.9g}", "TIFFTAG_YRESOLUTION": f"{y:.9g}", "TIFFTAG_RESOLUTIONUNIT": "3"}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A mask of a slide has no georeference, and rightly so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
