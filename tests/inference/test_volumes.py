"""Volumes and sequences: models of planes go plane by plane, models of volumes see their neighbours too."""

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcore.config import PredictConfig
from segcore.geometry import Window, reflected
from segcore.inference import predict
from segcore.inference.gaussian import tile_weights
from segcore.inference.tiling import gaussian_tiling
from segcore.models.package import ModelPackage
from segcore.store import Workspace, verify
from tests.inference.scenes import mask_of, unet_package, volume_package, whole_image_mask
from tests.synthetic import put_image

SHAPE = (7, 300, 270)
"""Of the volumes: planes, y, x."""


def volume(num_channels: int, seed: int = 0) -> np.ndarray:
    """Seeded noise under slowly changing blocks, (C, planes, Y, X)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 200, (num_channels, SHAPE[0], 38, 34))
    blocks = coarse.repeat(8, axis=2).repeat(8, axis=3)[:, :, : SHAPE[1], : SHAPE[2]]
    return (blocks + rng.integers(0, 50, blocks.shape)).astype(np.uint8)


def run(ws: Workspace, package: ModelPackage, name: str, **settings: Any) -> np.ndarray:
    config = {"workspace": ws.uri, "model": package.model_id, "name": name, "shard_px": 256, "precision": "float32"}
    result = predict(PredictConfig.model_validate({**config, **settings}))
    assert [item.error for item in result.items] == [None]
    assert verify(ws) == []
    return mask_of(ws, "a", name)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path), create=True)


@pytest.mark.parametrize("axes", [("c", "z", "y", "x"), ("t", "c", "y", "x")])
def test_a_model_of_planes_takes_each_plane_as_an_image(ws: Workspace, axes: tuple[str, ...]) -> None:
    pixels = volume(3)
    put_image(ws, "a", np.moveaxis(pixels, 0, axes.index("c")), axes=axes)
    package = unet_package(ws, tile_px=64)
    mask = run(ws, package, "planes", blend="crop")
    assert mask.shape == SHAPE
    for plane in (0, 3, 6):
        np.testing.assert_array_equal(mask[plane], whole_image_mask(package, pixels[:, plane], 16))


def logits_of(package: ModelPackage, pixels: np.ndarray, halo: tuple[int, int, int]) -> np.ndarray:
    """(K, planes, Y, X) of a one-layer model on the mirrored volume, in float64."""
    weights = package.load_weights().state_dict()
    kernel, bias = weights["conv.weight"].double().numpy(), weights["conv.bias"].double().numpy()
    reach = tuple(side // 2 for side in kernel.shape[2:])
    wide = pixels.astype(np.float64)
    for axis, (margin, side) in enumerate(zip(reach, pixels.shape[1:], strict=True), start=1):
        wide = wide.take(reflected(-margin, side + 2 * margin, side), axis=axis)
    windows = np.lib.stride_tricks.sliding_window_view(wide, kernel.shape[2:], axis=(1, 2, 3))
    return np.einsum("czyxijk,ocijk->ozyx", windows, kernel) + bias[:, None, None, None]


def clear_and_best(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    best = np.sort(logits, axis=0)
    return best[-1] - best[-2] > 1e-2, logits.argmax(axis=0)


@pytest.mark.parametrize("axes", [("c", "z", "y", "x"), ("t", "c", "y", "x")])
@pytest.mark.parametrize("tile_planes", [1, 2, 4, 9])
def test_a_model_of_volumes_sees_the_planes_beside(ws: Workspace, axes: tuple[str, ...], tile_planes: int) -> None:
    pixels = volume(2)
    put_image(ws, "a", np.moveaxis(pixels, 0, axes.index("c")), axes=axes)
    own = tuple(axis for axis in axes if axis != "c")
    package = volume_package(ws, num_channels=2, kernel_px=5, kernel_planes=3, axes=own)
    mask = run(ws, package, "volume", tile_planes=tile_planes, tile_px=128)
    clear, best = clear_and_best(logits_of(package, pixels, (1, 2, 2)))
    assert clear.mean() > 0.99
    assert min(np.bincount(best.ravel())) > 1000
    np.testing.assert_array_equal(mask[clear], best[clear])


def test_gaussian_sums_over_planes_too(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose answer depends on the place in the tile would show; here every tile says the same, so must all."""
    pixels = volume(2)
    put_image(ws, "a", pixels, axes=("c", "z", "y", "x"))
    package = volume_package(ws, num_channels=2, kernel_px=1, kernel_planes=1, axes=("z", "y", "x"))
    settings = {"blend": "gaussian", "tile_px": 64, "halo": 8, "tile_planes": 4, "halo_planes": 1}
    whole = run(ws, package, "whole", **settings)
    clear, best = clear_and_best(logits_of(package, pixels, (0, 0, 0)))
    np.testing.assert_array_equal(whole[clear], best[clear])
    monkeypatch.setattr("segcore.inference.gaussian.STRIP_BYTES", 1)  # as few planes at once as there can be
    np.testing.assert_array_equal(run(ws, package, "cut", **settings), whole)


