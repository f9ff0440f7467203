"""GeoPackage: layers of shapes in GeoPackages and shapefiles, through GDAL (pyogrio).

pyogrio cannot be told which of GDAL's drivers may open a file, and others of them reach further files and URLs. So
GDAL sees a folder of our own that holds nothing but a copy of the file under a name of ours, the content has been
looked at before, and the driver that took it is checked. The user's folder stays as it is, too: SQLite would put files
beside a database in WAL mode.
"""

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from segcore.errors import SourceError
from segcore.sources import Limits
from segcore.sources.base import decoding
from segcore.sources.files import MEMBER, SourceFile, split_member
from segcore.targets.shapes import Format, Shapes, check_size, plain

OPTIONS: dict[str, Any] = {
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{none}",
    "GDAL_HTTP_MAX_RETRY": 0,
    "OGR_SQLITE_ALLOW_EXTERNAL_ACCESS": False,
    "SHAPE_RESTORE_SHX": False,
}
"""What GDAL could reach beside the file, shut."""
DRIVERS = {"geopackage": "GPKG", "shapefile": "ESRI Shapefile"}
APPLICATION_IDS = (b"GPKG", b"GP10", b"GP11")
"""What makes an SQLite database a GeoPackage: bytes 68 to 71."""
NEEDED = (".shp", ".shx", ".dbf", ".prj")
OPTIONAL = (".cpg",)
"""The encoding of a shapefile's texts."""


def read_layer(file: SourceFile, format: Format, limits: Limits) -> Shapes:  # noqa: A002 - its name everywhere here
    """Read one layer of a GeoPackage, or a shapefile with the files beside it.

    Args:
        file: where it lies; behind `::` the layer's name.
        format: "geopackage" or "shapefile".
        limits: how large it may be.

    Raises:
        SourceError: if it is over a limit or damaged, if a file is missing beside it, or if it has several layers and
            none is named.
        SourceError: if the extra `vector` is not installed.
    """
    try:
        import pyogrio
        import pyogrio.raw
    except ImportError as error:
        raise SourceError(
            f"{file.uri}: GeoPackages and shapefiles need the extra `vector`: pip install 'segcore[vector]'"
        ) from error
    # pyogrio brings a copy of GDAL of its own: rasterio's has other settings.
    pyogrio.set_gdal_config_options(OPTIONS)
    with _alone(file, format, limits) as path, warnings.catch_warnings(), decoding(file.uri):
        warnings.simplefilter("ignore")
        layer = _chosen_layer(file, [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None])
        info = pyogrio.read_info(path, layer=layer)
        if info["driver"] != DRIVERS[format]:
            raise SourceError(f"{file.uri}: expected a {format}, got what GDAL calls {info['driver']}")
        meta, _, wkb, columns = pyogrio.raw.read(path, layer=layer, force_2d=True)
    geometries = np.asarray(shapely.from_wkb(wkb, on_invalid="raise"), dtype=object)
    geometries[shapely.is_missing(geometries)] = shapely.Polygon()
    if not np.isfinite(shapely.get_coordinates(geometries)).all():
        raise SourceError(f"{file.uri}: coordinates must be finite numbers")
    names = [str(name) for name in meta["fields"]]
    rows = zip(*columns, strict=True) if columns else ((),) * len(geometries)
    properties = tuple({name: plain(value) for name, value in zip(names, row, strict=True)} for row in rows)
    return Shapes(file.uri, format, geometries, properties, crs=meta["crs"] or None)


def parts_of(uri: str) -> list[str]:
    """All files that are read for a file of shapes: itself, and what belongs to a shapefile."""
    place, _ = split_member(uri)
    stem, dot, suffix = place.rpartition(".")
    if not dot or suffix.lower() != "shp":
        return [uri]
    rest = (*NEEDED[1:], *OPTIONAL)
    return [uri, *(f"{stem}{name.upper() if suffix.isupper() else name}" for name in rest)]


@contextlib.contextmanager
def _alone(file: SourceFile, format: Format, limits: Limits) -> Iterator[str]:  # noqa: A002
    """The path of a copy of the file, in a folder with nothing else but what belongs to it."""
    parts = _shapefile(file) if format == "shapefile" else {".gpkg": _geopackage(file)}
    with tempfile.TemporaryDirectory(prefix="segcore-shapes-") as folder:
        try:
            for suffix, part in parts.items():
                check_size(part.uri, part.num_bytes, limits)
                shutil.copyfile(part.fetched(limits.max_download_bytes), Path(folder) / f"shapes{suffix}")
            yield str(Path(folder) / f"shapes{next(iter(parts))}")
        finally:
            for part in parts.values():
                part.discard()


def _geopackage(file: SourceFile) -> SourceFile:
    if file.head[68:72] not in APPLICATION_IDS:
        raise SourceError(f"{file.uri}: is an SQLite database but no GeoPackage; save its layer as GeoPackage")
    path = file.local_path
    journal = path.with_name(f"{path.name}-wal") if path is not None else None
    if journal is not None and journal.exists() and journal.stat().st_size:
        raise SourceError(
            f"{file.uri}: another program has it open, and its last changes are in {journal.name}; close it"
        )
    return file


def _shapefile(file: SourceFile) -> dict[str, SourceFile]:
    """The files of a shapefile by suffix, itself first."""
    parts = {".shp": file}
    named = parts_of(file.uri)[1:]
    if not named:
        raise SourceError(f"{file.uri}: is a shapefile; name it .shp, so that its .shx, .dbf and .prj are found")
    for uri in named:
        suffix = f".{uri.rpartition('.')[2].lower()}"
        try:
            parts[suffix] = SourceFile(uri)
        except SourceError as error:
            if suffix in NEEDED:
                raise SourceError(
                    f"{file.uri}: a shapefile is several files, and {uri} cannot be read; put {', '.join(NEEDED)} "
                    "of one name beside each other"
                ) from error
    return parts


def _chosen_layer(file: SourceFile, layers: list[str]) -> str:
    """The layer that is meant: the one named, or the only one."""
    listed = ", ".join(layers) or "none with shapes"
    if file.member is not None and file.name.lower().endswith(".shp"):
        raise SourceError(f"{file.uri}: a shapefile has one layer; leave out what follows {MEMBER}")
    if file.member is not None and file.member not in layers:
        raise SourceError(f"{file.uri}: has no layer '{file.member}'; it has {listed}")
    if file.member is None and len(layers) != 1:
        one = f"{file.uri}{MEMBER}{layers[0]}" if layers else "a file with one"
        raise SourceError(f"{file.uri}: expected one layer of shapes, got {len(layers)} ({listed}); name one: {one}")
    return file.member if file.member is not None else layers[0]
