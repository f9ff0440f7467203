"""The model grid against the whole level resampled at once, and against brute force over single pixels."""

import math
from pathlib import Path

import numpy as np
import pytest

from segcore.geometry import Grid, Window
from segcore.inference.model_grid import ModelGrid
from segcore.inference.tiling import read_reflected
from segcore.store import Workspace
from tests.inference.scenes import scene
from tests.synthetic import put_image

STEPS = [(1.0638, 0.943), (0.75, 1.4), (1.0 / 1.1, 1.0 / 0.9), (2.7, 0.3)]


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    ws = Workspace.open(str(tmp_path_factory.mktemp("grids")), create=True)
    put_image(ws, "a", scene(700, 530))
    return ws


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("level", [0, 1])
def test_windows_have_the_bits_of_the_whole(ws: Workspace, step: tuple[float, float], level: int) -> None:
    grid = ModelGrid(ws.image("a"), level, step)
    whole = grid.read(Window.whole(grid.shape))
    assert whole.dtype == np.uint8
    parts = Grid(grid.shape, (97, 61))
    for index in list(parts.indices())[::5]:
        window = parts.window(index)
        np.testing.assert_array_equal(grid.read(window), whole[:, *window.slices])
    wide = Window((-40, -30), (grid.shape[0] + 70, 90))
    expected = np.pad(whole, ((0, 0), (40, 40), (30, 60)), mode="reflect")[:, : grid.shape[0] + 70, :90]
    np.testing.assert_array_equal(read_reflected(grid, wide), expected)


def test_pixels_are_areas_or_lie_between_two(ws: Workspace) -> None:
    """Along y two and a half pixels are averaged, along x a pixel lies between its two nearest."""
    image = ws.image("a")
    grid = ModelGrid(image, 0, (2.5, 0.5))
    fine = image.read(Window.whole(image.shape())).astype(np.float64)
    found = grid.read(Window((4, 3), (1, 2)))
    rows = (fine[:, 10] + fine[:, 11] + 0.5 * fine[:, 12]) / 2.5  # model pixel 4 covers 10 to 12.5
    # Model pixels 3 and 4 have their centres at 1.75 and 2.25, between those of 1 and 2 (1.5 and 2.5).
    between = np.stack([0.75 * rows[:, 1] + 0.25 * rows[:, 2], 0.25 * rows[:, 1] + 0.75 * rows[:, 2]], axis=1)
    np.testing.assert_array_equal(found[:, 0], np.floor(between + 0.5).astype(np.uint8))


@pytest.mark.parametrize("step", STEPS)
def test_each_pixel_of_the_mask_lies_in_one_model_pixel(ws: Workspace, step: tuple[float, float]) -> None:
    grid = ModelGrid(ws.image("a"), 0, step)
    model_of = [  # 40.5 / 2.7 is 15, or a bit less: on the border of two pixels the rounding decides
        [math.floor((place + 0.5) * (1 / side)) for place in range(n)]
        for side, n in zip(step, grid.mask_shape, strict=True)
    ]
    assert grid.shape == tuple(places[-1] + 1 for places in model_of)
    assert grid.model_window(Window((64, 0), (64, 530))) == Window(
        (model_of[0][64], model_of[1][0]),
        (model_of[0][127] + 1 - model_of[0][64], grid.shape[1] - model_of[1][0]),
    )
    seen = np.zeros(grid.mask_shape, int)
    values = np.arange(math.prod(grid.shape)).reshape(grid.shape)
    parts = Grid(grid.shape, (37, 53))
    for window in map(parts.window, parts.indices()):
        inside = grid.mask_window(window)
        seen[inside.slices] += 1
        (top, left), (bottom, right) = inside.start, inside.stop
        expected = values[np.ix_(model_of[0][top:bottom], model_of[1][left:right])]
        np.testing.assert_array_equal(grid.on_mask(values[window.slices], window, inside), expected)
    assert (seen == 1).all()


def test_what_is_missing_enters_no_pixel(tmp_path: Path) -> None:
    ws = Workspace.open(str(tmp_path), create=True)
    pixels = np.random.default_rng(0).normal(100, 20, (2, 90, 80)).astype(np.float32)
    pixels[:, 30:50, 20:60] = np.nan
    pixels[0, 70:] = -9999
    put_image(ws, "a", pixels, nodata=-9999)
    grid = ModelGrid(ws.image("a"), 0, (1.3, 0.8))
    found = grid.read(Window.whole(grid.shape))
    known = found[found != -9999]
    assert np.isfinite(found).all()
    assert 20 < known.min() < known.max() < 190
    assert 0.05 < (found == -9999).mean() < 0.3
    bytes_ = np.full((1, 60, 60), 200, np.uint8)
    bytes_[:, :, 30:] = 0
    put_image(ws, "b", bytes_, nodata=0)
    grid = ModelGrid(ws.image("b"), 0, (1.1, 0.9))
    assert np.unique(grid.read(Window.whole(grid.shape))).tolist() == [0, 200]
