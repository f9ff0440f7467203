"""Regions are those of scikit-image; merged as its region graph merges them, each with the class of its mean."""

from typing import Any

import numpy as np
import pytest
from skimage.filters import threshold_multiotsu, threshold_otsu
from skimage.graph import cut_threshold, rag_mean_color
from skimage.segmentation import felzenszwalb, slic

from segcore.errors import ConfigError
from segcore.models.classic.regions import means_of, merged
from tests.models.classic.scenes import answered, discs

SLIC: dict[str, Any] = {"segment_px": 8, "compactness": 0.05}


def painted(values: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Each pixel with the mean of its region, one region after the other."""
    found = np.empty_like(values)
    for number in np.unique(regions):
        found[regions == number] = values[regions == number].mean()
    return found


def superpixels(tile: np.ndarray) -> np.ndarray:
    count = round(tile.shape[1] * tile.shape[2] / 64)
    return slic(tile.transpose(1, 2, 0), count, 0.05, convert2lab=False, start_label=0)


@pytest.mark.parametrize("sigma", [0.0, 0.8])
def test_felzenszwalb_gives_each_region_the_class_of_its_mean(sigma: float) -> None:
    tile = discs(0)
    regions = felzenszwalb(tile.transpose(1, 2, 0), scale=30, sigma=sigma, min_size=15)
    if sigma == 0:
        means = painted(tile.mean(axis=0), regions)
        expected = means > threshold_otsu(means)
        assert np.array_equal(answered("felzenszwalb", tile, scale=30, sigma=0, min_size=15), expected)
    assert len(np.unique(regions)) > 3
    fixed = answered("felzenszwalb", tile, scale=30, sigma=sigma, min_size=15, threshold=0.5)
    assert len(np.unique(regions[fixed == 1])) + len(np.unique(regions[fixed == 0])) == len(np.unique(regions))


def test_slic_gives_each_superpixel_the_class_of_its_mean() -> None:
    tile = discs(1)
    means = painted(tile.mean(axis=0), superpixels(tile))
    assert np.array_equal(answered("slic", tile, sigma=0, **SLIC), means > threshold_otsu(means))
    assert np.array_equal(answered("slic", tile, sigma=0, threshold=0.4, **SLIC), means > 0.4)
    dark = answered("slic", tile, sigma=0, threshold=0.4, foreground="dark", **SLIC)
    assert np.array_equal(dark, means < 0.4)


def test_several_classes_are_told_by_the_means() -> None:
    tile = discs(2)
    means = painted(tile.mean(axis=0), superpixels(tile))
    expected = (means[..., None] > threshold_multiotsu(means, 3)).sum(axis=-1)
    assert np.array_equal(answered("slic", tile, 3, sigma=0, **SLIC), expected)
    with pytest.raises(ConfigError, match=r"^architecture slic: threshold: one tells two classes apart, got 3; leave"):
        answered("slic", tile, 3, threshold=0.5)


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.1, 1.0])
def test_neighbours_merge_as_in_the_region_graph_of_scikit_image(limit: float) -> None:
    colours = discs(3).transpose(1, 2, 0)
    regions = superpixels(discs(3)) + 1
    expected = cut_threshold(regions, rag_mean_color(colours, regions), limit)
    found = merged(colours, regions, limit)
    pairs = np.unique(np.stack((found.ravel(), expected.ravel())), axis=1)
    assert pairs.shape[1] == len(np.unique(found)) == len(np.unique(expected))
    assert (len(np.unique(found)) == 1) == (limit == 1.0)


def test_merged_regions_are_classed_as_one() -> None:
    tile = discs(4)
    whole = merged(tile.transpose(1, 2, 0), superpixels(tile), 0.06)
    means = means_of(tile.mean(axis=0), whole)[whole]
    np.testing.assert_allclose(means, painted(tile.mean(axis=0), whole), atol=1e-12)
    assert np.array_equal(answered("slic", tile, sigma=0, merge=0.06, threshold=0.45, **SLIC), means > 0.45)
