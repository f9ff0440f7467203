"""A model whose pixels are those of a coarser level: its mask lies on that level, and all that reads it knows."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ome_zarr_models
import pytest
import rasterio
import rasterio.features
import yaozarrs
import zarr
from PIL import Image as Pillow
from rasterio.crs import CRS
from rasterio.transform import Affine

from flows.picture import thumbnail
from segcore import spatial
from segcore.config import ExportConfig, PredictConfig, ReportConfig, ScoreConfig
from segcore.export import export
from segcore.geometry import Window
from segcore.inference import predict
from segcore.models.package import ModelPackage
from segcore.publish import report
from segcore.results import ItemResult
from segcore.scoring.score import score
from segcore.spatial import Georef, Spacing
from segcore.store import Workspace, verify
from segcore.store.pyramid import mode_2x2
from tests.inference.scenes import every_level, mask_of, scene, unet_package
from tests.synthetic import put_image, put_label

HEIGHT, WIDTH = 1101, 643


def meters(value: float) -> Spacing:
    return Spacing(values={"y": value, "x": value}, unit="meter", origin="file")


GEOREF = Georef(crs_wkt=CRS.from_epsg(26914).to_wkt(), epsg=26914, transform=(5.0, 0.0, 600000.0, 0.0, -5.0, 5300000.0))


AFFINE = spatial.Affine(matrix=((-3.0, 1, 0, 7), (0, 4, 1, -90), (1, 0, 6, 2), (0, 0, 0, 1)), orientation="LAS")


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A georeferenced image of 5 m with a hole, and an image that is its level 1."""
    ws = Workspace.open(str(tmp_path_factory.mktemp("levels")), create=True)
    pixels = scene(HEIGHT, WIDTH)
    pixels[:, 700:, :90] = 0
    put_image(ws, "fine", pixels, spacing=meters(5), georef=GEOREF, nodata=0, affine=AFFINE)
    image = ws.image("fine")
    put_image(ws, "coarse", image.read(Window.whole(image.shape(1)), 1), spacing=meters(10), nodata=0)
    return ws


@pytest.fixture(scope="module")
def package(ws: Workspace) -> ModelPackage:
    return unet_package(ws, spacing=meters(10))


def run(ws: Workspace, package: ModelPackage, **settings: Any) -> tuple[ItemResult, ...]:
    config = {"workspace": ws.uri, "model": package.model_id, "shard_px": 256, "precision": "float32"}
    result = predict(PredictConfig.model_validate({**config, **settings}))
    assert [item.error for item in result.items] == [None] * len(result.items)
    return result.items


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_the_mask_is_that_of_an_image_that_is_the_level(ws: Workspace, package: ModelPackage, blend: str) -> None:
    settings = {"blend": blend, "name": blend, "layers": ("probs",), "tile_px": 128}
    fine, coarse = run(ws, package, images=("fine", "coarse"), **settings)
    assert (fine.details["level"], coarse.details["level"]) == (1, 0)
    masks = [every_level(ws, image_id, blend) for image_id in ("fine", "coarse")]
    assert len(np.unique(masks[0][0])) == 4  # three classes, and the hole
    assert len(masks[0]) == ws.image("fine").num_levels == len(masks[1]) + 1
    for one, other in zip(*masks, strict=False):
        np.testing.assert_array_equal(one, other)
    layers = [ws.layer(image_id, blend, "probs") for image_id in ("fine", "coarse")]
    one, other = (layer.read(Window.whole(layer.shape())) for layer in layers)
    np.testing.assert_array_equal(one, other)
    assert layers[0].num_levels == ws.image("fine").num_levels - 1
    assert ws.label("fine", blend).attributes["predict"]["level"] == ws.label("fine", blend).base_level == 1
    assert verify(ws) == []


def test_a_coarser_layer_is_of_the_images_level(ws: Workspace, package: ModelPackage) -> None:
    run(ws, package, images=("fine",), name="two", layers=("entropy",), layer_level=2)
    run(ws, package, images=("coarse",), name="two", layers=("entropy",), layer_level=1)
    layers = [ws.layer(image_id, "two", "entropy") for image_id in ("fine", "coarse")]
    one, other = (layer.read(Window.whole(layer.shape())) for layer in layers)
    assert layers[0].shape()[1:] == ws.image("fine").shape(2)[1:]
    np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def mask(ws: Workspace, package: ModelPackage) -> npt.NDArray[Any]:
    """The mask `m` of the fine image, on its level 1."""
    run(ws, package, images=("fine",), name="m", layers=("entropy",))
    return mask_of(ws, "fine", "m")


def test_outside_validators_accept_it(ws: Workspace, mask: npt.NDArray[Any]) -> None:
    root = f"{ws.uri}/images/fine.ome.zarr"
    yaozarrs.validate_zarr_store(f"{root}/labels/m")
    found: Any = ome_zarr_models.open_ome_zarr(zarr.open_group(f"{root}/labels/m", mode="r"))
    assert type(found).__name__ == "ImageLabel"
    datasets = found.ome_attributes.multiscales[0].datasets
    assert datasets[0].coordinateTransformations[0].scale == [10.0, 10.0]
    assert datasets[0].coordinateTransformations[1].translation == [2.5, 2.5]
    data = json.loads(ws.objects.get("images/fine.ome.zarr/labels/m/zarr.json") or b"")["attributes"]
    assert data["spatial:transform"] == [10.0, 0.0, 600000.0, 0.0, -10.0, 5300000.0]
    assert data["spatial:shape"] == list(mask.shape)
    layer = json.loads(ws.objects.get("layers/fine/m.entropy.ome.zarr/zarr.json") or b"")["attributes"]
    assert (layer["spatial:transform"], layer["spatial:shape"]) == (data["spatial:transform"], data["spatial:shape"])


