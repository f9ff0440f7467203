"""STAC: an exported file -> *an Item beside it*, so that catalogues find it, linked to one of the model that made it.

After STAC 1.1 (https://github.com/radiantearth/stac-spec) with the extensions projection, raster, classification,
processing and file; the link to the model is that of the extension MLM (`segcore.models.mlm`).
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any

import numpy as np
import shapely
from rasterio.crs import CRS

import segcore
from segcore.classes import ClassInfo
from segcore.config import ExportConfig
from segcore.errors import SegcoreError
from segcore.export.placing import ANTIMERIDIAN, LON_LAT, has_crs, placing
from segcore.export.stamp import VECTOR, lineage
from segcore.store import Image, Label, Workspace

EXTENSION = "https://stac-extensions.github.io/{}/schema.json"
FOOTPRINT_POINTS = 16
"""On each side of the image: its sides are bent in degrees."""
MEDIA_TYPES = {
    "geotiff": "image/tiff; application=geotiff",
    "cog": "image/tiff; application=geotiff; profile=cloud-optimized",
    "png": "image/png",
    "ome-tiff": "image/tiff",
    "ome-zarr": "application/vnd.zarr",
    "nifti": "application/gzip",
    "dicom-seg": "application/dicom",
    "geojson": "application/geo+json",
    "geopackage": "application/geopackage+sqlite3",
    "geoparquet": "application/vnd.apache.parquet",
}


def item_name(name: str) -> str:
    """Of the Item of a file."""
    return f"{name}.json"


class Catalogue:
    """The Items of one export."""

    def __init__(self, workspace: Workspace, config: ExportConfig) -> None:
        self._workspace, self._config = workspace, config
        self._models: dict[str, dict[str, Any] | None] = {}
        """Items of models that were met already, by id."""

    @property
    def file_format(self) -> str:
        """Of all files."""
        return self._config.format

    def items(
        self, image: Image, mask: Label, name: str, written: IO[bytes] | None, folder: str
    ) -> dict[str, Mapping[str, Any]]:
        """The Item of one file, and, the first time, that of the model that made its mask, by their file names.

        Args:
            image: that was segmented.
            mask: what the file holds.
            name: of the file.
            written: what stands in it; None of a folder.
            folder: in which all of them lie.
        """
        now = datetime.now(UTC)
        facts = {} if written is None else _file_facts(written)
        item = _result_item(image, mask, name, self._config, facts, now)
        model_id = (mask.attributes.get("model") or {}).get("id")
        if model_id is None:
            return {item_name(name): item}
        is_new = model_id not in self._models
        if is_new:
            self._models[model_id] = _model_item(self._workspace, model_id, folder, now)
        model = self._models[model_id]
        if model is None:
            return {item_name(name): item}
        return {**({item_name(model_id): model} if is_new else {}), item_name(name): _linked(item, model)}


def _result_item(
    image: Image, mask: Label, name: str, config: ExportConfig, facts: Mapping[str, Any], created: datetime
) -> dict[str, Any]:
    """Without a CRS it has neither geometry nor place. Its time is the export's: nobody knows the scene's."""
    is_placed = has_crs(image)
    geometry, bbox = _footprint(image, mask) if is_placed else (None, None)
    made = lineage(image, mask)
    asset = {
        "href": f"./{name}",
        "type": MEDIA_TYPES[config.format],
        "title": f"{'Objects' if mask.tells_objects else 'Classes'} of {image.image_id}",
        "roles": ["data"],
        **facts,
        **_bands(image, mask, config),
        **({"classification:classes": [_class(info) for info in mask.classes]} if mask.classes else {}),
        **_own_crs(config, is_placed),
    }
    extensions = {
        "projection/v2.0.0": is_placed,
        "raster/v2.0.0": config.format not in VECTOR,
        "classification/v2.0.0": bool(mask.classes),
        "processing/v1.2.0": True,
        "file/v2.1.0": bool(facts),
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [EXTENSION.format(extension) for extension, is_used in extensions.items() if is_used],
        "id": f"{name}-{mask.name}",
        "geometry": geometry,
        **({} if bbox is None else {"bbox": bbox}),
        "properties": {
            "datetime": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            **(_projection(image, mask) if is_placed else {}),
            "processing:software": {"segcore": segcore.__version__},
            "processing:lineage": f"Segmented by {made.get('model', 'a model that is not known')}.",
            **{f"segcore:{key}": value for key, value in made.items()},
        },
        "links": [],
        "assets": {"mask": asset},
    }


def _linked(item: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """With the link to the model's Item, as its extension asks for."""
    link = {
        "rel": "derived_from",
        "href": f"./{item_name(model['id'])}",
        "type": "application/geo+json",
        "title": "The model that made it",
        "mlm:name": model["properties"]["mlm:name"],
    }
    return {**item, "links": [*item["links"], link]}


