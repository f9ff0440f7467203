"""Exported polygons as other programs read them."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pyogrio.raw
import pytest
import shapely
from shapely.geometry import shape

Row = dict[str, Any]
Read = Callable[[Path], list[Row]]


def read_geojson(path: Path) -> list[Row]:
    document = json.loads(path.read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return [row["properties"] | {"geometry": shape(row["geometry"])} for row in document["features"]]


def read_geopackage(path: Path) -> list[Row]:
    meta, _, wkb, columns = pyogrio.raw.read(path)
    rows = [dict(zip(meta["fields"], row, strict=True)) for row in zip(*columns, strict=True)]
    return [row | {"geometry": geometry} for row, geometry in zip(rows, shapely.from_wkb(wkb), strict=True)]


def read_geoparquet(path: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(path).to_pylist()
    return [row | {"geometry": shapely.from_wkb(row["geometry"])} for row in rows]


READERS: dict[str, Read] = {
    "geojson": read_geojson, "geopackage": read_geopackage, "geoparquet": read_geoparquet
}  # fmt: skip


def qupath_object(feature: dict[str, Any]) -> dict[str, Any]:
    """A feature as QuPath 0.5 and 0.6 read it (qupath.lib.io.QuPathTypeAdapters); what they choke on fails."""
    found = {"id": uuid.UUID(feature["id"]), "roi": shape(feature["geometry"])}
    properties = feature["properties"]
    assert "color" not in properties or isinstance(properties["color"], list)  # a text is parsed as a number
    red, green, blue = properties["classification"]["color"]
    found["class"] = (properties["classification"]["name"], (int(red), int(green), int(blue)))
    measurements = properties["measurements"]
    assert isinstance(measurements, list)
    found["measurements"] = {entry["name"]: float(entry["value"]) for entry in measurements}
    found["type"] = properties["objectType"]
    return found
