"""Stains are those of scikit-image in units of optical density; indices follow their formula."""

import numpy as np
import pytest
from skimage.color import hed2rgb, rgb2hed

from segcore.errors import ConfigError
from segcore.models.classic.colour import STAINS, Stain, StainArguments
from tests.models.classic.scenes import answered, discs


@pytest.mark.parametrize("stain", STAINS)
def test_stains_are_told_apart_as_in_scikit_image(stain: str) -> None:
    tile = discs(0)
    tile[1] *= 0.6  # pink
    amount = 6 * rgb2hed(tile, channel_axis=0)[STAINS[stain]]  # its unit is a density of 6
    model = Stain(StainArguments(in_channels=3, num_classes=2, stain=stain))
    np.testing.assert_allclose(np.maximum(model.amount(tile), 0), amount, atol=1e-9)
    limit = float(np.quantile(amount, 0.6))
    assert np.array_equal(answered("stain", tile, stain=stain, threshold=limit), amount > limit)


def test_nuclei_are_found_beside_eosin_and_glass() -> None:
    amounts = np.zeros((8, 24, 3))
    amounts[:, :8, 0] = 0.8 / 6  # haematoxylin
    amounts[:, 8:16, 1] = 0.8 / 6  # eosin; the rest is glass
    tile = hed2rgb(amounts).transpose(2, 0, 1)
    expected = np.zeros((8, 24), np.int64)
    expected[:, :8] = 1
    assert np.array_equal(answered("stain", tile.astype(np.float32)), expected)
    with pytest.raises(ConfigError, match=r"^architecture stain: stains are told by red, green and blue, got 1 bands$"):
        answered("stain", tile[:1])


def test_indices_follow_their_formula_on_the_bands_that_are_named() -> None:
    red, green, _, nir = tile = np.random.default_rng(0).random((4, 16, 16)).astype(np.float32).astype(np.float64)
    assert np.array_equal(answered("ndvi", tile), (nir - red) / (nir + red) > 0.3)
    assert np.array_equal(answered("ndwi", tile), (green - nir) / (green + nir) > 0)
    given = {"nir": 1, "red": 2, "threshold": 0.1}
    assert np.array_equal(answered("ndvi", tile, **given), (tile[1] - tile[2]) / (tile[1] + tile[2]) > 0.1)
    with pytest.raises(ConfigError, match=r"^architecture ndwi: green 7: expected one of the image's 4 bands, 0 to 3$"):
        answered("ndwi", tile, green=7)


def test_an_index_of_nothing_is_none() -> None:
    assert answered("ndvi", np.zeros((4, 4, 4)), threshold=-0.1).all()
    assert not answered("ndvi", np.zeros((4, 4, 4)), threshold=0.0).any()