@pytest.mark.parametrize("level", [1, 2])
def test_our_own_words_are_of_its_finest_level(ws: Workspace, package: ModelPackage, level: int) -> None:
    run(ws, package, images=("fine",), name=f"of{level}", layers=("entropy",), layer_level=level)
    found = {1: ws.label("fine", f"of{level}"), 2: ws.layer("fine", f"of{level}", "entropy")}[level]
    side = 2**level
    assert found.base_level == level
    assert found.spacing == meters(5.0 * side)
    assert found.georef is not None
    pixel = found.georef.transform
    assert pixel == (5.0 * side, 0.0, 600000.0, 0.0, -5.0 * side, 5300000.0)
    matrix = np.array(found.attributes["affine"]["matrix"])
    block = [(x, y, 9, 1) for x in range(4 * side, 5 * side) for y in range(2 * side, 3 * side)]
    centre = np.mean([np.array(AFFINE.matrix) @ voxel for voxel in block], axis=0)
    np.testing.assert_allclose(matrix @ [4, 2, 9, 1], centre, rtol=1e-12)
    assert found.attributes["affine"]["orientation"] == "LAS"


def test_it_is_scored_on_its_own_level(ws: Workspace, mask: npt.NDArray[Any]) -> None:
    target = np.random.default_rng(1).integers(0, 3, (HEIGHT // 3, WIDTH // 3 + 1)).astype(np.uint8)
    target = target.repeat(3, axis=0).repeat(3, axis=1)[:HEIGHT, :WIDTH]
    put_label(ws, "fine", "target", target, ws.label("fine", "m").classes)
    coarse = mode_2x2(np.pad(target, ((0, 1), (0, 1)), mode="edge"))
    usable = (mask != 255) & (coarse != 255)
    expected = [[int((usable & (coarse == i) & (mask == j)).sum()) for j in range(3)] for i in range(3)]
    result = score(ScoreConfig(workspace=ws.uri, model="m"))
    assert result.scores is not None
    assert result.scores["confusion"] == expected
    assert result.items[0].details["level"] == result.scores["per_image"]["fine"]["level"] == 1
    areas = result.scores["per_image"]["fine"]["areas"]["class 1"]
    assert areas["m2"] == pytest.approx(areas["px"] * 100)
    assert result.scores["worst_tiles"][0]["level"] == 1
    published = report(ReportConfig(workspace=ws.uri, model="m", run="r"))
    assert [item.error for item in published.items if item.state == "failed"] == []


def test_it_is_pictured(ws: Workspace, mask: npt.NDArray[Any]) -> None:
    picture = base64.b64decode(thumbnail(ws.uri, "m", "fine").partition("base64,")[2])
    with Pillow.open(io.BytesIO(picture)) as found:
        assert found.size == (round(400 * WIDTH / HEIGHT), 400)


@pytest.mark.slow
def test_it_is_exported_where_it_lies(ws: Workspace, mask: npt.NDArray[Any], tmp_path: Path) -> None:
    for format_ in ("geotiff", "geojson", "png"):
        config = ExportConfig(workspace=ws.uri, model="m", output=str(tmp_path), format=format_, coordinates="crs")
        assert [item.error for item in export(config).items] == [None]
    with rasterio.open(tmp_path / "fine.tif") as found:
        assert found.transform == Affine(10, 0, 600000, 0, -10, 5300000)
        np.testing.assert_array_equal(found.read(1), mask)
    features = json.loads((tmp_path / "fine.geojson").read_text())["features"]
    shapes = [(feature["geometry"], feature["properties"]["class_id"]) for feature in features]
    drawn = rasterio.features.rasterize(
        shapes, (HEIGHT, WIDTH), fill=255, transform=Affine(*GEOREF.transform), dtype=np.uint8
    )
    expected = mask.repeat(2, axis=0).repeat(2, axis=1)[:HEIGHT, :WIDTH]
    background = expected == 0 if 0 not in {number for _, number in shapes} else np.zeros_like(expected, bool)
    np.testing.assert_array_equal(drawn[~background], expected[~background])
    right = max(x for shape, _ in shapes for ring in shape["coordinates"] for x, _ in ring)
    assert right == 600000 + 5 * WIDTH  # the mask's last column is half beyond the image


def test_an_image_whose_pixels_have_no_size_fails_alone(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    one, none = (Spacing(values={"y": um, "x": um}, unit="micrometer", origin="file") for um in (0.5, 0.0))
    put_image(ws, "a", scene(100, 90), spacing=none)
    put_image(ws, "b", scene(100, 90), spacing=one)
    package = unet_package(ws, tile_px=64, spacing=one)
    first, second = predict(PredictConfig(workspace=ws.uri, model=package.model_id, precision="float32")).items
    assert "a pixel has no size" in str(first.error)
    assert second.state == "done"
