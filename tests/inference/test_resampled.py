"""Images whose pixels are near the model's size: resampled, tile by tile, as if the whole level had been."""

import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from segcore.config import PredictConfig
from segcore.geometry import Window
from segcore.inference import crop, predict
from segcore.inference.model_grid import ModelGrid
from segcore.results import StageResult
from segcore.spatial import Spacing
from segcore.store import Staging, Workspace, verify
from tests.inference.scenes import mask_of, scene, unet_package, whole_image_mask
from tests.synthetic import put_image

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL_UM = 0.5
HALO = 16
SIZES = {"oblong": (0.47, 0.53), "level1": (0.27, 0.26), "level0": (0.69, 0.68)}
"""Pixel sizes (y, x) of the images: coarser along one axis and finer along the other, from level 1, and far off."""


def micrometers(y: float, x: float) -> Spacing:
    return Spacing(values={"y": y, "x": x}, unit="micrometer", origin="file")


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Images of several pixel sizes, and each as one of the model's own, resampled at once."""
    ws = Workspace.open(str(tmp_path_factory.mktemp("resampled")), create=True)
    for name, sides in SIZES.items():
        put_image(ws, name, scene(*((1000, 1200) if name == "level1" else (570, 530))), spacing=micrometers(*sides))
        grid = grid_of(ws, name)
        put_image(ws, f"plain-{name}", grid.read(Window.whole(grid.shape)), spacing=micrometers(MODEL_UM, MODEL_UM))
    unet_package(ws, spacing=micrometers(MODEL_UM, MODEL_UM))
    return ws


def grid_of(ws: Workspace, name: str) -> ModelGrid:
    level = int(name == "level1")
    y, x = (MODEL_UM / (side * 2**level) for side in SIZES[name])
    return ModelGrid(ws.image(name), level, (y, x))


def run(ws: Workspace, image_id: str, name: str, **settings: Any) -> StageResult:
    config = {"workspace": ws.uri, "model": model_id(ws), "shard_px": 256, "tile_workers": 1, "precision": "float32"}
    result = predict(PredictConfig.model_validate({**config, "images": (image_id,), "name": name, **settings}))
    assert [item.error for item in result.items] == [None]
    return result


def model_id(ws: Workspace) -> str:
    return next(iter(ws.objects.folders("models")))


def nearest(values: npt.NDArray[Any], grid: ModelGrid) -> npt.NDArray[Any]:
    """Values of the model grid (..., Y, X) on the mask's, by the plain rule."""
    at = [np.floor((np.arange(n) + 0.5) / s).astype(int) for n, s in zip(grid.mask_shape, grid.step, strict=True)]
    return values[..., at[0][:, None], at[1]]


