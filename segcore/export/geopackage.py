"""GeoPackage: every region of a mask, or every object, as a row of one layer, by GDAL (pyogrio, extra `vector`).

GDAL takes the tables one by one from a stream of Arrow's, and builds the spatial index at the end.
"""

import json
import re
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.stamp import KEY, LINEAGE, lineage, stamp
from segcore.export.table import GEOMETRY, Tables
from segcore.store import Image, Label

LAYER = "mask"
SQLITE_MAGIC = b"SQLite format 3\0"


def write_geopackage(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write the regions of a mask, or its objects, as the layer `mask`; stamp and lineage are the file's metadata.

    Raises:
        StoreError: if the CRS cannot be understood, or is asked for where there is none; if the extra `vector` is not
            installed, or the file cannot be written.
    """
    where = f"image {image.image_id}"
    try:
        import pyogrio
    except ImportError as error:
        raise StoreError(f"{where}: GeoPackages need the extra `vector`: pip install 'segcore[vector]'") from error
    tables = Tables(image, mask, config)
    failure: list[Exception] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for table, _ in tables:
                yield from table.to_batches()
        except Exception as error:
            failure.append(error)  # GDAL tells of it in words of its own
            raise

    path.unlink(missing_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that pixels are in no CRS
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(tables.schema, batches()),
                path,
                layer=LAYER,
                driver="GPKG",
                geometry_name=GEOMETRY,
                geometry_type="Unknown" if tables.may_be_cut else "Polygon",
                crs=None if tables.crs is None else tables.crs.to_wkt(),
                dataset_metadata={KEY: stamp(mask, config), LINEAGE: json.dumps(lineage(image, mask))},
            )
    except (RuntimeError, ValueError) as error:  # pyogrio's own errors are RuntimeErrors
        if failure:
            raise failure[0] from error
        raise StoreError(f"{where}: cannot be written as GeoPackage ({' '.join(str(error).split())})") from error
    return {"objects": tables.num_rows}


def geopackage_stamp(stream: IO[bytes]) -> str | None:
    """The stamp in a file that may be anything. SQLite opens paths alone, so it gets a copy."""
    if stream.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC:
        return None
    stream.seek(0)
    with tempfile.TemporaryDirectory(prefix="segcore-stamp-") as folder:
        copy = Path(folder, "copy.gpkg")
        with copy.open("wb") as sink:
            shutil.copyfileobj(stream, sink)
        try:
            with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
                told = " ".join(str(row[0]) for row in database.execute("SELECT metadata FROM gpkg_metadata"))
        except sqlite3.Error:
            return None
    found = re.search(f'key="{KEY}">([A-Za-z0-9.-]+)<', told)
    return found[1] if found else None
