"""Drawing: pixels by their centres, later over earlier, and windows that equal the whole bit for bit."""

import numpy as np
import pytest
import shapely

from segcore.geometry import Window
from segcore.targets import drawing
from segcore.targets.drawing import Drawing
from tests.targets.shapes_made import SHAPE, blobs, covered


def drawn(areas: list[shapely.Geometry]) -> np.ndarray:
    expected = np.zeros(SHAPE, np.uint32)
    for number, area in enumerate(areas, 1):
        expected[covered(area)] = number
    return expected


@pytest.mark.parametrize("block_px", [16, 37, 1024])
def test_numbers_equal_brute_force_in_every_window(monkeypatch: pytest.MonkeyPatch, block_px: int) -> None:
    monkeypatch.setattr(drawing, "BLOCK_PX", block_px)
    areas = [*blobs(30), shapely.MultiPolygon([shapely.box(3.2, 3.2, 9.9, 9.9), shapely.box(50.1, 60.1, 70.3, 65.7)])]
    made = Drawing(np.array(areas, dtype=object), SHAPE)
    expected = drawn(areas)
    np.testing.assert_array_equal(made.read(Window.whole(SHAPE)), expected)
    rng = np.random.default_rng(0)
    for _ in range(20):
        start = tuple(int(rng.integers(0, n)) for n in SHAPE)
        window = Window(start, tuple(int(rng.integers(1, n - a + 1)) for n, a in zip(SHAPE, start, strict=True)))
        np.testing.assert_array_equal(made.read(window), expected[window.slices])


def test_edges_through_centres_are_the_same_in_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diagonals and boxes that run exactly through centres: whatever side they take, it is always the same one."""
    monkeypatch.setattr(drawing, "BLOCK_PX", 32)
    areas = [shapely.box(10.5, 10.5, 70.5, 60.5), shapely.Polygon([(0.5, 0.5), (80.5, 40.5), (20.5, 80.5)])]
    made = Drawing(np.array(areas, dtype=object), SHAPE)
    whole = made.read(Window.whole(SHAPE))
    for y in range(0, SHAPE[0], 7):
        for x in range(0, SHAPE[1], 11):
            window = Window((y, x), (min(7, SHAPE[0] - y), min(11, SHAPE[1] - x)))
            again = Drawing(np.array(areas, dtype=object), SHAPE)
            np.testing.assert_array_equal(again.read(window), whole[window.slices])


def test_large_outlines_are_cut_and_cover_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    areas = [area.segmentize(0.2) for area in blobs(12)]
    uncut = Drawing(np.array(areas, dtype=object), SHAPE).read(Window.whole(SHAPE))
    monkeypatch.setattr(drawing, "MAX_POINTS", 40)
    made = Drawing(np.array(areas, dtype=object), SHAPE)
    assert len(made.pieces) > 5 * len(areas)
    np.testing.assert_array_equal(made.read(Window.whole(SHAPE)), uncut)
    np.testing.assert_array_equal(uncut, drawn(areas))


@pytest.mark.parametrize("side", [1e6, 1e10, 1e13])
def test_what_reaches_far_beyond_the_image_covers_it(side: float) -> None:
    far = shapely.Polygon([(-side, -side), (side, -side), (side, 40), (-side, 40)])
    made = Drawing(np.array([far], dtype=object), SHAPE).read(Window.whole(SHAPE))
    assert made[:40].all()
    assert not made[40:].any()


def test_nothing_to_draw_is_zero() -> None:
    for areas in ([], [shapely.Polygon()]):
        assert not Drawing(np.array(areas, dtype=object), SHAPE).read(Window.whole(SHAPE)).any()
