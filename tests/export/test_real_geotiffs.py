"""Real GeoTIFFs through ingest and export: the mask lies exactly over its source."""

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
from segcore.ingest import ingest
from segcore.store import Workspace
from tests.synthetic import put_label

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
