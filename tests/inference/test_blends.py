"""The promises: the mask does not depend on how the work was cut, and equals the plain way's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from segcore.config import PredictConfig
from segcore.geometry import Window
from segcore.inference import predict
from segcore.inference.gaussian import summed_together, tile_weights, weight_sums
from segcore.inference.numerics import Network
from segcore.inference.tiling import Tiling, gaussian_tiling
from segcore.models.package import ModelPackage
from segcore.pace import paces
from segcore.store import Workspace
from tests.inference.scenes import conv_package, mask_of, padded, scene, unet_package, whole_image_mask
from tests.synthetic import put_image, put_label

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 700, 530


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    ws = Workspace.open(str(tmp_path_factory.mktemp("blends")), create=True)
    put_image(ws, "a", scene(HEIGHT, WIDTH))
    return ws


@pytest.fixture(scope="module")
def package(ws: Workspace) -> ModelPackage:
    return unet_package(ws)


def run(ws: Workspace, name: str, **settings: Any) -> np.ndarray:
    settings = {"model": "seeded", "shard_px": 256, "tile_workers": 1, "images": ("a",), **settings}
    result = predict(PredictConfig(workspace=ws.uri, name=name, **settings))
    assert [item.state for item in result.items] == ["done"], result.items[0].error
    return mask_of(ws, settings["images"][0], name)


@pytest.mark.parametrize(("tile_px", "halo_px"), [(128, 16), (64, 32), (256, 16)])
def test_crop_equals_the_whole_image_run_once(ws: Workspace, package: ModelPackage, tile_px: int, halo_px: int) -> None:
    mask = run(ws, f"whole{tile_px}", model=package.model_id, tile_px=tile_px, halo=halo_px)
    expected = whole_image_mask(package, scene(HEIGHT, WIDTH), halo_px)
    assert np.bincount(expected.ravel()).min() > 10_000, "the test needs all classes"
    np.testing.assert_array_equal(mask, expected)


def test_crop_with_too_small_a_halo_shows_seams(ws: Workspace, package: ModelPackage) -> None:
    mask = run(ws, "seams", model=package.model_id, tile_px=64, halo=0)
    expected = whole_image_mask(package, scene(HEIGHT, WIDTH), 16)
    assert 0.9 < (mask == expected).mean() < 0.9999


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
@pytest.mark.parametrize("batch", [1, 4])
def test_mask_does_not_depend_on_how_the_work_is_cut(
    ws: Workspace, package: ModelPackage, blend: str, batch: int
) -> None:
    common = {"model": package.model_id, "blend": blend, "tile_px": 128, "batch": batch}
    name = f"cut-{blend}-{batch}"
    reference = run(ws, f"{name}-1", **common)
    assert len(np.unique(reference)) == 3
    np.testing.assert_array_equal(run(ws, f"{name}-4", tile_workers=4, **common), reference)
    np.testing.assert_array_equal(run(ws, f"{name}-512", shard_px=512, tile_workers=2, **common), reference)


def test_narrower_strips_give_the_same_mask(
    ws: Workspace, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the sums of many classes need them: shard by shard, and decided a few columns at once."""
    common = {"model": package.model_id, "blend": "gaussian", "tile_px": 128}
    reference = run(ws, "strips-wide", **common)
    monkeypatch.setattr("segcore.inference.gaussian.STRIP_BYTES", 1)
    monkeypatch.setattr("segcore.inference.gaussian.BAND_PX", 96)
    np.testing.assert_array_equal(run(ws, "strips-narrow", **common), reference)


