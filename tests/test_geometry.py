"""Geometry held against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcore.geometry import Grid, Window, level_shapes, reflected, tiles_in, z_order

sides = st.integers(1, 40)


@given(shape=st.tuples(sides, sides), cell=st.tuples(sides, sides))
def test_grid_covers_every_pixel_exactly_once(shape: tuple[int, int], cell: tuple[int, int]) -> None:
    grid = Grid(shape, cell)
    times = np.zeros(shape, int)
    for index in grid.indices():
        times[grid.window(index).slices] += 1
    assert (times == 1).all()
    assert grid.num_cells == len(list(grid.indices()))


@given(shape=st.tuples(sides, sides), core=st.tuples(sides, sides), halo=st.integers(0, 9), data=st.data())
def test_tiles_in_write_each_pixel_once_and_read_one_shape(
    shape: tuple[int, int], core: tuple[int, int], halo: int, data: st.DataObject
) -> None:
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    window = Window(start, tuple(data.draw(st.integers(1, n - a)) for n, a in zip(shape, start, strict=True)))
    times = np.zeros(shape, int)
    for tile in tiles_in(window, shape, core, (halo, halo)):
        times[tile.write.slices] += 1
        assert tile.read.shape == (core[0] + 2 * halo, core[1] + 2 * halo)
        assert tile.read.start == tuple(a - halo for a in tile.write.start)
        assert tile.write.intersected(window).num_px > 0
    assert (times[window.slices] == 1).all()
    assert times.max() == 1


@given(shape=st.tuples(sides, sides), core=st.tuples(sides, sides), halo=st.integers(0, 9), step=st.integers(1, 7))
def test_tiles_in_end_at_the_first_step_behind_the_border(
    shape: tuple[int, int], core: tuple[int, int], halo: int, step: int
) -> None:
    for tile in tiles_in(Window.whole(shape), shape, core, (halo, halo), (step, step)):
        for write_stop, read_stop in zip(tile.write.stop, tile.read.stop, strict=True):
            assert 0 <= read_stop - halo - write_stop < step


@given(shape=st.tuples(sides, sides), cell=st.tuples(sides, sides), data=st.data())
def test_touching_is_what_brute_force_finds(shape: tuple[int, int], cell: tuple[int, int], data: st.DataObject) -> None:
    grid = Grid(shape, cell)
    start = tuple(data.draw(st.integers(-5, n + 5)) for n in shape)
    window = Window(start, tuple(data.draw(st.integers(0, 30)) for _ in shape))
    expected = [i for i in grid.indices() if grid.window(i).intersected(window).num_px > 0]
    assert list(grid.touching(window)) == expected


@given(size=st.integers(1, 20), before=st.integers(0, 50), after=st.integers(0, 50))
def test_reflected_is_numpys_reflect(size: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    assert (reflected(-before, before + size + after, size) == expected).all()


def test_level_shapes_halve_up_until_512() -> None:
    assert level_shapes((3, 1300, 2750), (False, True, True)) == [
        (3, 1300, 2750),
        (3, 650, 1375),
        (3, 325, 688),
        (3, 163, 344),
    ]
    assert level_shapes((512, 40), (True, True)) == [(512, 40)]


def test_z_order_keeps_siblings_together() -> None:
    order = z_order([(0, y, x) for y in range(4) for x in range(4)])
    assert order[:4] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]
    parents = [(y // 2, x // 2) for _, y, x in order]
    assert [parents[i] for i in range(0, 16, 4)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(len(set(parents[i : i + 4])) == 1 for i in range(0, 16, 4))


def test_window_refuses_a_negative_side() -> None:
    with pytest.raises(ValueError, match="negative"):
        Window((0,), (-1,))


def test_a_window_gets_one_more_axis() -> None:
    plane = Window((3, 4), (5, 6))
    assert plane.with_axis(0, 9) == Window((0, 3, 4), (9, 5, 6))
    assert plane.with_axis(1, 9) == Window((3, 0, 4), (5, 9, 6))