def _model_item(workspace: Workspace, model_id: str, folder: str, created: datetime) -> dict[str, Any] | None:
    """The MLM Item of a model; None if its package is not in the workspace, or not whole."""
    # Export needs no torch but for this.
    from segcore.models.mlm import Artifact, mlm_item
    from segcore.models.package import WEIGHTS, read_package

    try:
        package = read_package(workspace, model_id)
    except (SegcoreError, OSError):
        return None
    return mlm_item(package, [Artifact(f"{package.folder.rstrip('/')}/{WEIGHTS}", package.weights)], folder, created)


def _file_facts(stream: IO[bytes]) -> dict[str, Any]:
    """Size and SHA-256 as the extension file writes them (a multihash: 0x12 = SHA-256, of 0x20 bytes)."""
    digest, size = hashlib.sha256(), 0
    while block := stream.read(1 << 20):
        digest.update(block)
        size += len(block)
    return {"file:size": size, "file:checksum": f"1220{digest.hexdigest()}"}


def _footprint(image: Image, mask: Label) -> tuple[dict[str, Any], list[float]]:
    """The outline of the mask in degrees, and its bounds; of one over the antimeridian the west is the larger."""
    height, width = mask.shape()[-2:]
    outline = shapely.segmentize(shapely.box(0, 0, width, height), max(height, width) / FOOTPRINT_POINTS)
    place = placing(image, mask, "degrees")
    (placed,) = place.placed(np.array([outline], dtype=object), is_split=True)
    west, south, east, north = placed.bounds
    if placed.geom_type == "MultiPolygon":
        sides = [part.bounds for part in placed.geoms]
        of_west = min(side[0] for side in sides if side[2] == ANTIMERIDIAN)
        of_east = max(side[2] for side in sides if side[0] == -ANTIMERIDIAN)
        if of_east < of_west:  # otherwise the image goes all around
            west, east = of_west, of_east
    return shapely.geometry.mapping(placed), [west, south, east, north]


def _projection(image: Image, mask: Label) -> dict[str, Any]:
    """The mask's own grid."""
    height, width = mask.shape()[-2:]
    place, georef = placing(image, mask, "crs"), image.georef
    assert place.crs is not None, f"image {image.image_id}: no CRS"
    assert georef is not None, f"image {image.image_id}: no georeference"
    corners = place.move(np.array([(0, 0), (0, height), (width, 0), (width, height)], np.float64))
    return {
        **_crs(place.crs),
        "proj:shape": [height, width],
        "proj:transform": list(georef.at_level(mask.base_level).transform),
        "proj:bbox": [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()],
    }


def _crs(crs: CRS) -> dict[str, Any]:
    """Its code; of one without, the whole of it."""
    authority = crs.to_authority()
    return {"proj:code": ":".join(authority)} if authority else {"proj:code": None, "proj:wkt2": crs.to_wkt()}


def _own_crs(config: ExportConfig, is_placed: bool) -> dict[str, Any]:
    """That of a file whose coordinates are not the image's."""
    if config.format not in VECTOR or not is_placed or config.coordinates == "crs":
        return {}
    if config.coordinates == "pixels":
        return {"proj:code": None}
    return {"proj:code": ":".join(LON_LAT.to_authority())} if config.format == "geojson" else {}


def _bands(image: Image, mask: Label, config: ExportConfig) -> dict[str, Any]:
    """The one band of a raster."""
    if config.format in VECTOR:
        return {}
    band: dict[str, Any] = {"name": "mask", "raster:sampling": "area"}
    georef = image.georef and image.georef.at_level(mask.base_level)
    if georef is not None and has_crs(image):
        crs = placing(image, mask, "crs").crs
        if crs is not None and crs.is_projected:
            a, _, _, d, _, _ = georef.transform
            band["raster:spatial_resolution"] = round(float(np.hypot(a, d) * crs.linear_units_factor[1]), 9)
    nodata = 0 if mask.tells_objects else mask.ignore
    return {"data_type": mask.dtype.name, "nodata": nodata, "bands": [band]}


def _class(info: ClassInfo) -> dict[str, Any]:
    return {
        "value": info.id,
        "name": re.sub(r"[^0-9A-Za-z_-]+", "-", info.name) or str(info.id),  # the extension allows no others
        "description": info.name,
        "color_hint": bytes(info.color).hex().upper(),
    }
