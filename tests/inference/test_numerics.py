from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from segcore.errors import ConfigError, SegcoreError
from segcore.inference.decision import best_class
from segcore.inference.numerics import Network, NotFiniteError, resolve_device
from segcore.inference.prepared import fold_batch_norm
from segcore.models.package import ModelPackage
from segcore.store import Workspace
from tests.inference.scenes import MEAN, STD, conv_package, scene, unet_package

CPU = torch.device("cpu")


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return unet_package(Workspace.open(str(tmp_path), create=True))


def plain_logits(package: ModelPackage, tiles: np.ndarray) -> torch.Tensor:
    """The package's own model, unfolded, on pixels normalised by hand."""
    shape = (1, 3, 1, 1)
    normal = (tiles.astype(np.float32) - np.reshape(MEAN, shape)) / np.reshape(STD, shape)
    with torch.inference_mode():
        return package.load_weights()(torch.from_numpy(normal.astype(np.float32)))


def test_network_answers_as_the_plain_model(package: ModelPackage) -> None:
    tiles = np.stack([scene(64, 96, seed) for seed in range(3)])
    logits = Network(package, CPU, "float32", batch=3).logits(tiles)
    expected = plain_logits(package, tiles)
    assert logits.shape == (3, 3, 64, 96)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_ids_are_those_of_the_centre(package: ModelPackage) -> None:
    tiles = scene(64, 96)[None]
    ids = Network(package, CPU, "float32", batch=1).ids(tiles, halo=(16, 16))
    assert ids.dtype == np.uint8
    expected = plain_logits(package, tiles).argmax(dim=1).numpy()[:, 16:-16, 16:-16]
    assert ids.shape == expected.shape
    assert (ids == expected).mean() > 0.9999
    assert set(np.unique(ids)) == {0, 1, 2}


def test_place_in_the_batch_does_not_change_a_bit(package: ModelPackage) -> None:
    tiles = np.stack([scene(64, 64, seed) for seed in range(8)])
    network = Network(package, CPU, "float32", batch=8)
    with torch.inference_mode():
        forwards, backwards = network.logits(tiles), network.logits(tiles[::-1].copy())
    assert torch.equal(forwards, backwards.flip(0))


def test_fold_leaves_the_answers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8))
    for _ in range(5):
        model(torch.randn(4, 3, 16, 16) * 3 + 1)
    model.eval()
    tiles = torch.randn(2, 3, 16, 16)
    expected = model(tiles)
    folded = fold_batch_norm(model)
    torch.testing.assert_close(folded(tiles), expected, rtol=1e-5, atol=1e-5)
    assert [type(layer).__name__ for layer in folded.children()] == ["Conv2d", "Identity", "ReLU", "BatchNorm2d"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("num_classes", [1, 2, 3, 9, 300])
def test_best_class_is_the_first_of_the_highest(num_classes: int, layout: torch.memory_format) -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (2, num_classes, 9, 7)).astype(np.float32)  # few values: many ties
    ids = best_class(torch.from_numpy(logits).to(memory_format=layout)).numpy()
    np.testing.assert_array_equal(ids, logits.argmax(axis=1))
    assert ids.dtype == (np.uint8 if num_classes <= 255 else np.uint16)


@pytest.mark.parametrize("value", [(3e38, 3e38), (-3e38, -3e38), (3e38, -3e38)])  # logits inf, -inf, NaN
def test_not_finite_logits_are_refused_and_their_tile_named(tmp_path: Path, value: tuple[float, float]) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    package = conv_package(ws, np.full((2, 2, 1, 1), 10), np.zeros(2), dtype="float32")
    tiles = np.ones((3, 2, 8, 8), dtype=np.float32)
    tiles[1, :, 2, 2] = value
    with pytest.raises(NotFiniteError, match="expected finite logits, got 2 that are NaN or Inf in float32") as error:
        Network(package, CPU, "float32", batch=3).ids(tiles, halo=(0, 0))
    assert error.value.tile == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("nodata", [-9999.0, float(np.finfo(np.float32).min), np.nan, None])
def test_missing_values_of_float_images_count_as_average(tmp_path: Path, nodata: float | None, dtype: str) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    package = conv_package(ws, np.ones((1, 2, 3, 3)), np.zeros(1), dtype=dtype)
    tiles = np.ones((1, 2, 8, 8), dtype=dtype)
    holed = tiles.copy()
    tiles[:, :, 3, 3] = tiles[:, 1, 5] = tiles[:, 0, 0, 0] = 0  # the mean of this model's contract
    with np.errstate(over="ignore"):  # the lowest float32 is -inf in float16
        holed[:, :, 3, 3] = holed[:, 1, 5] = np.nan if nodata is None else nodata
    holed[:, 0, 0, 0] = np.inf
    network = Network(package, CPU, "float32", batch=1)
    assert torch.equal(network.logits(holed, nodata), network.logits(tiles))


def test_out_of_memory_halves_the_batch(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = np.stack([scene(64, 64, seed) for seed in range(8)])
    network = Network(package, CPU, "float32", batch=8)
    expected = network.ids(tiles, halo=(0, 0))
    forward, sizes = network.forward, []

    def small_device(tiles_ncyx: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tiles_ncyx))
        if len(tiles_ncyx) > 3:
            raise torch.OutOfMemoryError("no memory")
        return forward(tiles_ncyx)

    monkeypatch.setattr(network, "forward", small_device)
    assert (network.ids(tiles, halo=(0, 0)) == expected).mean() > 0.99999
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert network.fits == 2
    monkeypatch.setattr(network, "forward", lambda tiles: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(SegcoreError, match="out of memory with a single tile"):
        network.ids(tiles, halo=(0, 0))


def test_resolve_device_names_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    with pytest.raises(ConfigError, match=r"device cuda: .* here \(cpu\)"):
        resolve_device("cuda")
