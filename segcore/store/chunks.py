"""Chunks: those of an array that were decoded last are kept, as planes are asked for one by one and a chunk holds many.

window --> the chunks that it touches --> those that are not kept, read as one box --> window
"""

import threading
from collections import OrderedDict

import numpy as np

from segcore.geometry import Grid, Ints, Window
from segcore.store.arrays import Reader
from segcore.store.pyramid import Pixels


class KeptChunks:
    """An array of which each chunk is decoded once, while there is room; safe to use from many threads.

    Windows of whole chunks go past it, and so do those whose chunks would take more than half of the room.

    Args:
        reader: decodes.
        chunk: the smallest unit that it decodes.
        max_bytes: of the chunks that are kept.
    """

    def __init__(self, reader: Reader, chunk: Ints, max_bytes: int) -> None:
        self._reader, self._max_bytes = reader, max_bytes
        self.shape, self.dtype = reader.shape, reader.dtype
        self._grid = Grid(self.shape, chunk)
        self._kept: OrderedDict[Ints, Pixels] = OrderedDict()
        """By index, the one that was asked for last at the end."""
        self._num_bytes = 0
        self._lock = threading.Lock()

    def read(self, window: Window) -> Pixels:
        """The pixels of a window that lies inside the level."""
        touched = list(self._grid.touching(window))
        box = self._hull(touched)
        if box == window or box.num_px * self.dtype.itemsize > self._max_bytes // 2:
            return self._reader.read(window)
        out = np.empty(window.shape, dtype=self.dtype)
        with self._lock:
            self._decode([index for index in touched if index not in self._kept])
            for index in touched:
                self._kept.move_to_end(index)
                place = self._grid.window(index)
                shared = place.intersected(window)
                pixels = self._kept[index][shared.relative_to(place.start).slices]
                out[shared.relative_to(window.start).slices] = pixels
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= self._kept.popitem(last=False)[1].nbytes
        return out

    def _hull(self, indices: list[Ints]) -> Window:
        """The smallest window around some chunks."""
        first, last = (tuple(edge(axis) for axis in zip(*indices, strict=True)) for edge in (min, max))
        start, stop = self._grid.window(first).start, self._grid.window(last).stop
        return Window(start, tuple(b - a for a, b in zip(start, stop, strict=True)))

    def _decode(self, missing: list[Ints]) -> None:
        """Read chunks at one go: the reader fetches and decodes those of one window side by side."""
        if not missing:
            return
        box = self._hull(missing)
        pixels = self._reader.read(box)
        for index in missing:
            # A copy, unless it is the box itself: a view would keep all of the box in memory.
            part = pixels[self._grid.window(index).relative_to(box.start).slices]
            self._kept[index] = part if len(missing) == 1 else part.copy()
            self._num_bytes += part.nbytes
