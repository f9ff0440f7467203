"""GeoParquet 1.1: every region of a mask, or every object, as a row (https://geoparquet.org/releases/v1.1.0).

Row groups are of neighbours, and each row has its bounds in the column `bbox`, so that a reader who wants a part of
the image reads a part of the file.
"""

import json
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from rasterio.crs import CRS

from segcore.config import ExportConfig
from segcore.export.simplify import Polygons
from segcore.export.stamp import KEY, LINEAGE, lineage, stamp
from segcore.export.table import GEOMETRY, Tables
from segcore.store import Image, Label

BBOX = "bbox"
SIDES = ("xmin", "ymin", "xmax", "ymax")
COVERING = {"bbox": {side: [BBOX, side] for side in SIDES}}


def write_geoparquet(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write the regions of a mask, or its objects, row group by row group; zstd.

    Raises:
        StoreError: if the CRS cannot be understood, or is asked for where there is none.
    """
    tables = Tables(image, mask, config)
    schema = tables.schema.append(pa.field(BBOX, pa.struct([(side, pa.float64()) for side in SIDES])))
    extent = np.array([np.inf, np.inf, -np.inf, -np.inf])
    kinds: set[str] = set()
    with pq.ParquetWriter(path, schema, compression="zstd") as sink:
        for table, polygons in tables:
            bounds = shapely.bounds(polygons)
            extent[:2] = np.minimum(extent[:2], bounds[:, :2].min(axis=0))
            extent[2:] = np.maximum(extent[2:], bounds[:, 2:].max(axis=0))
            kinds |= _kinds(polygons)
            sink.write_table(table.append_column(BBOX, pa.StructArray.from_arrays(list(bounds.T), SIDES)))
        told = {"geo": _geo(tables.crs, kinds, extent), LINEAGE: lineage(image, mask)}
        sink.add_key_value_metadata({name: json.dumps(value) for name, value in told.items()})
        sink.add_key_value_metadata({KEY: stamp(mask, config)})
    return {"objects": tables.num_rows}


def geoparquet_stamp(stream: IO[bytes]) -> str | None:
    """The stamp in a file that may be anything; its rows are not read."""
    try:
        found = (pq.read_metadata(stream).metadata or {}).get(KEY.encode())
    except (pa.ArrowException, OSError):
        return None
    return found.decode() if found else None


def _kinds(polygons: Polygons) -> set[str]:
    multi = shapely.get_type_id(polygons) == shapely.GeometryType.MULTIPOLYGON
    return {name for name, some in (("Polygon", ~multi), ("MultiPolygon", multi)) if some.any()}


def _geo(crs: CRS | None, kinds: set[str], extent: np.ndarray) -> dict[str, Any]:
    """The metadata `geo`; a CRS of null is one that nobody knows."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(kinds),
        "crs": None if crs is None else crs.to_dict(projjson=True),
        "edges": "planar",
        "orientation": "counterclockwise",
        "covering": COVERING,
    }
    if np.isfinite(extent).all():
        column["bbox"] = extent.tolist()
    return {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
