"""OME-Zarr label stores read back by zarr, by a validator and by our own reader; locally and behind fsspec."""

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from ome_zarr_models.v04 import Image as Validated
from rasterio.crs import CRS

from segcore.classes import default_classes
from segcore.config import ExportConfig
from segcore.export import export
from segcore.geometry import Window
from segcore.results import ItemResult
from segcore.sources import open_source
from segcore.spatial import Georef, Spacing
from segcore.store import Workspace
from tests.conftest import Bucket
from tests.synthetic import put_image, put_label

SPACING = Spacing(values={"z": 3.0, "y": 0.5, "x": 0.25}, unit="micrometer", origin="file")


def _noise(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(6).integers(0, 4, shape).astype(np.uint8)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    put_image(ws, "i", np.ones((1, 2, 1030, 700), np.uint8), spacing=SPACING, axes=("c", "z", "y", "x"))
    put_label(ws, "i", "m", _noise(2, 1030, 700), default_classes(4), axes=("z", "y", "x"))
    return ws


def _export(ws: Workspace, output: object, **options: Any) -> ItemResult:
    (item,) = export(ExportConfig(workspace=ws.uri, model="m", output=str(output), format="ome-zarr", **options)).items
    return item


def test_levels_are_those_of_the_mask(workspace: Workspace, tmp_path: Path) -> None:
    item = _export(workspace, tmp_path / "out")
    assert item.path == str(tmp_path / "out" / "i.ome.zarr"), item.error
    mask = workspace.label("i", "m")
    group = zarr.open_group(item.path, mode="r", zarr_format=2)
    for level in range(mask.num_levels):
        np.testing.assert_array_equal(group[str(level)][:], mask.read(Window.whole(mask.shape(level)), level))
    assert group.attrs["segcore"]["SEGCORE_STAMP"] == "m-0"
    assert group.attrs["image-label"]["colors"][1] == {"label-value": 1, "rgba": [230, 159, 0, 255]}
    scales = [found["coordinateTransformations"][0]["scale"] for found in group.attrs["multiscales"][0]["datasets"]]
    assert scales == [[3.0, 0.5, 0.25], [3.0, 1.0, 0.5], [3.0, 2.0, 1.0]]
    assert Validated.from_zarr(group).attributes.multiscales[0].axes[0].unit == "micrometer"
    with open_source(item.path) as source:
        assert source.info.spacing is not None
        assert source.info.spacing.values == SPACING.values
        np.testing.assert_array_equal(source.read(Window.whole(source.info.shape))[0], _noise(2, 1030, 700))


def test_one_on_a_coarser_level_lies_over_its_image(workspace: Workspace, tmp_path: Path) -> None:
    put_label(workspace, "i", "m", _noise(2, 515, 350), axes=("z", "y", "x"), base_level=1, version=1)
    item = _export(workspace, tmp_path)
    assert item.path is not None, item.error
    (first, *_) = json.loads(Path(item.path, ".zattrs").read_text())["multiscales"][0]["datasets"]
    assert [found[found["type"]] for found in first["coordinateTransformations"]] == [[3, 1, 0.5], [0, 0.25, 0.125]]


def test_georeference_is_that_of_its_level(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path / "ws"), create=True)
    georef = Georef(crs_wkt=CRS.from_epsg(32633).to_wkt(), epsg=32633, transform=(10, 0, 5e5, 0, -10, 5e6))
    put_image(ws, "i", np.ones((1, 700, 701), np.uint8), georef=georef)
    put_label(ws, "i", "m", _noise(350, 351), default_classes(4), base_level=1)
    item = _export(ws, tmp_path / "out")
    assert item.path is not None, item.error
    with open_source(item.path) as source:
        assert source.info.georef == georef.at_level(1)


@pytest.mark.parametrize("output", ["{}/out", "memory://zarrs"])
def test_same_mask_is_kept_another_replaced_whole(workspace: Workspace, tmp_path: Path, output: str) -> None:
    place = output.format(tmp_path)
    path = _export(workspace, place, overwrite=True).path
    assert path == f"{place}/i.ome.zarr"
    assert _export(workspace, place).state == "skipped"
    files, _ = fsspec.core.url_to_fs(path)
    zeros = np.zeros((2, 1030, 700), np.uint8)  # as the fill value, they need no chunk
    put_label(workspace, "i", "m", zeros, axes=("z", "y", "x"), version=1)
    refused = f"{path} holds another mask, or this one in another form; --overwrite replaces it"
    assert _export(workspace, place).error == refused
    assert _export(workspace, place, overwrite=True).state == "done"
    names = sorted(str(name).partition("i.ome.zarr/")[2] for name in files.find(path))
    assert names == [".zattrs", ".zgroup", "0/.zarray", "1/.zarray", "2/.zarray"]
    files.rm(f"{path}/.zattrs")  # anybody's folder
    assert _export(workspace, place).error == refused
    assert list(tmp_path.rglob(".segcore-*")) == []


@pytest.mark.parametrize("at", ["put", "put_file"])
def test_upload_that_was_killed_is_begun_anew(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """A rerun ends with what a run ends with that nobody disturbed, also where it was to replace an older mask."""
    files = fsspec.filesystem("memory")
    _export(workspace, "memory://whole")
    put_label(workspace, "i", "m", np.ones((2, 1030, 700), np.uint8), axes=("z", "y", "x"), version=1)
    _export(workspace, "memory://killed")
    put_label(workspace, "i", "m", _noise(2, 1030, 700), default_classes(4), axes=("z", "y", "x"), version=2)
    _export(workspace, "memory://whole", overwrite=True)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(files), at, killed)
        with pytest.raises(KeyboardInterrupt):
            _export(workspace, "memory://killed", overwrite=True)
    assert _export(workspace, "memory://killed").state == "done"
    found = [{key.partition(".zarr")[2]: files.cat(key) for key in files.find(f"/{n}")} for n in ("whole", "killed")]
    assert found[0] == found[1]


def test_to_a_bucket(workspace: Workspace, bucket: Bucket) -> None:
    item = _export(workspace, f"{bucket.uri}/masks")
    assert item.path == f"{bucket.uri}/masks/i.ome.zarr", item.error
    with open_source(item.path) as source:
        np.testing.assert_array_equal(source.read(Window.whole(source.info.shape))[0], _noise(2, 1030, 700))
    assert _export(workspace, f"{bucket.uri}/masks").state == "skipped"
    put_label(workspace, "i", "m", np.zeros((2, 1030, 700), np.uint8), axes=("z", "y", "x"), version=1)
    assert _export(workspace, f"{bucket.uri}/masks", overwrite=True).state == "done"
    listed = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="masks/")["Contents"]
    names = sorted(found["Key"].partition("i.ome.zarr/")[2] for found in listed)
    assert names == [".zattrs", ".zgroup", "0/.zarray", "1/.zarray", "2/.zarray"]
