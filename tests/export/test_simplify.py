"""Simplified outlines: within the tolerance, valid, the same on both sides of a border, however the mask was cut."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from scipy import ndimage
from skimage.measure import label

from segcore.export.polygons import trace_windows
from segcore.geometry import Window

SIDES = (70, 90)


def _blobs(seed: int, classes: int, sigma: float) -> npt.NDArray[np.uint8]:
    """Touching blobs of several classes, and background."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.random(SIDES), sigma) for _ in range(classes)]
    return np.argmax(fields, axis=0).astype(np.uint8)


def _traced(ids: npt.NDArray[Any], window_px: int, tolerance: float) -> dict[int, shapely.Polygon]:
    """By first pixel."""

    def read(window: Window) -> npt.NDArray[Any]:
        return ids[window.slices]

    found = list(trace_windows(read, ids.shape, window_px, {0}, None, tolerance))
    return {int(px): o for part in found for px, o in zip(part.first_px, part.polygons, strict=True)}


@pytest.mark.parametrize("tolerance", [0.5, 1, 2.5])
@pytest.mark.parametrize("sigma", [0, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_outlines_stay_valid_and_within_the_tolerance(seed: int, sigma: float, tolerance: float) -> None:
    ids = _blobs(seed, 3, sigma)
    exact, found = _traced(ids, 128, 0), _traced(ids, 128, tolerance)
    assert exact.keys() == found.keys()
    for place, outline in exact.items():
        simple = found[place]
        assert simple.is_valid
        assert simple.geom_type == "Polygon"
        assert len(simple.interiors) == len(outline.interiors)
        assert shapely.hausdorff_distance(outline.boundary, simple.boundary, densify=0.1) <= tolerance + 1e-6
        assert abs(simple.area - outline.area) <= tolerance * outline.length


@pytest.mark.parametrize("sigma", [0, 1, 3])
@pytest.mark.parametrize("window_px", [7, 16, 33])
def test_windows_give_the_same_lines_as_one_piece(window_px: int, sigma: float) -> None:
    ids = _blobs(1, 3, sigma)
    whole, found = _traced(ids, 128, 1.5), _traced(ids, window_px, 1.5)
    assert whole.keys() == found.keys()
    assert all(whole[place].normalize() == found[place].normalize() for place in whole)


@pytest.mark.parametrize("tolerance", [0.8, 1.5])
@pytest.mark.parametrize("window_px", [16, 128])
def test_neighbours_keep_one_border(window_px: int, tolerance: float) -> None:
    ids = (_blobs(4, 5, 4) + 1).astype(np.uint8)  # no background: everything has a neighbour
    found = list(_traced(ids, window_px, tolerance).values())
    exact = list(_traced(ids, window_px, 0).values())
    assert len(shapely.get_coordinates(found)) < 0.6 * len(shapely.get_coordinates(exact))
    assert shapely.coverage_is_valid(found)
    assert shapely.area(found).sum() == pytest.approx(shapely.union_all(found).area)
    assert shapely.union_all(found).area == pytest.approx(ids.size, abs=0.5)  # borders of the image are straight


def test_objects_smaller_than_the_tolerance_keep_their_pixels() -> None:
    ids = np.zeros((9, 9), np.uint8)
    ids[1, 1] = ids[4:6, 4] = 1
    found = _traced(ids, 4, 3)
    assert list(found) == [10, 40]
    assert found[10].equals(shapely.box(1, 1, 2, 2))
    assert found[40].equals(shapely.box(4, 4, 5, 6))


def test_nothing_moves_where_the_mask_is_a_rectangle() -> None:
    ids = np.zeros((40, 40), np.uint8)
    ids[5:30, 7:21] = 1
    ids[10:14, 9:12] = 0
    (found,) = _traced(ids, 8, 1).values()
    assert found.equals(_traced(ids, 64, 0)[5 * 40 + 7])
    assert len(found.exterior.coords) == 5
    assert label(ids).max() == 1
