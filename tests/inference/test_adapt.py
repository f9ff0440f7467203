"""Adapt: image norms take each image by its own statistics, and the mask is the same however it is cut."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcore.config import PredictConfig
from segcore.errors import ConfigError
from segcore.inference import predict
from segcore.inference.adapt import MAX_SAMPLE_PX, sample_of, sample_px
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import Network
from segcore.inference.run import MaskRun
from segcore.inference.search import own_foreground
from segcore.models.package import ModelPackage
from segcore.store import Workspace
from tests.inference.scenes import mask_of, padded, scene, unet_package
from tests.synthetic import put_image, put_label

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 700, 530


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    ws = Workspace.open(str(tmp_path_factory.mktemp("adapt")), create=True)
    pixels = scene(HEIGHT, WIDTH)
    put_image(ws, "a", pixels)
    put_image(ws, "dark", pixels // 3)
    return ws


@pytest.fixture(scope="module")
def package(ws: Workspace) -> ModelPackage:
    return unet_package(ws, norm="image")


def run(ws: Workspace, package: ModelPackage, name: str, image: str = "a", **settings: Any) -> np.ndarray:
    settings = {"shard_px": 256, "tile_workers": 1, "halo": 16, "tile_px": 128, "foreground": "off", **settings}
    config = PredictConfig(workspace=ws.uri, model=package.model_id, name=name, images=(image,), **settings)
    result = predict(config)
    assert [item.state for item in result.items] == ["done"], result.items[0].error
    return mask_of(ws, image, name)


def sampled(ws: Workspace, image: str) -> np.ndarray:
    found = ws.image(image)
    return sample_of(ModelGrid(found), own_foreground(found), (2, 2), 1)


@pytest.mark.parametrize("tile_px", [64, 128, 256])
def test_tiles_of_any_size_equal_the_adapted_model_run_once(ws: Workspace, package: ModelPackage, tile_px: int) -> None:
    mask = run(ws, package, f"whole{tile_px}", tile_px=tile_px)
    network = Network(package, torch.device("cpu"), "float32", batch=1).adapted(sampled(ws, "a"))
    with torch.inference_mode():
        whole = network.ids(padded(scene(HEIGHT, WIDTH), 16, 2)[None], (16, 16))[0][:HEIGHT, :WIDTH]
    assert np.bincount(whole.ravel(), minlength=3).min() > 1000
    np.testing.assert_array_equal(mask, whole)


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_workers_and_shards_change_nothing(ws: Workspace, package: ModelPackage, blend: str) -> None:
    reference = run(ws, package, f"cut-{blend}-1", blend=blend)
    np.testing.assert_array_equal(run(ws, package, f"cut-{blend}-4", blend=blend, tile_workers=4), reference)
    np.testing.assert_array_equal(run(ws, package, f"cut-{blend}-512", blend=blend, shard_px=512), reference)


def test_a_killed_run_goes_on_to_the_same_mask(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = run(ws, package, "undisturbed")
    settings = {"shard_px": 256, "tile_workers": 1, "halo": 16, "tile_px": 128, "foreground": "off"}
    config = PredictConfig(workspace=ws.uri, model=package.model_id, name="killed", images=("a",), **settings)
    write, written = MaskRun.write, []

    def dying(self: MaskRun, shard: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        write(self, shard)
        written.append(shard.shard)

    monkeypatch.setattr(MaskRun, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        predict(config)
    monkeypatch.setattr(MaskRun, "write", write)
    (item,) = predict(config).items
    assert item.details["shards_resumed"] == 3
    np.testing.assert_array_equal(mask_of(ws, "a", "killed"), reference)


@pytest.mark.parametrize("shape", [(40, 24), (7, 5), (256, 1)])
def test_the_smallest_images_are_sampled_too(tmp_path: Path, shape: tuple[int, int]) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", scene(*shape))
    mask = run(ws, unet_package(ws, norm="image"), "m")
    assert mask.shape == shape


def test_another_mark_of_the_foreground_is_another_plan(tmp_path: Path, package: ModelPackage) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", scene(HEIGHT, WIDTH))
    package = unet_package(ws, norm="image")
    run(ws, package, "m")
    plans = [ws.label("a", "m").attributes["predict"]["search"]["sample"]]
    put_label(ws, "a", "foreground", np.ones((HEIGHT, WIDTH), np.uint8))
    run(ws, package, "m", overwrite=True)
    plans.append(ws.label("a", "m").attributes["predict"]["search"]["sample"])
    assert plans[0]["foreground"] is None
    assert plans[1]["foreground"] is not None


def test_networks_of_images_are_kept_for_as_long_as_there_is_room(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segcore.inference.numerics.KEPT_BYTES", 0)
    network = Network(package, torch.device("cpu"), "float32", batch=1)
    assert network.adapted_bytes == 4 * sum(weight.numel() for weight in package.load_weights().parameters())
    for number in range(6):
        network.keep(str(number), network)
        network.of_image("1")
    kept = [str(number) for number in range(6) if network.of_image(str(number))]
    assert kept == ["1", "3", "4", "5"]


def test_a_sparse_image_is_sampled_where_it_has_pixels(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    pixels = np.zeros((3, 4000, 6000), np.uint8)
    pixels[:, 3600:3800, 5100:5300] = 90
    put_image(ws, "a", pixels, nodata=0)
    found = sample_of(ModelGrid(ws.image("a")), None, (2, 2), 1)
    assert all((window == 90).any() for window in found)


def test_an_estimate_counts_the_sample_once_for_an_image(ws: Workspace, package: ModelPackage) -> None:
    assert sampled(ws, "a")[:, 0].size == sample_px((HEIGHT, WIDTH), (2, 2), 1)
    config = PredictConfig(workspace=ws.uri, model=package.model_id, name="dry", images=("a",), dry_run=True)
    (item,) = predict(config).items
    assert item.details["expected_cpu_s"] > 0
    assert sample_px((40_000, 50_000), (16, 16), 1) <= MAX_SAMPLE_PX


def test_compiling_for_each_image_is_refused(ws: Workspace, package: ModelPackage) -> None:
    with pytest.raises(ConfigError, match="is adapted to each image and would be compiled anew"):
        predict(PredictConfig(workspace=ws.uri, model=package.model_id, name="c", compile="on"))


def test_a_darker_image_gets_nearly_the_same_mask_which_batch_norm_does_not_give(
    ws: Workspace, package: ModelPackage
) -> None:
    same = (run(ws, package, "light") == run(ws, package, "light", "dark")).mean()
    fixed = unet_package(ws)
    other = (run(ws, fixed, "fixed") == run(ws, fixed, "fixed", "dark")).mean()
    assert same > 0.85, "zeros around the image are not as dark in it"
    assert other < same - 0.2


def test_several_images_at_once_each_have_their_own(ws: Workspace, package: ModelPackage) -> None:
    settings = {"tile_workers": 3, "halo": 16, "tile_px": 128, "shard_px": 256, "foreground": "off"}
    predict(PredictConfig(workspace=ws.uri, model=package.model_id, name="both", **settings))
    for image in ("a", "dark"):
        np.testing.assert_array_equal(mask_of(ws, image, "both"), run(ws, package, "alone", image))


def test_what_is_looked_at_tonight_does_not_move_the_sample(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    put_image(ws, "a", scene(HEIGHT, WIDTH))
    marked = np.zeros((HEIGHT, WIDTH), np.uint8)
    marked[:300, :260] = 1
    put_label(ws, "a", "foreground", marked)
    package = unet_package(ws, norm="image")
    everywhere = run(ws, package, "all")
    only = run(ws, package, "marked", foreground="auto")
    looked_at = only != ws.label("a", "marked").ignore
    looked_at &= np.arange(HEIGHT)[:, None] < 256  # tiles beyond it are background
    assert looked_at[:256, :256].all()
    np.testing.assert_array_equal(only[:256, :256], everywhere[:256, :256])


def test_a_sample_is_spread_over_the_image_bounded_and_of_what_is_marked(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    pixels = np.zeros((3, 3000, 4100), np.uint8)
    pixels[:, :, 2050:] = 200
    pixels[:, 1500:, 2050:] = 250
    put_image(ws, "a", pixels)
    found = sampled(ws, "a")
    assert found[:, 0].size <= MAX_SAMPLE_PX
    assert set(np.unique(found)) == {0, 200, 250}
    marked = np.zeros((3000, 4100), np.uint8)
    marked[1600:2900, 2400:3900] = 1
    put_label(ws, "a", "foreground", marked)
    found = sampled(ws, "a")
    assert len(found) >= 4
    assert (found == 250).mean() > 0.8, "windows touch the mark"