@pytest.mark.parametrize(
    ("num_classes", "width", "shards"),
    [(2, 8192, 4), (8, 8192, 4), (9, 8192, 2), (20, 8192, 1), (150, 8192, 1), (20, 2048, 4)],
)
def test_strips_of_many_classes_are_narrower(num_classes: int, width: int, shards: int) -> None:
    """512 rows of 8192 px take 16 MiB per class: 128 MiB are passed with the ninth."""
    tiling = gaussian_tiling((8192, width), (512, 512), (64, 64), (1, 1))
    assert summed_together(tiling, num_classes, shard_px=2048) == (1, shards)


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_several_devices_share_the_tiles(
    ws: Workspace, package: ModelPackage, blend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"model": package.model_id, "blend": blend, "tile_px": 64, "tile_workers": 3}
    one = run(ws, f"one-device-{blend}", **common)
    asked: set[int] = set()
    forward = Network.forward

    def noted(self: Network, tiles: torch.Tensor) -> torch.Tensor:
        asked.add(id(self))
        return forward(self, tiles)

    monkeypatch.setattr("segcore.inference.night.devices_of", lambda device: [device, device])
    monkeypatch.setattr(Network, "forward", noted)
    np.testing.assert_array_equal(run(ws, f"two-devices-{blend}", **common), one)
    assert len(asked) == 2


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_batches_of_1_and_8_agree(ws: Workspace, package: ModelPackage, blend: str) -> None:
    common = {"model": package.model_id, "blend": blend, "tile_px": 64}
    one, eight = (run(ws, f"batch-{blend}-{batch}", batch=batch, **common) for batch in (1, 8))
    assert (one == eight).mean() >= 0.99999


