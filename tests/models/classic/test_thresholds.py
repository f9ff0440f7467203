"""Thresholds are those of scikit-image, and what a class is follows from them."""

import numpy as np
import pytest
from skimage.filters import gaussian, threshold_local, threshold_multiotsu, threshold_otsu

from segcore.errors import ConfigError
from segcore.models.classic.thresholds import classed, multi_otsu
from tests.models.classic.scenes import answered, discs


def grey(seed: int, sigma: float = 0.0) -> np.ndarray:
    values = discs(seed).mean(axis=0)
    return gaussian(values, sigma, mode="reflect") if sigma else values


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_otsu_is_above_the_threshold_of_the_tile(sigma: float) -> None:
    values = grey(0, sigma)
    ids = answered("otsu", discs(0), sigma=sigma)
    assert np.array_equal(ids, values > threshold_otsu(values))
    dark = answered("otsu", discs(0), sigma=sigma, foreground="dark")
    assert np.array_equal(dark, values < threshold_otsu(values))


@pytest.mark.parametrize("classes", [3, 4])
def test_multi_otsu_counts_the_thresholds_below(classes: int) -> None:
    values = grey(1)
    expected = (values[..., None] > threshold_multiotsu(values, classes)).sum(axis=-1)
    ids = answered("multi_otsu", discs(1), classes, sigma=0)
    assert np.array_equal(ids, expected)
    assert set(np.unique(ids)) == set(range(classes))


def test_multi_otsu_of_dark_numbers_the_classes_from_the_brightest() -> None:
    tile = np.repeat(np.array([0.1, 0.5, 0.9]), 8).reshape(1, 4, 6)
    bright, dark = (answered("multi_otsu", tile, 3, sigma=0, foreground=side) for side in ("bright", "dark"))
    assert np.array_equal(bright.ravel(), np.repeat([0, 1, 2], 8))
    assert np.array_equal(dark.ravel(), np.repeat([2, 1, 0], 8))


def test_multi_otsu_with_fewer_levels_than_classes_leaves_the_last_ones_empty() -> None:
    values = np.array([[0.2, 0.2, 0.7]])
    assert np.array_equal(classed(-values, multi_otsu(-values, 4, sign=-1)), [[1, 1, 0]])
    assert np.array_equal(classed(values, multi_otsu(values, 4)), [[0, 0, 1]])
    assert np.array_equal(classed(np.full((2, 2), 0.3), multi_otsu(np.full((2, 2), 0.3), 3)), np.zeros((2, 2)))


def test_multi_otsu_refuses_more_classes_than_it_can_search() -> None:
    with pytest.raises(ConfigError, match=r"^architecture multi_otsu: it tells 2 to 5 classes apart .*, got 6$"):
        answered("multi_otsu", discs(0), 6)


@pytest.mark.parametrize("method", ["mean", "gaussian"])
@pytest.mark.parametrize("offset", [0.0, 0.03])
def test_local_threshold_is_that_of_scikit_image(method: str, offset: float) -> None:
    values = grey(2)
    limit = threshold_local(values, 21, method, offset=-offset, mode="reflect")
    ids = answered("local_threshold", discs(2), sigma=0, window=21, offset=offset, method=method)
    assert np.array_equal(ids, values > limit)
    assert 0.1 < ids.mean() < 0.9


def test_local_threshold_of_dark_finds_what_is_darker_than_around_it() -> None:
    tile = np.full((1, 30, 30), 0.6)
    tile[0, 12:15, 12:15] = 0.4
    ids = answered("local_threshold", tile, sigma=0, window=11, foreground="dark")
    assert np.array_equal(ids, tile[0] < 0.5)


def test_an_even_window_is_one_more_so_that_tune_may_try_any() -> None:
    odd, even = (answered("local_threshold", discs(0), window=window) for window in (21, 20))
    assert np.array_equal(odd, even)
