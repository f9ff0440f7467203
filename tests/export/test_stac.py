"""STAC items of exported files: by a schema of what STAC and its extensions ask for, and against the files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import rasterio
import rasterio.warp
import shapely
import torch
from rasterio.crs import CRS
from shapely.geometry import shape

from segcore.classes import ClassInfo
from segcore.config import ExportConfig
from segcore.export import export
from segcore.export.stac import Catalogue
from segcore.models import ModelConfig, build_model
from segcore.models.package import InputContract, ModelPackage, PackageInfo, write_package
from segcore.sources import open_source
from segcore.spatial import Georef
from segcore.store import Workspace
from tests.synthetic import put_image, put_label, put_objects

SHAPE = (83, 61)
CLASSES = (
    ClassInfo(id=0, name="background", color=(0, 0, 0)),
    ClassInfo(id=1, name='Gebäude "%s"', color=(230, 159, 0)),
    ClassInfo(id=3, name="water", color=(86, 180, 233)),
)
UTM = 32633
TRANSFORM = (0.28, 0.1, 5e5, 0.1, -0.28, 5e6)

NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "number"}}
CLASS = {
    "type": "object",
    "required": ["value", "name"],
    "properties": {
        "value": {"type": "integer"},
        "name": {"type": "string", "pattern": "^[0-9A-Za-z-_]+$"},
        "description": {"type": "string"},
        "color_hint": {"type": "string", "pattern": "^[0-9A-F]{6}$"},
    },
}
PROJECTION = {
    "proj:code": {"type": ["string", "null"], "pattern": "^[A-Z]+:[0-9]+$"},
    "proj:wkt2": {"type": ["string", "null"]},
    "proj:bbox": {**NUMBERS, "minItems": 4, "maxItems": 4},
    "proj:shape": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
    "proj:transform": {**NUMBERS, "minItems": 6, "maxItems": 6},
}
OTHERS = {"patternProperties": {"^(?!proj:)": {}}, "additionalProperties": False}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "stac_version", "id", "geometry", "properties", "links", "assets"],
    "properties": {
        "type": {"const": "Feature"},
        "stac_version": {"const": "1.1.0"},
        "stac_extensions": {
            "type": "array",
            "uniqueItems": True,
            "items": {
                "pattern": r"^https://stac-extensions\.github\.io/"
                r"(projection/v2\.0\.0|raster/v2\.0\.0|classification/v2\.0\.0|processing/v1\.2\.0|file/v2\.1\.0)/schema\.json$"
            },
        },
        "bbox": {**NUMBERS, "minItems": 4, "maxItems": 4},
        "properties": {
            "required": ["datetime"],
            "properties": {
                "datetime": {"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
                "processing:software": {"type": "object", "additionalProperties": {"type": "string"}},
                "processing:lineage": {"type": "string"},
                **PROJECTION,
            },
            **OTHERS,
        },
        "links": {"type": "array", "items": {"required": ["rel", "href"]}},
        "assets": {
            "additionalProperties": {
                "required": ["href"],
                "properties": {
                    "roles": {"type": "array", "items": {"type": "string"}},
                    "file:size": {"type": "integer"},
                    "file:checksum": {"type": "string", "pattern": "^1220[0-9a-f]{64}$"},
                    "classification:classes": {"type": "array", "uniqueItems": True, "minItems": 1, "items": CLASS},
                    "data_type": {"enum": ["uint8", "uint16", "uint32"]},
                    "nodata": {"type": "number"},
                    "bands": {
                        "type": "array",
                        "items": {
                            "required": ["name"],
                            "properties": {
                                "raster:sampling": {"enum": ["area", "point"]},
                                "raster:spatial_resolution": {"type": "number"},
                            },
                        },
                    },
                    **PROJECTION,
                },
                **OTHERS,
            }
        },
    },
    "if": {"properties": {"geometry": {"type": "null"}}},
    "then": {"not": {"required": ["bbox"]}},
    "else": {"required": ["bbox"]},
}  # fmt: skip


def _package(ws: Workspace) -> ModelPackage:
    config = ModelConfig(architecture="conv1", arguments={"in_channels": 1, "num_classes": 2})
    contract = InputContract(bands=("band 0",), dtype="uint8", spacing=None, mean=(0.0,), std=(1.0,))
    with torch.random.fork_rng():
        weights = build_model(config).state_dict()
    info = PackageInfo(name="net", architecture=config, contract=contract, classes=CLASSES[:2], code_version="1")
    return write_package(ws.objects, "models", info, weights)


def _workspace(tmp_path: Path, placed: bool = True, epsg: int = UTM) -> tuple[Workspace, ModelPackage]:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    georef = Georef(crs_wkt=CRS.from_epsg(epsg).to_wkt(), epsg=epsg, transform=TRANSFORM) if placed else None
    package = _package(ws)
    ids = np.random.default_rng(0).choice([0, 1, 3], SHAPE).astype(np.uint8)
    for image_id in ("a", "b"):
        put_image(ws, image_id, np.ones((1, *SHAPE), np.uint8), georef=georef)
        put_label(ws, image_id, "m", ids, CLASSES, attributes={"model": {"id": package.model_id, "digest": "d"}})
    return ws, package


def _export(ws: Workspace, folder: Path, file_format: str, **options: Any) -> list[Any]:
    given = {"workspace": ws.uri, "model": "m", "output": str(folder), "format": file_format, "stac": True, **options}
    items = export(ExportConfig.model_validate(given)).items
    assert all(item.error is None for item in items), items
    return list(items)


@pytest.mark.parametrize("file_format", ["geotiff", "ome-zarr", "geojson", "geopackage", "geoparquet"])
def test_item_tells_where_the_result_lies_and_what_made_it(tmp_path: Path, file_format: str) -> None:
    ws, package = _workspace(tmp_path)
    first, second = _export(ws, tmp_path / "out", file_format)
    assert (first.state, second.state) == ("done", "done")
    path = Path(first.path)
    item = json.loads(Path(first.details["stac"]).read_text("utf-8"))
    assert Path(first.details["stac"]) == path.with_name(f"{path.name}.json")
    jsonschema.validate(item, SCHEMA)
    properties, asset = item["properties"], item["assets"]["mask"]
    assert (properties["proj:code"], properties["proj:shape"]) == (f"EPSG:{UTM}", list(SHAPE))
    assert tuple(properties["proj:transform"]) == TRANSFORM
    corners = [rasterio.Affine(*TRANSFORM) @ (x, y) for x in (0, SHAPE[1]) for y in (0, SHAPE[0])]
    expected = shapely.MultiPoint(corners).bounds
    assert properties["proj:bbox"] == pytest.approx(expected)
    outline = shape(item["geometry"])
    assert outline.is_valid
    assert item["bbox"] == list(outline.bounds)
    in_degrees = rasterio.warp.transform(f"EPSG:{UTM}", "EPSG:4326", *zip(*corners, strict=True))
    assert outline.convex_hull.hausdorff_distance(shapely.MultiPoint(np.transpose(in_degrees)).convex_hull) < 1e-7
    assert (path.parent / asset["href"]).exists()
    if file_format != "ome-zarr":  # a folder
        data = path.read_bytes()
        assert (asset["file:size"], asset["file:checksum"][4:]) == (len(data), hashlib.sha256(data).hexdigest())
    assert [(c["value"], c["description"]) for c in asset["classification:classes"]] == [
        (c.id, c.name) for c in CLASSES
    ]
    assert properties["segcore:plan_digest"] == ws.label("a", "m").digest
    if file_format == "geotiff":
        assert (asset["data_type"], asset["nodata"]) == ("uint8", 255)
        assert asset["bands"][0]["raster:spatial_resolution"] == pytest.approx(np.hypot(0.28, 0.1))
    assert ("proj:code" in asset) == (file_format == "geojson")
    (link,) = item["links"]
    assert (link["rel"], link["mlm:name"]) == ("derived_from", package.model_id)
    model = json.loads((path.parent / link["href"]).read_text("utf-8"))
    assert (model["id"], model["properties"]["mlm:tasks"]) == (package.model_id, ["semantic-segmentation"])
    assert any("mlm" in extension for extension in model["stac_extensions"])
    assert (path.parent / model["assets"]["weights"]["href"]).resolve().is_file()
    assert len(list(path.parent.iterdir())) == 5  # two files, two items, and one of the model


def test_item_is_written_for_a_file_that_is_kept_and_once_only(tmp_path: Path) -> None:
    ws, _ = _workspace(tmp_path)
    _export(ws, tmp_path / "out", "geojson", stac=False)
    assert len(list((tmp_path / "out").iterdir())) == 2
    (first, _) = _export(ws, tmp_path / "out", "geojson")
    assert first.state == "skipped"
    path = Path(first.details["stac"])
    written = path.stat().st_mtime_ns
    _export(ws, tmp_path / "out", "geojson")
    assert path.stat().st_mtime_ns == written
    (again, _) = _export(ws, tmp_path / "out", "geojson", overwrite=True)
    assert (again.state, path.stat().st_mtime_ns > written) == ("done", True)


def test_item_of_an_earlier_file_never_stands_beside_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an export is killed between the two, or the next one is to write no items."""
    ws, _ = _workspace(tmp_path)
    path = Path(_export(ws, tmp_path / "out", "geojson")[0].details["stac"])
    put_label(ws, "a", "m", np.ones(SHAPE, np.uint8), CLASSES, version=1)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    asked = {"workspace": ws.uri, "model": "m", "output": str(tmp_path / "out"), "format": "geojson", "stac": True}
    config = ExportConfig.model_validate({**asked, "overwrite": True, "images": ["a"]})
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "items", killed)
        with pytest.raises(KeyboardInterrupt):
            export(config)
    assert not path.exists()
    (item,) = export(config.model_copy(update={"overwrite": False})).items
    assert item.state == "skipped"
    data = Path(str(item.path)).read_bytes()
    asset = json.loads(path.read_text("utf-8"))["assets"]["mask"]
    assert asset["file:checksum"] == f"1220{hashlib.sha256(data).hexdigest()}"
    export(config.model_copy(update={"stac": False}))
    assert not path.exists()


