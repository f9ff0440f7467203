"""Real files through ingest and export: the mask lies exactly over its source."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
from rasterio.warp import transform_geom
from rio_cogeo.cogeo import cog_validate

from segcore.config import ExportConfig, IngestConfig
from segcore.export import export
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.store import Workspace
from tests.export.reading import READERS, qupath_object
from tests.synthetic import put_label, put_objects

FILES = ("naip/m_4709963_se_14_1_20100629.tif", "landsat_rgbn_wgs84/2000.tif")


@pytest.mark.parametrize("name", FILES)
def test_mask_lies_over_its_source(data_dir: Path, tmp_path: Path, name: str) -> None:
    source = data_dir / "geotiff" / name
    uri = str(tmp_path / "ws")
    (item,) = ingest(IngestConfig(workspace=uri, sources=(str(source),), processes=1)).items
    assert item.image is not None, item.error
    with rasterio.open(source) as found:
        size, crs, transform = (found.height, found.width), found.crs, found.transform
        bands = found.read()
    ids = (bands[3].astype(int) > bands[0]).astype(np.uint8)
    ids[(bands == 0).all(axis=0)] = 255
    put_label(Workspace.open(uri), item.image, "m", ids)

    for file_format in ("geotiff", "cog"):
        config = {"workspace": uri, "model": "m", "output": str(tmp_path / file_format), "format": file_format}
        (path,) = export(ExportConfig.model_validate(config)).paths
        with rasterio.open(path) as found:
            assert ((found.height, found.width), found.crs, found.transform) == (size, crs, transform)
            np.testing.assert_array_equal(found.read(1), ids)
    assert cog_validate(path, strict=True, quiet=True)[0]

    (path,) = export(ExportConfig(workspace=uri, model="m", output=str(tmp_path), format="geojson")).paths
    features = json.loads(Path(path).read_text("utf-8"))["features"]
    shapes = [transform_geom("EPSG:4326", crs, feature["geometry"], precision=-1) for feature in features]
    burnt = rasterio.features.rasterize(shapes, out_shape=size, transform=transform, dtype="uint8")
    np.testing.assert_array_equal(burnt, ids == 1)


@pytest.mark.parametrize("file_format", ["geojson", "geopackage", "geoparquet"])
@pytest.mark.parametrize("name", FILES)
def test_polygons_in_the_own_crs_are_the_mask(data_dir: Path, tmp_path: Path, name: str, file_format: str) -> None:
    uri = str(tmp_path / "ws")
    source = data_dir / "geotiff" / name
    (item,) = ingest(IngestConfig(workspace=uri, sources=(str(source),), processes=1)).items
    assert item.image is not None, item.error
    with rasterio.open(source) as found:
        size, transform, bands = (found.height, found.width), found.transform, found.read()
    ids = (bands[3].astype(int) > bands[0]).astype(np.uint8)
    put_label(Workspace.open(uri), item.image, "m", ids)
    given = {"workspace": uri, "model": "m", "output": str(tmp_path), "format": file_format, "coordinates": "crs"}
    (path,) = export(ExportConfig.model_validate(given)).paths
    rows = READERS[file_format](Path(path))
    burnt = rasterio.features.rasterize([row["geometry"] for row in rows], out_shape=size, transform=transform)
    np.testing.assert_array_equal(burnt, ids)
    assert sum(row["area_px"] for row in rows) == ids.sum()
    px = abs(transform.determinant)
    assert sum(row["geometry"].area for row in rows) == pytest.approx(ids.sum() * px, rel=1e-6)


def test_nuclei_of_a_real_picture_are_objects_for_qupath(data_dir: Path, tmp_path: Path) -> None:
    folder = sorted((data_dir / "dsb2018" / "stage1_train").iterdir())[0]
    uri = str(tmp_path / "ws")
    targets = "{parent}/../masks/*.png"
    sources = (str(folder / "images" / "*.png"),)
    (item,) = ingest(IngestConfig(workspace=uri, sources=sources, targets=targets, processes=1)).items
    assert item.image is not None, item.error
    ws = Workspace.open(uri)
    numbers = ws.label(item.image, "target_instances")
    ids = numbers.read(Window.whole(numbers.shape()))
    put_label(ws, item.image, "m", (ids > 0).astype(np.uint8))
    more = {"kind": "instances", "mask": "m", "objects": int(ids.max())}
    put_objects(ws, item.image, "m_instances", ids, more)
    given = {"workspace": uri, "model": "m_instances", "output": str(tmp_path), "format": "geojson"}
    (path,) = export(ExportConfig.model_validate(given)).paths
    features = json.loads(Path(path).read_text("utf-8"))["features"]
    objects = [qupath_object(feature) for feature in features]
    burnt = rasterio.features.rasterize(
        [(found["roi"], feature["properties"]["object"]) for found, feature in zip(objects, features, strict=True)],
        out_shape=ids.shape,
        dtype="int32",
    )
    np.testing.assert_array_equal(burnt, ids)
    assert sum(found["measurements"]["Area px^2"] for found in objects) == (ids > 0).sum()
