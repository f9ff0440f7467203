"""What grows from markers: as scikit-image on the same markers, and as worked out by hand."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import canny
from skimage.filters import sobel, threshold_otsu
from skimage.segmentation import random_walker, watershed

from tests.models.classic.scenes import answered, discs

GROWING = ("edges_watershed", "region_growing", "random_walker")


def marked(values: np.ndarray, margin: float) -> np.ndarray:
    middle = threshold_otsu(values)
    markers = np.zeros(values.shape, np.int64)
    markers[values < middle - margin], markers[values > middle + margin] = 1, 2
    return markers


def test_watershed_floods_the_slope_from_the_markers() -> None:
    values = discs(0).mean(axis=0)
    expected = watershed(sobel(values), marked(values, 0.1)) == 2
    assert np.array_equal(answered("edges_watershed", discs(0), sigma=0, margin=0.1), expected)
    lines = canny(values, sigma=0, low_threshold=0.15, high_threshold=0.3)
    assert 0.01 < lines.mean() < 0.5
    expected = watershed(lines.astype(float), marked(values, 0.1)) == 2
    given = {"edges": "canny", "edge": 0.3, "sigma": 0, "margin": 0.1}
    assert np.array_equal(answered("edges_watershed", discs(0), **given), expected)


def test_random_walker_is_that_of_scikit_image() -> None:
    values = discs(1).mean(axis=0)
    expected = random_walker(values, marked(values, 0.08), beta=500, prob_tol=np.inf) == 2
    ids = answered("random_walker", discs(1), sigma=0, margin=0.08, beta=500)
    assert np.array_equal(ids, expected)
    assert not np.array_equal(ids, values > threshold_otsu(values)), "walkers do more than a threshold"


def test_regions_grow_from_their_seeds_over_what_is_not_surely_background() -> None:
    values = discs(2).mean(axis=0)
    markers = marked(values, 0.08)
    labels, count = ndimage.label(markers != 1)
    expected = np.zeros(values.shape, bool)
    for number in range(1, count + 1):
        expected |= (labels == number) & (markers[labels == number] == 2).any()
    assert np.array_equal(answered("region_growing", discs(2), sigma=0, margin=0.08), expected)
    assert (expected & (markers == 0)).any()
    assert (~expected & (markers == 0)).any()


@pytest.mark.parametrize("name", GROWING)
def test_what_lies_between_is_of_whom_it_touches(name: str) -> None:
    """A dim ring around a bright core is grown over; a dim island that touches nothing bright is not, but by walkers
    and water, which know no more than that the ground surrounds it."""
    tile = np.full((1, 24, 24), 0.1)
    tile[0, 4:12, 4:12] = 0.55
    tile[0, 6:10, 6:10] = 0.9
    tile[0, 18:21, 18:21] = 0.5
    ids = answered(name, tile, sigma=0, threshold=0.5, margin=0.2)
    assert ids[6:10, 6:10].all()
    assert not ids[18:21, 18:21].any()
    if name == "region_growing":
        assert np.array_equal(ids[:16, :16], tile[0, :16, :16] > 0.3)


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize(("threshold", "expected"), [(0.2, 1), (0.8, 0)])
def test_markers_of_one_kind_alone_take_the_tile(name: str, threshold: float, expected: int) -> None:
    tile = np.full((1, 8, 8), 0.5)
    assert (answered(name, tile, sigma=0, threshold=threshold) == expected).all()


@pytest.mark.parametrize("name", GROWING)
def test_dark_is_bright_turned_over(name: str) -> None:
    tile = discs(3)
    turned = 1 - tile  # float32 holds both
    given = {"sigma": 0, "margin": 0.1}
    bright = answered(name, tile, threshold=0.5, **given)
    dark = answered(name, turned, threshold=0.5, foreground="dark", **given)
    assert (bright == dark).mean() > 0.999
    assert 0.02 < bright.mean() < 0.98
