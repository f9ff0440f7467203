"""GeoTIFFs and COGs read back by GDAL: ids, colours, nodata, overviews, lineage; rio-cogeo judges the COGs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine
from rio_cogeo.cogeo import cog_validate

from segcore.classes import default_classes
from segcore.config import ExportConfig
from segcore.export import export, geotiff
from segcore.spatial import Georef
from segcore.store import Workspace
from tests.synthetic import put_image, put_label, put_objects

SHAPE = (1100, 1301)
TRANSFORM = Affine(5, 0, 600000, 0, -5, 5300000)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    ws = Workspace.open(str(tmp_path_factory.mktemp("geotiff") / "ws"), create=True)
    georef = Georef(crs_wkt=CRS.from_epsg(26914).to_wkt(), epsg=26914, transform=tuple(TRANSFORM)[:6])
    put_image(ws, "scene", np.ones((1, *SHAPE), np.uint8), georef=georef)
    model = {"model": {"id": "unet-12ab34cd", "digest": "d" * 64}, "code_version": "9.9"}
    put_label(ws, "scene", "m", _ids(), default_classes(4), attributes=model)
    put_objects(ws, "scene", "m_instances", _ids().astype(np.uint32) * 70000, {"mask": "m", "mask_digest": "m-0"})
    return ws


def _ids() -> npt.NDArray[np.uint8]:
    """Noise, so that blocks of overviews hold several classes, and a corner without a value."""
    ids = np.random.default_rng(3).integers(0, 4, SHAPE).astype(np.uint8)
    ids[:300, :300] = 255
    return ids


def _export(ws: Workspace, out: Path, **options: Any) -> Path:
    (item,) = export(ExportConfig(workspace=ws.uri, output=str(out), **({"model": "m"} | options))).items
    assert item.path is not None, item.error
    return Path(item.path)


def _reduced(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The most frequent value of each 2x2 block, the lowest of several; blocks at the border are smaller."""
    padded = np.pad(ids, [(0, n % 2) for n in ids.shape], mode="edge")
    blocks = padded.reshape(padded.shape[0] // 2, 2, -1, 2)
    values = np.unique(ids)
    counts = np.stack([(blocks == value).sum(axis=(1, 3)) for value in values])
    return values[counts.argmax(axis=0)]


@pytest.mark.parametrize("file_format", ["geotiff", "cog"])
def test_overviews_hold_the_most_frequent_class(workspace: Workspace, tmp_path: Path, file_format: str) -> None:
    path = _export(workspace, tmp_path, format=file_format)
    assert [found.name for found in tmp_path.iterdir()] == ["scene.tif"]
    with rasterio.open(path) as found:
        assert (found.crs, found.transform) == (CRS.from_epsg(26914), TRANSFORM)
        assert (found.nodata, found.block_shapes, found.overviews(1)) == (255, [(512, 512)], [2, 4])
        assert found.colormap(1)[3] == (0, 158, 115, 255)
        assert found.tags(1)["CLASS_1"] == "class 1"
        np.testing.assert_array_equal(found.read(1), _ids())
    half = _reduced(_ids())
    for level, expected in enumerate((half, _reduced(half))):
        with rasterio.open(path, OVERVIEW_LEVEL=level) as found:
            np.testing.assert_array_equal(found.read(1), expected)


def test_cog_is_valid(workspace: Workspace, tmp_path: Path) -> None:
    is_valid, errors, warnings = cog_validate(_export(workspace, tmp_path, format="cog"), strict=True, quiet=True)
    assert (is_valid, errors, warnings) == (True, [], [])


def test_geotiff_is_not_taken_for_a_cog(workspace: Workspace, tmp_path: Path) -> None:
    config = ExportConfig(workspace=workspace.uri, model="m", output=str(tmp_path), format="geotiff")
    as_cog = config.model_copy(update={"format": "cog"})
    assert [export(each).items[0].state for each in (config, config, as_cog)] == ["done", "skipped", "failed"]


def test_cog_of_objects_keeps_their_ids(workspace: Workspace, tmp_path: Path) -> None:
    path = _export(workspace, tmp_path, format="cog", model="m_instances")
    with rasterio.open(path) as found:
        assert (found.dtypes[0], found.nodata) == ("uint32", 0)
        np.testing.assert_array_equal(found.read(1), _ids().astype(np.uint32) * 70000)
    with rasterio.open(path, OVERVIEW_LEVEL=0) as found:
        np.testing.assert_array_equal(found.read(1), _ids()[::2, ::2].astype(np.uint32) * 70000)


def test_lineage_is_in_the_file(workspace: Workspace, tmp_path: Path) -> None:
    with rasterio.open(_export(workspace, tmp_path, format="cog")) as found:
        assert json.loads(found.tags()["SEGCORE_LINEAGE"]) == {
            "mask": "m",
            "plan_digest": "m-0",
            "model": "unet-12ab34cd",
            "model_digest": "d" * 64,
            "code_version": "9.9",
        }


def test_reads_no_more_than_a_window(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geotiff, "WINDOW_PX", 512)
    label = workspace.label("scene", "m")
    read, largest = type(label).read, []
    monkeypatch.setattr(type(label), "read", lambda self, w, level=0: largest.append(w.num_px) or read(self, w, level))
    _export(workspace, tmp_path, format="cog")
    assert max(largest) == 512 * 512
