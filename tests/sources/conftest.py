"""What the readers' tests share: comparing a source with its format's own library, window by window."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segcore.geometry import Window
from segcore.sources import Source

Compare = Callable[..., None]


@pytest.fixture
def assert_reads() -> Compare:
    """`assert_reads(source, pixels, valid=None)`: the same values in the whole and in random windows.

    `valid` is over the axes without c.
    """

    def compare(source: Source, pixels: Any, valid: Any = None, num_windows: int = 12) -> None:
        shape = source.info.shape
        assert shape == pixels.shape
        assert source.info.dtype == pixels.dtype.name
        rng = np.random.default_rng(sum(shape))
        for window in [Window.whole(shape), *(random_window(rng, shape) for _ in range(num_windows))]:
            np.testing.assert_array_equal(source.read(window), pixels[window.slices])
            sides = zip(source.info.axes, window.start, window.shape, strict=True)
            start, sizes = zip(*((a, n) for axis, a, n in sides if axis != "c"), strict=True)
            plane = Window(start, sizes)
            expected = np.ones(plane.shape, bool) if valid is None else valid[plane.slices]
            np.testing.assert_array_equal(source.read_valid(plane), expected)

    return compare


def random_window(rng: np.random.Generator, shape: tuple[int, ...]) -> Window:
    start = tuple(int(rng.integers(0, n)) for n in shape)
    return Window(start, tuple(int(rng.integers(1, n - a + 1)) for n, a in zip(shape, start, strict=True)))
