"""Outlines traced window by window against the whole mask traced at once, and burnt back into pixels."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
import shapely
from shapely.geometry import shape
from skimage.measure import label

from segcore.export.polygons import trace_windows
from segcore.geometry import Window


def _blobs(seed: int, sides: tuple[int, int], share: float) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return ((rng.random(sides) < share) * rng.integers(1, 3, sides)).astype(np.uint8)


def _windows(ids: npt.NDArray[np.uint8], window_px: int) -> list[tuple[int, shapely.Polygon]]:
    def read(window: Window) -> npt.NDArray[np.uint8]:
        return ids[window.slices]

    found = trace_windows(read, ids.shape, window_px, {0})
    return [pair for part in found for pair in zip(part.ids.tolist(), part.polygons, strict=True)]


def _whole(ids: npt.NDArray[np.uint8]) -> list[tuple[int, shapely.Polygon]]:
    """By rasterio alone, in one piece."""
    found = rasterio.features.shapes(ids, mask=ids > 0, connectivity=4)
    return [(int(value), shape(geometry)) for geometry, value in found]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("window_px", [5, 8, 64])
def test_windows_give_the_same_objects_as_one_piece(share: float, window_px: int) -> None:
    ids = _blobs(int(share * 100), (37, 29), share)
    found, whole = _windows(ids, window_px), _whole(ids)
    assert len(found) == len(whole)
    by_place = {(k, o.normalize().wkb) for k, o in whole}
    assert {(k, o.normalize().wkb) for k, o in found} == by_place


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_outlines_are_valid_and_burn_back_into_the_mask(share: float) -> None:
    ids = _blobs(1, (41, 33), share)
    found = _windows(ids, 8)
    assert all(outline.is_valid and outline.geom_type == "Polygon" for _, outline in found)
    burnt = rasterio.features.rasterize([(outline, k) for k, outline in found], out_shape=ids.shape, dtype="uint8")
    np.testing.assert_array_equal(burnt, ids)
    assert sum(outline.area for _, outline in found) == (ids != 0).sum()


def test_number_of_objects_is_that_of_4_connected_components() -> None:
    ids = (_blobs(2, (60, 60), 0.5) > 0).astype(np.uint8)
    assert len(_windows(ids, 16)) == label(ids, connectivity=1).max()


def test_ring_over_many_windows_keeps_its_hole_and_only_its_corners() -> None:
    ids = np.zeros((40, 40), np.uint8)
    ids[3:37, 3:37] = 7
    ids[10:30, 10:30] = 0
    ((class_id, outline),) = _windows(ids, 8)
    assert class_id == 7
    assert len(outline.exterior.coords) == 5
    assert [len(ring.coords) for ring in outline.interiors] == [5]
    assert outline.bounds == (3, 3, 37, 37)
    assert outline.area == 34 * 34 - 20 * 20


def test_object_over_many_windows_is_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[int] = []
    union_all = shapely.union_all

    def counted(pieces: list[shapely.Polygon]) -> shapely.Polygon:
        merged.append(len(pieces))
        return union_all(pieces)

    monkeypatch.setattr(shapely, "union_all", counted)
    ((class_id, outline),) = _windows(np.full((64, 48), 3, np.uint8), 8)
    assert (class_id, outline.bounds, outline.area) == (3, (0, 0, 48, 64), 64 * 48)
    assert merged == [8 * 6]


@pytest.mark.parametrize("window_px", [5, 16, 64])
def test_pixels_and_sums_of_an_object_are_those_of_all_its_windows(window_px: int) -> None:
    ids = _blobs(3, (41, 33), 0.7)
    weights = np.random.default_rng(4).random(ids.shape)

    def read(window: Window) -> npt.NDArray[np.uint8]:
        return ids[window.slices]

    def measure(window: Window, found: npt.NDArray[Any], labels: npt.NDArray[np.int32], count: int) -> Any:
        np.testing.assert_array_equal(found, ids[window.slices])
        return np.bincount(labels.ravel(), weights[window.slices].ravel(), minlength=count + 1)[1:, None]

    labels = label(ids, background=0, connectivity=1)
    first = {int(np.flatnonzero(labels == k)[0]): k for k in range(1, labels.max() + 1)}
    found = list(trace_windows(read, ids.shape, window_px, {0}, measure))
    assert sum(map(len, found)) == len(first)
    for part in found:
        for row, place in enumerate(part.first_px.tolist()):
            own = labels == first.pop(place)
            assert part.ids[row] == ids.ravel()[place]
            assert part.num_px[row] == own.sum() == part.polygons[row].area
            assert part.sums[row, 0] == pytest.approx(weights[own].sum())
    assert not first


def test_comb_whose_teeth_meet_in_the_last_row_is_one_object() -> None:
    ids = np.zeros((40, 41), np.uint8)
    ids[:, ::4] = 1
    ids[39] = 1
    ((_, outline),) = _windows(ids, 8)
    assert outline.equals(_whole(ids)[0][1])


def test_pieces_that_meet_at_a_corner_of_windows_alone_stay_apart() -> None:
    ids = np.zeros((16, 16), np.uint8)
    ids[:8, :8] = ids[8:, 8:] = 1
    assert sorted(outline.bounds for _, outline in _windows(ids, 8)) == [(0, 0, 8, 8), (8, 8, 16, 16)]


def test_nothing_but_background_gives_nothing() -> None:
    assert _windows(np.zeros((20, 20), np.uint8), 8) == []
