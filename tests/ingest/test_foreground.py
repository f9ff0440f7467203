"""Foreground: tissue by its colour, land by its data, at a coarse level that lies where the image lies."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import yaozarrs
from rasterio.transform import from_origin
from skimage.data import immunohistochemistry

from segcore.config import IngestConfig
from segcore.geometry import Window
from segcore.ingest import ingest
from segcore.ingest.foreground import find_tissue
from segcore.store import Workspace, verify
from segcore.store.workspace import listed_labels


def test_otsu_tells_stained_tissue_from_glass() -> None:
    tissue = immunohistochemistry()
    slide = np.full((600, 700, 3), 240, np.uint8)
    slide[50:562, 100:612] = tissue
    found = find_tissue(np.moveaxis(slide, -1, 0), np.ones((600, 700), bool))
    inside = np.zeros((600, 700), bool)
    inside[50:562, 100:612] = True
    assert found[~inside].sum() == 0
    assert found[inside].mean() > 0.5


def test_the_pale_edge_of_tissue_is_tissue_and_pale_glass_is_not() -> None:
    saturation = np.full((60, 60), 4)
    saturation[20:40, 20:40] = 100
    saturation[19, 20:40] = 45  # half a pixel of tissue, half of glass
    saturation[41:43, 20:40] = 20  # paler than halfway to the threshold
    saturation[50:55, 50:55] = 45  # touches no tissue
    pixels = np.stack([saturation + 100, np.full((60, 60), 100), np.full((60, 60), 100)]).astype(np.uint8)
    expected = np.zeros((60, 60), np.uint8)
    expected[19:40, 20:40] = 1
    np.testing.assert_array_equal(find_tissue(pixels, np.ones((60, 60), bool)), expected)


def test_what_is_not_usable_is_no_foreground_and_no_part_of_the_threshold() -> None:
    pixels = np.full((3, 40, 40), 200, np.uint8)
    pixels[0, :20, :20] = 60
    valid = np.ones((40, 40), bool)
    valid[:, 30:] = False
    pixels[0, :, 30:] = 0
    found = find_tissue(pixels, valid)
    expected = np.zeros((40, 40), np.uint8)
    expected[:20, :20] = 1
    np.testing.assert_array_equal(found, expected)


def test_one_colour_all_over_is_foreground_where_it_is_usable() -> None:
    valid = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(find_tissue(np.full((3, 8, 8), 9, np.uint8), valid), valid)


def run(tmp_path: Path, source: Path, **values: Any) -> Workspace:
    config = IngestConfig.model_validate(
        {"workspace": str(tmp_path / "w"), "sources": (str(source),), "processes": 1, **values}
    )
    (item,) = ingest(config).items
    assert item.error is None
    return Workspace.open(str(tmp_path / "w"))


def test_a_slide_gets_its_foreground_at_a_coarse_level_with_a_scale_of_its_own(tmp_path: Path) -> None:
    slide = np.full((2500, 5000, 3), 240, np.uint8)
    slide[512:1024, 1024:1536] = immunohistochemistry()
    resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "s.tif", slide, photometric="rgb", tile=(256, 256), **resolution)
    workspace = run(tmp_path, tmp_path / "s.tif")
    (image_id,) = workspace.image_ids()
    label = workspace.label(image_id, "foreground")
    assert label.shape() == (625, 1250)
    ids = label.read(Window.whole(label.shape()))
    assert ids[128:256, 256:384].mean() > 0.5
    ids[128:256, 256:384] = 0
    assert not ids.any()
    path = tmp_path / "w" / "images" / f"{image_id}.ome.zarr"
    yaozarrs.validate_zarr_store(str(path / "labels" / "foreground"))
    (scale, shift) = label_transform(workspace, image_id)
    assert scale["scale"] == [2.0, 2.0]  # four pixels of half a micrometre
    assert shift["translation"] == [0.75, 0.75]
    assert verify(workspace) == []


def label_transform(workspace: Workspace, image_id: str) -> list[dict[str, Any]]:
    data = workspace.objects.get(f"images/{image_id}.ome.zarr/labels/foreground/zarr.json")
    assert data is not None
    scales = json.loads(data)["attributes"]["ome"]["multiscales"][0]
    found: list[dict[str, Any]] = scales["datasets"][0]["coordinateTransformations"]
    return found


def test_a_scene_gets_what_is_not_nodata(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (2, 300, 400), dtype=np.uint8)
    pixels[:, :, :100] = 0
    profile = {"driver": "GTiff", "width": 400, "height": 300, "count": 2, "dtype": "uint8", "nodata": 0}
    place = {"crs": "EPSG:32632", "transform": from_origin(5e5, 5e6, 10, 10)}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile, **place) as scene:
        scene.write(pixels)
    workspace = run(tmp_path, tmp_path / "scene.tif")
    label = workspace.label(workspace.image_ids()[0], "foreground")
    ids = label.read(Window.whole(label.shape()))
    assert (ids == (pixels > 0).any(axis=0)).all()
    assert [found.name for found in label.classes] == ["background", "foreground"]


@pytest.mark.parametrize("wanted", ["auto", "off"])
def test_a_plain_picture_has_none(tmp_path: Path, wanted: str) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", np.zeros((50, 60, 3), np.uint8), photometric="rgb")
    workspace = run(tmp_path, tmp_path / "plain.tif", foreground=wanted)
    assert workspace.label_names(workspace.image_ids()[0]) == []


def test_a_foreground_that_is_no_longer_wanted_is_withdrawn_and_a_target_is_not(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((300, 400, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "mask.tif", np.ones((300, 400), np.uint8))
    workspace = run(tmp_path, tmp_path / "a.tif", foreground="nodata", targets=str(tmp_path / "mask.tif"))
    (image_id,) = workspace.image_ids()
    assert workspace.label_names(image_id) == ["foreground", "target"]
    for _ in range(2):
        run(tmp_path, tmp_path / "a.tif", foreground="off")
        assert workspace.label_names(image_id) == listed_labels(workspace, image_id) == ["target"]
    assert verify(workspace) == []
    run(tmp_path, tmp_path / "a.tif", foreground="nodata")
    assert workspace.label_names(image_id) == ["foreground", "target"]
