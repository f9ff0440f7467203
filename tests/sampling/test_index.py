"""Index: it points into the classes, also from a coarse level, and knows the cells that have a usable pixel."""

import numpy as np
import pytest

from segcore.geometry import Window
from segcore.inference.model_grid import ModelGrid
from segcore.sampling import IGNORED, ClassIndex, LabelledImage
from segcore.sampling import index as index_module
from segcore.sampling.index import _thinned, usable_cells
from segcore.store import Workspace
from tests.sampling.scenes import bands, labelled, random_image
from tests.synthetic import put_image, put_label


def test_class_index_of_a_coarse_level_points_into_the_class(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, ids = random_image(4, (1100, 600))
    ids[:] = 0
    ids[400:480, 200:320] = 1
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    monkeypatch.setattr(index_module, "MAX_INDEX_PX", 300_000)
    index = ClassIndex([labelled(workspace)], 2)
    assert index.pixels.tolist() == [[1100 * 600 - 9600, 9600]]
    places = index.found[0][1].places
    assert len(places) == 9600 // 4
    assert (ids[places[:, 1], places[:, 2]] == 1).all()


def test_near_finds_all_places_in_the_blocks_of_a_box(workspace: Workspace) -> None:
    image = bands(workspace, "a", (1100, 900))
    found = ClassIndex([image], 2).found[0][1]
    for low, high in (((0, 0), (1100, 900)), ((255, 257), (256, 700)), ((700, 10), (1100, 256))):
        y, x = found.places[:, 1:].T // 256
        inside = (y >= low[0] // 256) & (y <= (high[0] - 1) // 256) & (x >= low[1] // 256) & (x <= (high[1] - 1) // 256)
        assert sorted(found.near(0, low, high).tolist()) == np.flatnonzero(inside).tolist()
        assert inside.any()


def test_places_of_a_resampled_image_are_its_own_pixels(workspace: Workspace) -> None:
    bands(workspace, "a", (600, 500))
    grid = ModelGrid(workspace.image("a"), 0, (2.5, 1.25))
    image = LabelledImage(workspace.image("a"), workspace.label("a", "target"), grid=grid)
    index = ClassIndex([image], 2)
    places = index.found[0][1].places
    classes = image.read(0, Window.whole(image.shape_yx))[1]
    assert places[:, 1].max() < image.shape_yx[0]
    assert (classes[places[:, 1], places[:, 2]] == 1).mean() > 0.85  # a place is the pixel around, not the nearest
    assert index.pixels[0] == pytest.approx([(classes == number).sum() for number in (0, 1)], rel=0.05)


@pytest.mark.parametrize("max_px", [1 << 24, 300_000])
@pytest.mark.parametrize("cell_px", [64, 100])
def test_usable_cells_are_those_of_a_brute_force(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, max_px: int, cell_px: int
) -> None:
    monkeypatch.setattr(index_module, "MAX_INDEX_PX", max_px)
    pixels, ids = random_image(2, (1000, 700))
    ids[:] = 255
    ids[100:300, 400:600] = 0
    ids[996:, 4:8] = 1
    put_image(workspace, "a", pixels)
    put_label(workspace, "a", "target", ids)
    image = labelled(workspace)
    expected = [
        [0, row, column]
        for row in range(-(-1000 // cell_px))
        for column in range(-(-700 // cell_px))
        if (ids[row * cell_px : (row + 1) * cell_px, column * cell_px : (column + 1) * cell_px] != 255).any()
    ]
    assert usable_cells(image, cell_px).tolist() == expected
    assert (image.read(0, Window((996, 4), (4, 4)))[1] != IGNORED).all()


def test_planes_are_thinned_alike() -> None:
    counts = [10_000, 100, 0, 2_500, 3] * 40
    kept = [np.stack([np.full(min(n, 700), plane), *2 * [np.arange(min(n, 700))]], 1) for plane, n in enumerate(counts)]
    thinned = _thinned(kept, counts, np.random.default_rng(0))
    sizes = np.array([len(places) for places in thinned])
    assert (sizes[::5] == 700).all()
    assert (sizes[1::5] == 7).all()
    assert (sizes[2::5] == 0).all()
    assert (sizes[3::5] == 175).all()
    assert 0 < sizes[4::5].sum() < 30, "0.21 each, by chance"
    assert all((places[:, 0] == plane).all() for plane, places in enumerate(thinned))
    assert all(len(np.unique(places[:, 1])) == len(places) for places in thinned)
    assert _thinned(kept, [len(places) for places in kept], np.random.default_rng(0)) == kept
