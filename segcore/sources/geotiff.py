"""GeoTIFF: TIFFs with a georeference, through GDAL (rasterio). Windowed; local files and remote ones alike."""

import contextlib
import logging
import math
import warnings
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags, WktVersion
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterWindow

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources.base import Format, Limits, Opening, Pixels, Reader, Source, SourceInfo, Valid, check_shape
from segcore.sources.files import SourceFile
from segcore.sources.tiff_limits import check_directories
from segcore.spatial import Georef, Spacing

OPTIONS = {
    # Nothing but the file itself is opened: no sidecars, world files, overviews or masks beside it.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": 64,
    "GDAL_NUM_THREADS": 1,
}
DRIVER = "GTiff"
"""The only GDAL driver that may open a file (COGs are GTiffs): VRT and others can reach other files and URLs."""

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class GeoTiffSource(Source):
    """A GeoTIFF. Palette rasters keep their indices: a colour table is a legend here, not a picture."""

    def __init__(self, file: SourceFile, limits: Limits) -> None:
        self.uri = file.uri
        logging.getLogger("rasterio").addHandler(logging.NullHandler())
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack, rasterio.Env(**OPTIONS):
            place = file.local_path
            opened = stack.enter_context(file.open()) if place is None else str(place)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._dataset = stack.enter_context(rasterio.open(opened, driver=DRIVER, sharing=False))
            self.info = self._describe(file, limits)
            self._stack = stack.pop_all()

    def _describe(self, file: SourceFile, limits: Limits) -> SourceInfo:
        dataset = self._dataset
        bands = [i for i, meaning in enumerate(dataset.colorinterp, 1) if meaning != ColorInterp.alpha]
        self._bands = bands or list(dataset.indexes)
        flags = [flag for per_band in dataset.mask_flag_enums for flag in per_band]
        shape = (len(self._bands), dataset.height, dataset.width)
        dtype = np.dtype(dataset.dtypes[0])
        check_shape(file.uri, ("c", "y", "x"), shape, dtype, limits)
        _check_blocks(file.uri, dataset, dtype, limits)
        return SourceInfo(
            uri=file.uri,
            reader="geotiff",
            reader_version=f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}",
            axes=("c", "y", "x"),
            shape=shape,
            dtype=dtype.name,
            channels=_band_names(dataset, self._bands),
            spacing=_spacing(dataset),
            georef=_georef(dataset),
            nodata=None if dataset.nodata is None else float(dataset.nodata),
            has_valid=MaskFlags.per_dataset in flags,
            num_bytes=file.num_bytes,
            details=_details(dataset),
        )

    def _read(self, window: Window) -> Pixels:
        bands = [self._bands[c] for c in range(window.start[0], window.stop[0])]
        with rasterio.Env(**OPTIONS):
            pixels: Pixels = self._dataset.read(bands, window=_raster_window(window))
        return pixels

    def _read_valid(self, window: Window) -> Valid:
        with rasterio.Env(**OPTIONS):
            return np.asarray(self._dataset.dataset_mask(window=_raster_window(window)) > 0)

    def close(self) -> None:
        self._stack.close()


def _raster_window(window: Window) -> RasterWindow:
    """The same box in rasterio's words."""
    (y, x), (height, width) = window.start[-2:], window.shape[-2:]
    return RasterWindow(x, y, width, height)


def _check_blocks(uri: str, dataset: Any, dtype: np.dtype[Any], limits: Limits) -> None:
    """Refuse tiles or strips that are too large to decode."""
    block_y, block_x = dataset.block_shapes[0]
    interleaved = dataset.count if dataset.profile.get("interleave") == "pixel" else 1
    size = block_y * block_x * interleaved * dtype.itemsize
    if size > limits.max_tile_bytes:
        raise SourceError(
            f"{uri}: a block of {block_y} x {block_x} px takes {size} bytes, over the limit max_tile_bytes = "
            f"{limits.max_tile_bytes}; save it tiled (gdal_translate -co TILED=YES)"
        )


def _band_names(dataset: Any, bands: list[int]) -> tuple[str, ...]:
    """Band descriptions; else colours, where the file tells them; else numbers. Never the same name twice."""
    colors = {ColorInterp.red: "red", ColorInterp.green: "green", ColorInterp.blue: "blue"}
    if len(bands) == 1:
        colors[ColorInterp.gray] = "grey"
    names = [dataset.descriptions[i - 1] or colors.get(dataset.colorinterp[i - 1], f"band {i}") for i in bands]
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in zip(bands, names, strict=True))


def _georef(dataset: Any) -> Georef | None:
    """CRS and transform; None if it has neither."""
    transform = tuple(float(v) for v in dataset.transform[:6])
    if dataset.crs is None and transform == IDENTITY:
        return None
    a, b, c, d, e, f = transform
    crs = dataset.crs
    return Georef(
        crs_wkt=crs.to_wkt(version=WktVersion.WKT2_2019) if crs else None,
        epsg=crs.to_epsg() if crs else None,
        transform=(a, b, c, d, e, f),
    )


def _spacing(dataset: Any) -> Spacing | None:
    """Pixel size in metres (projected) or degrees (geographic); None without a CRS that tells."""
    crs = dataset.crs
    a, b, _, d, e, _ = dataset.transform[:6]
    if not crs or tuple(dataset.transform[:6]) == IDENTITY:
        return None
    x, y = math.hypot(a, d), math.hypot(b, e)
    if crs.is_geographic:
        return Spacing(values={"y": y, "x": x}, unit="degree", origin="file")
    if crs.is_projected:
        metres = crs.linear_units_factor[1]
        return Spacing(values={"y": y * metres, "x": x * metres}, unit="meter", origin="file")
    return None


def _details(dataset: Any) -> dict[str, Any]:
    """What `inspect` shows besides."""
    profile = dataset.profile
    details: dict[str, Any] = {
        "kind": "GeoTIFF",
        "compression": str(profile.get("compress", "none")),
        "tile": list(dataset.block_shapes[0]),
        "tiled": bool(profile.get("tiled")),
        "levels": [[-(-dataset.height // n), -(-dataset.width // n)] for n in (1, *dataset.overviews(1))],
        "crs": dataset.crs.to_string()[:200] if dataset.crs else None,
    }
    if dataset.gcps[0]:
        details["note"] = f"{len(dataset.gcps[0])} ground control points are not used; warp it first (gdalwarp)"
    return details


def _open(file: SourceFile, opening: Opening) -> Source:
    assert file.tiff is not None, "asked to open what is no TIFF"
    samples, height, width = file.tiff.shape
    # Before GDAL sees the file: a hostile header can make libtiff hang, or take tens of gigabytes.
    check_shape(file.uri, ("c", "y", "x"), (samples, height, width), np.dtype("uint8"), opening.limits)
    check_directories(file, opening.limits)
    if file.member is not None:
        raise SourceError(f"{file.uri}: a GeoTIFF is read as one image; leave out '::{file.member}'")
    return GeoTiffSource(file, opening.limits)


READER = Reader(
    name="GeoTIFF",
    rank=20,
    matches=lambda file: file.tiff is not None and file.tiff.is_geo,
    open=_open,
    formats=(Format("GeoTIFF, COG", (".tif", ".tiff")),),
)