@pytest.mark.parametrize(("name", "shard_px"), [("oblong", 256), ("oblong", 512), ("level1", 256), ("level0", 256)])
def test_crop_equals_the_whole_image_resampled_and_run_once(ws: Workspace, name: str, shard_px: int) -> None:
    grid = grid_of(ws, name)
    result = run(ws, name, f"crop{shard_px}", shard_px=shard_px, tile_px=128, spacing_tolerance=0.4)
    package = unet_package(ws, spacing=micrometers(MODEL_UM, MODEL_UM))
    whole = whole_image_mask(package, grid.read(Window.whole(grid.shape)), HALO)
    assert np.bincount(whole.ravel()).min() > 5_000, "the test needs all classes"
    np.testing.assert_array_equal(mask_of(ws, name, f"crop{shard_px}"), nearest(whole, grid))
    label, details = ws.label(name, f"crop{shard_px}"), result.items[0].details
    assert label.base_level == grid.level == details["level"]
    assert details["step"] == label.attributes["predict"]["step"] == pytest.approx(list(grid.step))
    assert details["repeated_share"] == 0  # all of it is one work unit
    assert details["tiles"] == math.prod(-(-n // 128) for n in grid.shape)
    assert verify(ws) == []


@pytest.mark.parametrize("settings", [
    {"blend": "crop", "layers": ("probs",), "views": "flips"},
    {"blend": "gaussian", "layers": ("probs",)},
    {"blend": "gaussian", "views": "flips", "batch": 3},
])  # fmt: skip
def test_mask_and_layers_are_those_of_the_resampled_image(ws: Workspace, settings: dict[str, Any]) -> None:
    """However the work is cut: shards, workers."""
    name, grid = "-".join(settings), grid_of(ws, "oblong")
    common = {"tile_px": 128, **settings}
    run(ws, "plain-oblong", name, **common)
    for cut in ({"shard_px": 256}, {"shard_px": 512, "tile_workers": 3}):
        run(ws, "oblong", name, **common, **cut, overwrite=True)
        np.testing.assert_array_equal(mask_of(ws, "oblong", name), nearest(mask_of(ws, "plain-oblong", name), grid))
        if "layers" in settings:
            one, other = (ws.layer(image, name, "probs") for image in ("oblong", "plain-oblong"))
            expected = nearest(other.read(Window.whole(other.shape())), grid)
            np.testing.assert_array_equal(one.read(Window.whole(one.shape())), expected)


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_what_has_no_value_is_left_out_and_leaks_nowhere(tmp_path: Path, blend: str) -> None:
    """The mask's hole is that of the level, pixel by pixel, and no number from it enters the model."""
    ws = Workspace.open(str(tmp_path), create=True)
    pixels = scene(600, 560).astype(np.float32)
    pixels[:, 100:220, 250:400] = np.nan
    pixels[:, 400:, :270] = -3e38
    put_image(ws, "a", pixels, spacing=micrometers(0.47, 0.53), nodata=-3e38)
    package = unet_package(ws, spacing=micrometers(MODEL_UM, MODEL_UM), dtype="float32")
    run(ws, "a", "m", blend=blend, tile_px=128)
    mask, hole = mask_of(ws, "a", "m"), ~(np.isfinite(pixels[0]) & (pixels[0] > -1e38))
    np.testing.assert_array_equal(mask == 255, hole)
    if blend == "crop":
        grid = ModelGrid(ws.image("a"), 0, (MODEL_UM / 0.47, MODEL_UM / 0.53))
        known = grid.read(Window.whole(grid.shape))
        known[known < -1e38] = np.nan
        expected = np.where(hole, 255, nearest(whole_image_mask(package, known, HALO), grid))
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_volumes_are_resampled_plane_by_plane(ws: Workspace, blend: str) -> None:
    """Along y and x alone, whatever the planes' distance."""
    planes = np.stack([scene(330, 300, seed) for seed in (1, 2, 3)], axis=1)
    sides = Spacing(values={"z": 4, "y": 0.47, "x": 0.53}, unit="micrometer", origin="file")
    put_image(ws, "volume", planes, spacing=sides, axes=("c", "z", "y", "x"))
    run(ws, "volume", blend, blend=blend, tile_px=128)
    for plane in range(3):
        put_image(ws, f"plane{plane}", planes[:, plane], spacing=micrometers(0.47, 0.53))
        run(ws, f"plane{plane}", blend, blend=blend, tile_px=128)
        np.testing.assert_array_equal(mask_of(ws, "volume", blend)[plane], mask_of(ws, f"plane{plane}", blend))


def test_a_killed_run_goes_on(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run(ws, "oblong", "reference", tile_px=128)
    write, written = Staging.write_shard, [0]

    def dies(self: Staging, *args: Any, **kwargs: Any) -> None:
        written[0] += 1
        if written[0] == 4:
            raise KeyboardInterrupt
        write(self, *args, **kwargs)

    monkeypatch.setattr(Staging, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        run(ws, "oblong", "killed", tile_px=128)
    assert run(ws, "oblong", "killed", tile_px=128).items[0].details["shards_resumed"] == 3
    np.testing.assert_array_equal(mask_of(ws, "oblong", "killed"), mask_of(ws, "oblong", "reference"))


def test_only_tiles_on_a_work_units_rim_are_inferred_twice(tmp_path: Path) -> None:
    """Units of 4 shards of 256 px, 0.47 / 0.5 and 0.53 / 0.5 as many model px; a tile of each crosses the one rim."""
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", scene(1100, 1300), spacing=micrometers(0.47, 0.53))
    unet_package(ws, spacing=micrometers(MODEL_UM, MODEL_UM))
    details = run(ws, "a", "units", tile_px=128, tile_workers=3).items[0].details
    assert (1024 * 0.47 / MODEL_UM % 128, 1024 * 0.53 / MODEL_UM % 128) != (0, 0)
    rows, columns = 9, 11  # tiles of the model grid, 1034 x 1378 px
    assert details["tiles"] == (rows + 1) * (columns + 1)
    assert details["repeated_share"] == pytest.approx(1 - rows * columns / details["tiles"], abs=1e-6)
    assert details["shards_written"] == 5 * 6
    whole = run(ws, "a", "whole", tile_px=128, shard_px=2048).items[0].details
    assert (whole["tiles"], whole["repeated_share"]) == (rows * columns, 0)
    np.testing.assert_array_equal(mask_of(ws, "a", "units"), mask_of(ws, "a", "whole"))


def test_memory_holds_few_rows_of_shards(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 9 x 4 shards no more than are 4 rows of tiles high, and what waits for the writer."""
    most, made = [0], list[Any]()
    empty = crop.empty_answers

    def counted(*args: Any) -> Any:
        found = empty(*args)
        made.extend(map(weakref.ref, found.values()))
        most[0] = max(most[0], sum(one() is not None for one in made))
        return found

    monkeypatch.setattr(crop, "empty_answers", counted)
    monkeypatch.setattr(crop, "MIN_PIECE_PX", 128)
    put_image(ws, "long", scene(2060, 1000), spacing=micrometers(0.47, 0.53))
    run(ws, "long", "long", tile_px=128)
    assert len(made) == 36
    assert most[0] <= 3 * 4 + 4


def test_within_2_percent_pixels_stay_as_they_are(ws: Workspace) -> None:
    put_image(ws, "near", scene(300, 300), spacing=micrometers(0.508, 0.495))
    put_image(ws, "same", scene(300, 300), spacing=micrometers(MODEL_UM, MODEL_UM))
    for image_id in ("near", "same"):
        details = run(ws, image_id, "m").items[0].details
        assert "step" not in details
    assert "step" not in ws.label("near", "m").attributes["predict"]
    np.testing.assert_array_equal(mask_of(ws, "near", "m"), mask_of(ws, "same", "m"))


def test_what_is_off_by_more_is_refused_until_asked_for(ws: Workspace) -> None:
    config = {"workspace": ws.uri, "model": model_id(ws), "images": ("level0",), "name": "far", "precision": "float32"}
    result = predict(PredictConfig.model_validate(config))
    assert result.items[0].state == "failed"
    assert (
        "image level0: the model expects 0.5 x 0.5 micrometer per pixel within 10%, the image has 0.69 x 0.68 "
        "micrometer per pixel, and its levels 0.69 x 0.68, 1.38 x 1.36; give spacing_tolerance: 0.38 to have it "
        "resampled, or use a model trained at its pixel size"
    ) in str(result.items[0].error)
    estimated = predict(PredictConfig.model_validate({**config, "spacing_tolerance": 0.38, "dry_run": True}))
    assert estimated.items[0].details["step"] == pytest.approx([MODEL_UM / 0.69, MODEL_UM / 0.68])
    assert predict(PredictConfig.model_validate({**config, "spacing_tolerance": 0.38})).exit_code == 0