def test_item_of_a_slide_has_no_place(tmp_path: Path) -> None:
    ws, _ = _workspace(tmp_path, placed=False)
    item = json.loads(Path(_export(ws, tmp_path / "out", "geojson")[0].details["stac"]).read_text("utf-8"))
    jsonschema.validate(item, SCHEMA)
    assert item["geometry"] is None
    assert not [key for key in item["properties"] if key.startswith("proj:")]


def test_item_of_objects_and_of_a_model_that_is_gone(tmp_path: Path) -> None:
    ws, package = _workspace(tmp_path)
    ws.objects.delete_prefix(f"models/{package.model_id}")
    numbers = np.zeros(SHAPE, np.uint32)
    numbers[3:9, 4:8] = 1
    more = {"kind": "instances", "mask": "m", "objects": 1, "model": {"id": package.model_id}}
    put_objects(ws, "a", "m_instances", numbers, more)
    for file_format in ("geotiff", "geoparquet"):
        (found,) = _export(ws, tmp_path / "out", file_format, model="m_instances")
        item = json.loads(Path(found.details["stac"]).read_text("utf-8"))
        jsonschema.validate(item, SCHEMA)
        assert item["links"] == []
        assert item["properties"]["segcore:model"] == package.model_id
        assert "classification:classes" not in item["assets"]["mask"]
        assert item["assets"]["mask"].get("nodata") == (0 if file_format == "geotiff" else None)


