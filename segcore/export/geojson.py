"""GeoJSON: every region of a mask, or every object, as one feature a line, for QuPath or for a GIS.

Where the image lies on earth, coordinates are longitude and latitude (RFC 7946), or, with
`coordinates: crs`, those of the image's own CRS, which is then named in the `crs` member of GeoJSON 2008.
Elsewhere, and with `coordinates: pixels`, they are pixels of the full resolution (x right, y down) and the
features QuPath's objects, as its reader takes them (qupath.lib.io.QuPathTypeAdapters): annotations where there are
few, detections where there are many.
"""

import json
import math
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

import shapely
from rasterio.crs import CRS

from segcore.config import ExportConfig
from segcore.export.columns import columns
from segcore.export.features import Features, FeatureSource
from segcore.export.placing import LON_LAT, Target, has_crs, placing
from segcore.export.stamp import KEY, LINEAGE, lineage, stamp
from segcore.scoring.areas import UNIT_LABELS
from segcore.store import Image, Label

FEW_OBJECTS = 1000
"""Up to so many are annotations, which QuPath lists and lets one edit; more would bring it to a halt."""
NAMESPACE = uuid.UUID("6f0f2f57-6d0b-5f5e-9a53-5e6b1f0f9c11")
"""Of the ids of QuPath's objects, which are made of mask and place: the same mask gives the same ids."""

Texts = Callable[[Features], Iterator[str]]
"""A batch -> the JSON of each feature, up to its geometry."""


def write_geojson(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write the regions of a mask, or its objects, as a FeatureCollection, one feature a line.

    Raises:
        StoreError: if the CRS cannot be understood, or is asked for where there is none.
    """
    auto: Target = "degrees" if has_crs(image) else "pixels"
    target: Target = auto if config.coordinates == "auto" else config.coordinates
    place = placing(image, mask, target)
    source = FeatureSource(image, mask, config)
    head: dict[str, Any] = {"type": "FeatureCollection", KEY: stamp(mask, config), LINEAGE: lineage(image, mask)}
    if target == "crs" and place.crs is not None:
        head["crs"] = {"type": "name", "properties": {"name": _crs_name(place.crs)}}
    batches, texts = _for_qupath(source) if target == "pixels" else (source.batches(), _for_gis(source))
    count = 0
    with path.open("w", encoding="utf-8") as sink:
        sink.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "features": [')
        for batch in batches:
            geometries = shapely.to_geojson(place.placed(batch.polygons)).tolist()
            lines = (f"{text}{geometry}}}" for text, geometry in zip(texts(batch), geometries, strict=True))
            sink.write((",\n" if count else "\n") + ",\n".join(lines))
            count += len(batch)
        sink.write("\n]}\n")
    return {"objects": count}


def geojson_stamp(stream: IO[bytes]) -> str | None:
    """The stamp in a file that may be anything: it stands in the first bytes."""
    found = re.search(rb'"%s": "([A-Za-z0-9.-]+)"' % KEY.encode(), stream.read(256))
    return found[1].decode() if found else None


def _for_gis(source: FeatureSource) -> Texts:
    """Features with flat properties; what is not known is null."""

    def texts(batch: Features) -> Iterator[str]:
        found = columns(source, batch)
        for values in zip(*(column.tolist() for column in found.values()), strict=True):
            properties = {
                name: None if isinstance(value, float) and math.isnan(value) else value
                for name, value in zip(found, values, strict=True)
            }
            number = properties.pop("id")
            yield f'{{"type": "Feature", "id": {number}, "properties": {_json(properties)}, "geometry": '

    return texts


def _for_qupath(source: FeatureSource) -> tuple[Iterable[Features], Texts]:
    """The batches, and their features as QuPath's objects.

    QuPath takes `color` for a number or a list, and measurements also as a list of name and value: there alone every
    version of it reads a NaN, written as a string, which JSON has no number for.
    """
    batches, first = source.batches(), []
    for batch in batches:
        first.append(batch)
        if sum(map(len, first)) > FEW_OBJECTS:
            break
    kind = "annotation" if sum(map(len, first)) <= FEW_OBJECTS else "detection"
    told = [
        f'"objectType": "{kind}", "classification": {_json({"name": info.name, "color": list(info.color)})}, '
        f'"class_id": {info.id}, "class": {_json(info.name)}'
        for info in source.classes
    ]
    of_mask = f"{source.mask.digest}/{source.image.image_id}"

    def texts(batch: Features) -> Iterator[str]:
        areas = {f"Area {UNIT_LABELS[unit][:-1]}^2": sizes.tolist() for unit, sizes in source.areas(batch).items()}
        rows = zip(*(part.tolist() for part in _plain(batch)), strict=True)
        for at, (number, first_px, row, num_px, confidence) in enumerate(rows):
            measured = {"Area px^2": num_px} | {name: sizes[at] for name, sizes in areas.items()}
            if source.has_confidence:
                measured["Confidence"] = "NaN" if math.isnan(confidence) else confidence
            listed = _json([{"name": name, "value": value} for name, value in measured.items()])
            own = f'"object": {number}, ' if source.mask.tells_objects else ""
            yield (
                f'{{"type": "Feature", "id": "{uuid.uuid5(NAMESPACE, f"{of_mask}/{first_px}")}", '
                f'"properties": {{{own}{told[row]}, "measurements": {listed}}}, "geometry": '
            )

    return chain(first, batches), texts


def _plain(batch: Features) -> tuple[Any, ...]:
    return batch.numbers, batch.first_px, batch.rows, batch.num_px, batch.confidences


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _crs_name(crs: CRS) -> str:
    """The URN of a CRS that has one, its WKT otherwise; that of EPSG:4326 would put latitude before longitude."""
    if crs == LON_LAT:
        return "urn:ogc:def:crs:OGC:1.3:CRS84"
    authority = crs.to_authority()
    return f"urn:ogc:def:crs:{authority[0]}::{authority[1]}" if authority else str(crs.to_wkt())