def brute_force(package: ModelPackage, pixels: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Mean logits (K, Y, X): every tile on the padded image, weighted, summed over the whole, in float64."""
    network = Network(package, torch.device("cpu"), "float32", batch=1)
    side_y, side_x = tiling.read
    core_y, core_x = tiling.core
    halo = tiling.halo[0]
    wide = padded(pixels, halo, max(tiling.read))
    sums = np.zeros((len(package.classes), *wide.shape[1:]))
    total = np.zeros(wide.shape[1:])
    weights = np.outer(tile_weights(side_y), tile_weights(side_x)).astype(np.float64)
    for y in range(0, pixels.shape[1], core_y):
        for x in range(0, pixels.shape[2], core_x):
            place = np.s_[y : y + side_y, x : x + side_x]
            with torch.inference_mode():
                logits = network.logits(np.ascontiguousarray(wide[(slice(None), *place)])[None])[0].numpy()
            sums[(slice(None), *place)] += logits * weights
            total[place] += weights
    inside = np.s_[halo : halo + pixels.shape[1], halo : halo + pixels.shape[2]]
    return (sums / np.maximum(total, 1e-300))[(slice(None), *inside)]


@pytest.mark.parametrize(("tile_px", "halo_px"), [(128, None), (128, 32), (96, 8)])
def test_gaussian_equals_the_brute_force(
    ws: Workspace, package: ModelPackage, tile_px: int, halo_px: int | None
) -> None:
    mask = run(
        ws,
        f"brute-{tile_px}-{halo_px}",
        model=package.model_id,
        blend="gaussian",
        tile_px=tile_px,
        halo="fast" if halo_px is None else halo_px,
    )
    tiling = gaussian_tiling((HEIGHT, WIDTH), (tile_px,) * 2, (halo_px or tile_px // 8,) * 2, (2, 2))
    mean = brute_force(package, scene(HEIGHT, WIDTH), tiling)
    best = np.sort(mean, axis=0)
    clear = best[-1] - best[-2] > 1e-4  # nearer ones may fall either way by rounding
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(mask[clear], mean.argmax(axis=0)[clear])


def test_gaussian_equals_crop_where_every_tile_gives_the_same(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    package = conv_package(ws, np.array([[[[1.0]]], [[[0.0]]]]), np.array([0.0, 100.0]), tile_px=64)
    pixels = scene(300, 200)[:1]
    put_image(ws, "a", pixels)
    for blend in ("crop", "gaussian"):
        mask = run(ws, blend, model=package.model_id, blend=blend)
        np.testing.assert_array_equal(mask, pixels[0] < 100)


@pytest.mark.parametrize("value", [3.7, -1234.5])
def test_gaussian_constant_in_constant_out(ws: Workspace, value: float) -> None:
    """Sums of weighted constants over the sum of weights: the constant, up to the border, in every strip."""
    tiling = gaussian_tiling((HEIGHT, WIDTH), (128, 128), (32, 32), (16, 16))
    rows = weight_sums(tiling, 0, 0, HEIGHT)
    columns = weight_sums(tiling, 1, 0, WIDTH)
    sums = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    weights = np.outer(tile_weights(128), tile_weights(128)).astype(np.float32) * np.float32(value)
    for tile in tiling.tiles(Window.whole((HEIGHT, WIDTH))):
        inside = tile.read.intersected(Window.whole((HEIGHT, WIDTH)))
        sums[inside.slices] += weights[inside.relative_to(tile.read.start).slices]
    np.testing.assert_allclose(sums / np.outer(rows, columns), value, rtol=2e-6)


def test_tiles_on_a_units_rim_are_counted_as_repeated(tmp_path: Path) -> None:
    """Two units side by side (4 shards of 256 px): 16 and 5 columns of tiles are theirs, 5 rows each."""
    ws = Workspace.open(str(tmp_path), create=True)
    package = conv_package(ws, np.ones((2, 1, 1, 1)), np.zeros(2), tile_px=80)
    put_image(ws, "a", scene(300, 1300)[:1])
    config = PredictConfig(workspace=ws.uri, model=package.model_id, blend="gaussian", halo=8, shard_px=256, name="rim")
    details = predict(config).items[0].details
    columns = range(-(-1300 // 64))
    left = [i for i in columns if i * 64 - 8 < 1024]
    right = [i for i in columns if i * 64 + 72 > 1024]
    assert details["tiles"] == 5 * (len(left) + len(right))
    assert details["repeated_share"] == pytest.approx(
        (len(left) + len(right) - len(columns)) / (len(left) + len(right)), abs=1e-6
    )


def test_weight_sums_do_not_depend_on_the_window() -> None:
    tiling = gaussian_tiling((HEIGHT, WIDTH), (128, 128), (32, 32), (16, 16))
    np.testing.assert_array_equal(weight_sums(tiling, 0, 100, 400), weight_sums(tiling, 0, 0, HEIGHT)[100:400])


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_nodata_is_ignored_and_not_inferred(ws: Workspace, package: ModelPackage, blend: str) -> None:
    pixels = scene(HEIGHT, WIDTH, seed=5)
    pixels[:, :300] = 0
    pixels[:, 400:410, 200:] = 0
    put_image(ws, f"holed-{blend}", pixels, nodata=0)
    put_image(ws, f"plain-{blend}", pixels)
    common = {"model": package.model_id, "blend": blend, "tile_px": 64, "halo": 16}
    config = {"workspace": ws.uri, "shard_px": 256, "images": (f"holed-{blend}",), **common}
    result = predict(PredictConfig(name="holed", **config))
    mask = mask_of(ws, f"holed-{blend}", "holed")
    valid = (pixels != 0).any(axis=0)
    np.testing.assert_array_equal(mask == 255, ~valid)
    plain = run(ws, "holed", **{**common, "images": (f"plain-{blend}",)})
    # Nearer than the model looks, the empty part is the average to it, and black in the other image.
    far = binary_erosion(valid, np.ones((49, 49)), border_value=1)
    assert far.mean() > 0.3
    np.testing.assert_array_equal(mask[far], plain[far])
    if blend == "crop":  # 11 x 9 tiles of 64 px; 4 rows of them lie in the empty part
        assert result.items[0].details["tiles"] == 99
        assert result.items[0].details["skipped_share"] == pytest.approx(36 / 99, abs=1e-6)
    else:
        assert result.items[0].details["skipped_share"] > 0.3
    image_id = f"holed-{blend}"
    (pace,) = paces(ws, "holed", {image_id: ws.label(image_id, "holed").digest}).values()
    assert (pace.tiles, pace.px) == (result.items[0].details["tiles"], pixels[0].size)
    assert pace.skipped_share == result.items[0].details["skipped_share"]
    assert pace.skipped_by == {"nodata": pace.skipped_share}


def test_a_valid_label_decides_what_is_usable(ws: Workspace, package: ModelPackage) -> None:
    pixels = scene(300, 280, seed=6)
    put_image(ws, "masked", pixels, has_valid=True)
    valid = np.zeros((300, 280), dtype=np.uint8)
    valid[50:220, 30:270] = 1
    put_label(ws, "masked", "valid", valid)
    mask = run(ws, "masked", model=package.model_id, images=("masked",), tile_px=64)
    np.testing.assert_array_equal(mask == 255, valid == 0)
