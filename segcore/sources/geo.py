"""GeoTIFF, COG and JPEG 2000, through GDAL (rasterio). Windowed; local files and remote ones alike."""

import contextlib
import io
import logging
import uuid
import warnings
from typing import IO, Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterWindow

from segcore.errors import SourceError
from segcore.geometry import Grid, Window, is_level
from segcore.sources import geo_metadata as metadata
from segcore.sources.base import Limits, Opening, Pixels, Source, SourceInfo, Valid, check_shape
from segcore.sources.files import SourceFile
from segcore.sources.jpeg2000_header import check_tiles, read_header
from segcore.sources.tiff_limits import check_directories

OPTIONS = {
    # Nothing but the file itself is opened: no sidecars, world files, overviews or masks beside it.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": 64,
    "GDAL_NUM_THREADS": 1,
}
DRIVERS = {"geotiff": "GTiff", "jpeg2000": "JP2OpenJPEG"}
"""The GDAL drivers that may open a file (COGs are GTiffs): VRT and others can reach other files and URLs."""

MAX_LEVELS = 24
WARP_BLOCK_PX = 512
"""Warped images are read in whole blocks of this grid, so that no pixel depends on the window that is asked for."""


class GeoSource(Source):
    """A raster with bands. Palette rasters keep their indices: a colour table is a legend here, not a picture."""

    def __init__(self, file: SourceFile, kind: str, opening: Opening) -> None:
        self.uri = file.uri
        logging.getLogger("rasterio").addHandler(logging.NullHandler())
        with contextlib.ExitStack() as stack, rasterio.Env(**OPTIONS):
            self._opened = stack
            stored = self._open_dataset(file, kind)
            self._dtype = _checked_dtype(file.uri, stored)
            _check_blocks(file.uri, stored, self._dtype, opening.limits)
            self._nodata = metadata.nodata(file.uri, stored)
            self._is_warped = metadata.is_placed_by_points(file.uri, stored, opening.warp)
            self._dataset = stored
            if self._is_warped:
                self._dataset = stack.enter_context(_warp(stored, self._nodata, opening.indexed))
            self._levels = [
                self._dataset,
                *([] if self._is_warped else self._coarser(stored, file, kind, opening.limits)),
            ]
            self.info = self._describe(file, kind, opening.limits)
            self._opened = stack.pop_all()

    def _open_dataset(self, file: SourceFile, kind: str, **options: Any) -> Any:
        """The file once more: every level is a dataset of its own; of a remote one the ranges that are needed."""
        # GDAL keeps openers by name, so that each needs one of its own.
        name = str(file.local_path or uuid.uuid4())

        def opener(path: str, mode: str = "rb") -> IO[bytes]:
            return file.open() if path == name else io.BytesIO()  # there is nothing beside the file

        how = {"driver": DRIVERS[kind], "sharing": False} | options | ({} if file.local_path else {"opener": opener})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return self._opened.enter_context(rasterio.open(name, **how))

    def _coarser(self, stored: Any, file: SourceFile, kind: str, limits: Limits) -> list[Any]:
        """The overviews that are the image in whole fractions of its size, from fine to coarse."""
        found = [stored]
        for number in range(min(len(stored.overviews(1)), MAX_LEVELS)):
            overview = self._open_dataset(file, kind, overview_level=number)
            _check_blocks(self.uri, overview, self._dtype, limits)
            if is_level(stored.shape, found[-1].shape, overview.shape):
                found.append(overview)
        return found[1:]

    def _describe(self, file: SourceFile, kind: str, limits: Limits) -> SourceInfo:
        dataset = self._dataset
        alphas = [i for i, meaning in enumerate(dataset.colorinterp, 1) if meaning.name == "alpha"]
        self._bands = [i for i in dataset.indexes if i not in alphas] or list(dataset.indexes)
        self._alphas = [i for i in alphas if i not in self._bands]
        flags = {flag.name for per_band in dataset.mask_flag_enums for flag in per_band}
        self._has_mask = "per_dataset" in flags and "alpha" not in flags
        shape = (len(self._bands), dataset.height, dataset.width)
        check_shape(file.uri, ("c", "y", "x"), shape, self._dtype, limits)
        levels = tuple((int(level.height), int(level.width)) for level in self._levels)
        return SourceInfo(
            uri=file.uri,
            reader=kind,
            reader_version=f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}",
            axes=("c", "y", "x"),
            shape=shape,
            dtype=self._dtype.name,
            channels=metadata.band_names(dataset, self._bands),
            spacing=metadata.spacing(dataset),
            georef=metadata.georef(dataset),
            nodata=self._nodata,
            has_valid=self._has_mask or bool(self._alphas),
            levels=levels if len(levels) > 1 else (),
            num_bytes=file.num_bytes,
            details={"kind": {"geotiff": "GeoTIFF", "jpeg2000": "JPEG 2000"}[kind]}
            | metadata.details(dataset, self._bands)
            | ({"warped": "from ground-control points"} if self._is_warped else {}),
        )

    def _read(self, window: Window) -> Pixels:
        pixels = self._read_level(window, 0)
        if self._is_warped and self._nodata is not None:
            plane = Window(window.start[1:], window.shape[1:])
            pixels[:, ~self._read_valid(plane)] = self._nodata
        return pixels

    def _read_level(self, window: Window, level: int) -> Pixels:
        bands = [self._bands[c] for c in range(window.start[0], window.stop[0])]
        # A warped int8 comes in the type that also holds the alpha band.
        return self._read_bands(bands, window, level).astype(self._dtype, copy=False)

    def _read_bands(self, bands: list[int], window: Window, level: int = 0) -> Pixels:
        """(bands, y, x) of the last two axes of a window."""
        plane = Window(window.start[-2:], window.shape[-2:])
        with rasterio.Env(**OPTIONS):
            if self._is_warped:
                return _read_in_blocks(self._dataset, bands, plane)
            return np.asarray(self._levels[level].read(bands, window=_raster_window(plane)))

    def _read_valid(self, window: Window) -> Valid:
        """Usable where the mask and the alpha band say so, as far as there are any; nodata does not count then."""
        valid = np.ones(window.shape, dtype=np.bool_)
        if self._alphas:
            valid &= (self._read_bands(self._alphas, window) > 0).all(axis=0)
        if self._has_mask:
            with rasterio.Env(**OPTIONS):
                valid &= self._dataset.read_masks(1, window=_raster_window(window)) > 0
        return valid

    def close(self) -> None:
        self._opened.close()


