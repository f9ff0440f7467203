"""KeptChunks: the same pixels as without it, each chunk decoded once while there is room."""

import numpy as np
import pytest

from segcore.geometry import Window
from segcore.store.chunks import KeptChunks

PIXELS = np.random.default_rng(3).integers(0, 1000, (40, 50, 30), dtype=np.uint16)
CHUNK = (16, 20, 20)
CHUNK_BYTES = 16 * 20 * 20 * 2


class Counting:
    """An array in memory that notes which windows are read."""

    def __init__(self) -> None:
        self.shape, self.dtype = PIXELS.shape, PIXELS.dtype
        self.read_px = 0

    def read(self, window: Window) -> np.ndarray:
        self.read_px += window.num_px
        return PIXELS[window.slices].copy()


@pytest.mark.parametrize("max_bytes", [0, 2 * CHUNK_BYTES, 5 * CHUNK_BYTES, 10**9])
def test_windows_are_the_same_with_whatever_room(max_bytes: int) -> None:
    kept = KeptChunks(Counting(), CHUNK, max_bytes)
    rng = np.random.default_rng(max_bytes)
    for _ in range(200):
        start = tuple(int(rng.integers(0, n)) for n in PIXELS.shape)
        window = Window(start, tuple(int(rng.integers(1, n - a + 1)) for n, a in zip(PIXELS.shape, start, strict=True)))
        np.testing.assert_array_equal(kept.read(window), PIXELS[window.slices])
        held = sum(pixels.nbytes for pixels in kept._kept.values())
        assert held == kept._num_bytes <= max_bytes


def test_planes_in_turn_decode_every_pixel_once() -> None:
    counting = Counting()
    kept = KeptChunks(counting, CHUNK, 10**9)
    for z in range(40):
        kept.read(Window((z, 0, 0), (1, 50, 30)))
    assert counting.read_px == PIXELS.size


def test_what_was_asked_for_last_stays() -> None:
    counting = Counting()
    kept = KeptChunks(counting, CHUNK, 2 * CHUNK_BYTES)
    at = [Window((0, y, x), (1, 5, 5)) for y, x in ((0, 0), (20, 0), (0, 0), (0, 20), (0, 0), (20, 0))]
    read = []
    for window in at:
        before = counting.read_px
        kept.read(window)
        read.append(counting.read_px > before)
    assert read == [True, True, False, True, False, True]


def test_whole_chunks_and_large_windows_go_past_it() -> None:
    counting = Counting()
    kept = KeptChunks(counting, CHUNK, 3 * CHUNK_BYTES)
    kept.read(Window((0, 0, 0), (16, 20, 20)))
    large = Window((3, 0, 0), (1, 50, 30))
    kept.read(large)
    assert counting.read_px == 16 * 20 * 20 + large.num_px
    assert not kept._kept
