"""Colour: each operation against a closed form or skimage; what is constant or not drawn stays finite and the same."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from skimage.color import hed2rgb, rgb2hed

from segcore.augment import draw_augmentation
from segcore.augment.colour import recolour
from tests.augment.made import doing_nothing, only, some_tiles

MEAN, STD = (180.0, 120.0, 160.0), (40.0, 50.0, 30.0)


def normalised(rgb_yxc: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis((rgb_yxc - MEAN) / STD, -1, 0).astype(np.float32))[None]


def to_rgb(tiles: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tiles[0].numpy().astype(float), 0, -1) * STD + MEAN


def stained_picture() -> np.ndarray:
    """RGB 0..255 of stains that are all positive, where skimage clips nothing."""
    hed = np.random.default_rng(0).uniform(0.005, 0.06, (24, 24, 3))
    return hed2rgb(hed) * 255


def test_recolour_by_nothing_changes_nothing() -> None:
    tiles, _ = some_tiles()
    found = tiles.clone()
    recolour(found, doing_nothing(2, 3), MEAN, STD)
    assert torch.equal(found, tiles)


def test_stain_is_skimages() -> None:
    rgb = stained_picture()
    what = doing_nothing(1, 3)
    factor, summand = np.array([1.2, 0.8, 1.1]), np.array([0.05, -0.02, 0.04])
    what.stain[0] = factor, summand
    tiles = normalised(rgb)
    recolour(tiles, what, MEAN, STD)
    # skimage divides optical densities by -log(1e-6).
    expected = hed2rgb(rgb2hed(rgb / 255) * factor + summand / -np.log(1e-6)) * 255
    np.testing.assert_allclose(to_rgb(tiles), expected, atol=0.1)
    assert np.abs(to_rgb(tiles) - rgb).max() > 10


def test_stain_that_hardly_changes_keeps_the_colours() -> None:
    """Also those that are no mixture of stains, which skimage's own way there and back loses."""
    rgb = np.random.default_rng(1).uniform(1, 255, (16, 16, 3))
    what = doing_nothing(1, 3)
    what.stain[0, 0, 0] = 1 + 1e-6
    tiles = normalised(rgb)
    recolour(tiles, what, MEAN, STD)
    np.testing.assert_allclose(to_rgb(tiles), rgb, atol=0.05)


def test_light_and_gamma_are_per_band_and_tile() -> None:
    tiles = torch.linspace(-1, 3, 16).reshape(1, 1, 4, 4).repeat(2, 2, 1, 1)
    before = tiles.clone()
    what = doing_nothing(2, 2)
    what.gamma[0, 0] = 2.0
    what.light[0, :, 1] = 3.0, 0.5
    recolour(tiles, what, (0.0, 0.0), (1.0, 1.0))
    torch.testing.assert_close(tiles[0, 0], ((before[0, 0] + 1) / 4) ** 2 * 4 - 1, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tiles[0, 1], (before[0, 1] - 1) * 3 + 1 + 0.5, atol=1e-5, rtol=1e-5)
    assert torch.equal(tiles[1], before[1])


def test_blur_is_scipys() -> None:
    tiles, _ = some_tiles()
    before = tiles.numpy().copy()
    what = doing_nothing(2, 3)
    what.blur[1] = 0.25
    recolour(tiles, what, MEAN, STD)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    for band in range(3):
        blurred = convolve(before[1, band].astype(float), kernel, mode="mirror")
        np.testing.assert_allclose(tiles[1, band], 0.75 * before[1, band] + 0.25 * blurred, atol=1e-5)
    assert np.array_equal(tiles[0], before[0])


def test_noise_is_of_the_deviation_and_seed_of_its_tile() -> None:
    what = doing_nothing(3, 1)
    what.noise[:], what.noise_seed[:] = [0.5, 0.5, 0.0], [7, 8, 7]
    first, second = torch.zeros(3, 1, 128, 128), torch.zeros(3, 1, 128, 128)
    recolour(first, what, (0.0,), (1.0,))
    recolour(second, what, (0.0,), (1.0,))
    assert torch.equal(first, second)
    assert first[0].std() == pytest.approx(0.5, rel=0.03)
    assert not torch.equal(first[0], first[1])
    assert not first[2].any()


def test_dropped_bands_are_their_mean_and_some_are_left() -> None:
    tiles = torch.ones(64, 8, 4, 4)
    recolour(tiles, draw_augmentation(only(bands=1.0), 0, 0, 64, 8), (0.0,) * 8, (1.0,) * 8)
    num_dropped = (tiles == 0).all(-1).all(-1).sum(1)
    assert set(num_dropped.tolist()) == {1, 2}  # at most a quarter
    assert (tiles == 0).all(-1).all(-1).any(0).all()  # any of them


def test_a_constant_tile_stays_finite() -> None:
    tiles = torch.full((4, 3, 16, 16), 1.5)
    everything = only(light=1, gamma=1, blur=1, noise=1, stain=1, bands=1)
    for step in range(5):
        recolour(tiles, draw_augmentation(everything, 0, step, 4, 3), MEAN, STD)
    assert torch.isfinite(tiles).all()