def _raster_window(plane: Window) -> RasterWindow:
    """The same box in rasterio's words."""
    (y, x), (height, width) = plane.start, plane.shape
    return RasterWindow(x, y, width, height)


def _checked_dtype(uri: str, dataset: Any) -> np.dtype[Any]:
    """The type of all bands."""
    names = sorted(set(dataset.dtypes))
    if names[0].startswith("complex"):
        raise SourceError(f"{uri}: complex pixels ({names[0]}) are not read; save amplitude or phase as float32")
    if len(names) > 1:
        raise SourceError(f"{uri}: expected one type for all bands, got {', '.join(names)}; save them as one type")
    dtype: np.dtype[Any] = np.dtype(names[0])
    return dtype


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


def _warp(stored: Any, nodata: float | None, indexed: bool) -> Any:
    """The image on a regular grid in the CRS of its ground-control points; where it is not is told by an alpha band."""
    crs = stored.gcps[1]
    alphas = [i for i, meaning in enumerate(stored.colorinterp, 1) if meaning.name == "alpha"]
    is_classes = indexed or metadata.palette(stored) is not None
    options: dict[str, Any] = {"src_alpha": alphas[0]} if alphas else {"add_alpha": True}
    options |= {"XSCALE": "1", "YSCALE": "1"}  # else GDAL's kernel grows and shrinks with the window that is asked for
    if nodata is not None:
        options |= {"src_nodata": nodata, "INIT_DEST": str(nodata)}
    resampling = Resampling.nearest if is_classes else Resampling.bilinear
    return WarpedVRT(stored, src_crs=crs, crs=crs, resampling=resampling, tolerance=0, **options)


def _read_in_blocks(dataset: Any, bands: list[int], plane: Window) -> Pixels:
    """A window put together from whole blocks of a fixed grid."""
    out = np.empty((len(bands), *plane.shape), dtype=dataset.dtypes[0])
    grid = Grid(dataset.shape, (WARP_BLOCK_PX, WARP_BLOCK_PX))
    for index in grid.touching(plane):
        block = grid.window(index)
        shared = block.intersected(plane)
        pixels = dataset.read(bands, window=_raster_window(block))
        out[:, *shared.relative_to(plane.start).slices] = pixels[:, *shared.relative_to(block.start).slices]
    return out


def open_file(file: SourceFile, opening: Opening) -> Source:
    """A raster; its header is checked before GDAL sees it."""
    if file.member is not None:
        raise SourceError(f"{file.uri}: it is read as one image; leave out '::{file.member}'")
    # Before GDAL sees the file: a hostile header can make its libraries hang, or take tens of gigabytes.
    axes, dtype = ("c", "y", "x"), np.dtype("uint8")
    if file.tiff is not None:
        check_shape(file.uri, axes, file.tiff.shape, dtype, opening.limits)
        check_directories(file, opening.limits)
        return GeoSource(file, "geotiff", opening)
    with file.open() as opened:
        header = read_header(opened, file.num_bytes, file.uri, opening.limits)
    check_shape(file.uri, axes, header.shape, dtype, opening.limits)
    check_tiles(file.uri, header, opening.limits)
    return GeoSource(file, "jpeg2000", opening)