@pytest.mark.parametrize("axes", [("c", "z", "y", "x"), ("t", "c", "y", "x")])
def test_gaussian_equals_the_brute_force(ws: Workspace, axes: tuple[str, ...]) -> None:
    """Flat tiles of a model that looks beyond them: summed over the whole volume, in float64."""
    pixels = volume(2)
    put_image(ws, "a", np.moveaxis(pixels, 0, axes.index("c")), axes=axes)
    own = tuple(axis for axis in axes if axis != "c")
    package = volume_package(ws, num_channels=2, kernel_px=5, kernel_planes=3, axes=own)
    settings = {"tile_px": 96, "halo": 8, "tile_planes": 4, "halo_planes": 1}
    mask = run(ws, package, "summed", blend="gaussian", **settings)
    tiling, model = gaussian_tiling(SHAPE, (4, 96, 96), (1, 8, 8), (1, 1, 1)), package.load_weights()
    sums, total = np.zeros((3, *SHAPE)), np.zeros(SHAPE)
    weights = reduce(np.multiply.outer, map(tile_weights, tiling.read)).astype(np.float64)
    for tile in tiling.tiles(Window.whole(SHAPE)):
        seen = pixels
        for axis, (start, side, size) in enumerate(zip(tile.read.start, tile.read.shape, SHAPE, strict=True), start=1):
            seen = seen.take(reflected(start, side, size), axis=axis)
        with torch.inference_mode():
            logits = model(torch.from_numpy(seen).float()[None])[0].double().numpy()
        inside = tile.read.intersected(Window.whole(SHAPE))
        part = inside.relative_to(tile.read.start).slices
        cut = weights[tuple(slice(n) for n in logits.shape[1:])]
        sums[(slice(None), *inside.slices)] += (logits * cut)[(slice(None), *part)]
        total[inside.slices] += weights[part]
    clear, best = clear_and_best(sums / total)
    assert clear.mean() > 0.99
    assert min(np.bincount(best.ravel())) > 1000
    np.testing.assert_array_equal(mask[clear], best[clear])


def test_a_killed_volume_goes_on(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = volume(2)
    put_image(ws, "a", pixels, axes=("c", "z", "y", "x"))
    package = volume_package(ws, num_channels=2, kernel_px=3, kernel_planes=3, axes=("z", "y", "x"))
    reference = run(ws, package, "reference", tile_planes=3)
    written = [0]
    from segcore.store import Staging

    write = Staging.write_shard

    def dies(self: Staging, *args: Any, **kwargs: Any) -> None:
        written[0] += 1
        if written[0] == 9:
            raise KeyboardInterrupt
        write(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "write_shard", dies)
        with pytest.raises(KeyboardInterrupt):
            run(ws, package, "killed", tile_planes=3)
    np.testing.assert_array_equal(run(ws, package, "killed", tile_planes=3), reference)


def test_an_image_of_planes_is_no_volume(ws: Workspace) -> None:
    put_image(ws, "a", volume(2)[:, 0])
    package = volume_package(ws, num_channels=2, kernel_px=3, kernel_planes=3, axes=("z", "y", "x"))
    result = predict(PredictConfig(workspace=ws.uri, model=package.model_id))
    assert "the model sees tiles of the axes z, y, x, the image has y, x" in str(result.items[0].error)