def test_item_over_the_antimeridian_has_bounds_from_west_to_east(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    georef = Georef(crs_wkt=CRS.from_epsg(32601).to_wkt(), epsg=32601, transform=(1000, 0, 245000, 0, -1000, 5e6))
    put_image(ws, "a", np.ones((1, 40, 40), np.uint8), georef=georef)
    put_label(ws, "a", "m", np.ones((40, 40), np.uint8), CLASSES)
    item = json.loads(Path(_export(ws, tmp_path / "out", "geotiff")[0].details["stac"]).read_text("utf-8"))
    assert item["geometry"]["type"] == "MultiPolygon"
    west, _, east, _ = item["bbox"]
    assert 179 < west < 180
    assert -180 < east < -179


def test_item_of_an_image_from_0_to_360_has_the_bounds_of_the_earth(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    georef = Georef(crs_wkt=CRS.from_epsg(4326).to_wkt(), epsg=4326, transform=(9.0, 0, 0.0, 0, -1.0, 20.0))
    put_image(ws, "a", np.ones((1, 40, 40), np.uint8), georef=georef)
    put_label(ws, "a", "m", np.ones((40, 40), np.uint8), CLASSES)
    item = json.loads(Path(_export(ws, tmp_path / "out", "geotiff")[0].details["stac"]).read_text("utf-8"))
    jsonschema.validate(item, SCHEMA)
    assert item["bbox"] == [-180, -20, 180, 20]
    assert shape(item["geometry"]).area == 360 * 40


def test_items_go_to_a_remote_folder_and_our_own_reader_takes_them(tmp_path: Path) -> None:
    ws, _ = _workspace(tmp_path)
    (found, _) = _export(ws, tmp_path / "out", "geotiff")
    with open_source(found.details["stac"]) as source:
        assert source.info.shape[-2:] == SHAPE
    config = {"workspace": ws.uri, "model": "m", "output": "memory://stac-items", "format": "geotiff", "stac": True}
    items = export(ExportConfig.model_validate(config)).items
    assert [item.details["stac"] for item in items] == [f"memory://stac-items/{name}.tif.json" for name in "ab"]
