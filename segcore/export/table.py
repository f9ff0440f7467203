"""Table: the features of a mask as *Arrow tables with WKB*, for GeoPackage and GeoParquet."""

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import shapely
from rasterio.crs import CRS

from segcore.config import ExportConfig
from segcore.export.columns import columns
from segcore.export.features import Features, FeatureSource
from segcore.export.placing import Target, has_crs, placing
from segcore.export.simplify import Polygons
from segcore.store import Image, Label

GEOMETRY = "geometry"
"""Name of the column of outlines, WKB."""
ROWS = 50_000
"""Of a table, or those of one window more; some tens of MB where outlines have the usual length."""


class Tables:
    """The features of a mask, table by table; read once.

    Raises:
        StoreError: if the CRS cannot be understood, or is asked for where there is none.
    """

    def __init__(self, image: Image, mask: Label, config: ExportConfig) -> None:
        auto: Target = "crs" if has_crs(image) else "pixels"
        self._placing = placing(image, mask, auto if config.coordinates == "auto" else config.coordinates)
        self._source = FeatureSource(image, mask, config)
        self.num_rows = 0
        self.schema: pa.Schema = self._table([])[0].schema

    @property
    def crs(self) -> CRS | None:
        """Of the outlines; None for pixels."""
        return self._placing.crs

    @property
    def may_be_cut(self) -> bool:
        """Whether an outline may be a multipolygon: one in degrees, that crosses the antimeridian."""
        return self._placing.target == "degrees"

    def __iter__(self) -> Iterator[tuple[pa.Table, Polygons]]:
        waiting: list[Features] = []
        for batch in self._source.batches():
            waiting.append(batch)
            if sum(map(len, waiting)) >= ROWS:
                yield self._table(waiting)
                waiting = []
        if waiting:
            yield self._table(waiting)

    def _table(self, batches: list[Features]) -> tuple[pa.Table, Polygons]:
        """One table, and the outlines in it."""
        features = Features.joined(batches)
        polygons = self._placing.placed(features.polygons)
        found = {name: pa.array(column, _type(column)) for name, column in columns(self._source, features).items()}
        found[GEOMETRY] = pa.array(shapely.to_wkb(polygons), pa.binary())
        self.num_rows += len(features)
        return pa.table(found), polygons


def _type(column: npt.NDArray[Any]) -> pa.DataType:
    return pa.string() if column.dtype == object else pa.from_numpy_dtype(column.dtype)
