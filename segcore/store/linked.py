"""Linked: an image whose pixels stay at their source: levels are read from it, in child processes.

    read(window, level) --> the stored level of the source that is nearest and not coarser --> halved to the level

A source is doubtful whenever it is decoded, not only at ingest: so children with limits do it here too, and keep it
open between reads.
"""

import atexit
import os
import queue
from typing import Any

import numpy as np

from segcore.errors import SourceError, StoreError
from segcore.geometry import Ints, Window
from segcore.isolation import Beat, ChildPool, Task
from segcore.measure import num_cores
from segcore.sources import Joined, Opening, Source, open_source
from segcore.sources.stamps import stamp
from segcore.store.objects import Objects
from segcore.store.pyramid import Pixels, PyramidSpec

BAND_PX = 2048
"""Side of a square whose pixels of a finer level are read at once where a coarser one has to be made."""


def located(link: dict[str, Any], objects: Objects) -> dict[str, Any]:
    """A link whose source can be opened: a copy in the workspace is kept by its key."""
    if not link["in_workspace"]:
        return link
    source = link["source"]
    if isinstance(source, str):
        return {**link, "source": objects.describe(source)}
    return {**link, "source": {**source, "parts": [objects.describe(part) for part in source["parts"]]}}


def source_of(link: dict[str, Any]) -> str | Joined:
    """What `open_source` takes."""
    source = link["source"]
    return source if isinstance(source, str) else Joined.model_validate(source)


class LinkedLevel:
    """One level of a linked image, open for reading; safe to use from many threads.

    Args:
        link: how the source is opened: `source`, `opening` and `stamp`.
        spec: of the image.
        level: which one.
    """

    def __init__(self, link: dict[str, Any], spec: PyramidSpec, level: int) -> None:
        self._link, self._spec, self._level = link, spec, level
        self.shape: Ints = spec.levels[level]
        self.dtype = np.dtype(spec.dtype)

    def read(self, window: Window) -> Pixels:
        """The pixels of a window that lies inside the level."""
        assert Window.whole(self.shape).contains(window), f"{window} not inside {self.shape}"
        source = source_of(self._link)
        task = Task(
            read_window,
            (self._link, self._spec, self._level, window),
            label=source if isinstance(source, str) else source.uri,
        )
        outcome = _CHILDREN.run(task)
        if outcome.error is not None:
            raise StoreError(f"linked image: {outcome.error}") from outcome.error
        pixels: Pixels = outcome.result
        return pixels


class _Children:
    """One child per core, started when first asked; each serves one read at a time."""

    def __init__(self) -> None:
        self._free: queue.LifoQueue[ChildPool | None] = queue.LifoQueue()
        self._started: list[ChildPool] = []
        for _ in range(num_cores()):
            self._free.put(None)

    def run(self, task: Task) -> Any:
        pool = self._free.get()
        try:
            if pool is None:
                pool = ChildPool(1)
                self._started.append(pool)
            return next(iter(pool.run([task])))
        finally:
            self._free.put(pool)

    def forget(self) -> None:
        """In a forked process: the children are the parent's, and so are the ways to them."""
        self.__init__()  # type: ignore[misc]

    def close(self) -> None:
        for pool in self._started:
            pool.__exit__(None, None, None)
        self._started.clear()


_CHILDREN = _Children()
atexit.register(_CHILDREN.close)
os.register_at_fork(after_in_child=_CHILDREN.forget)

_open: dict[str, Source] = {}


def read_window(beat: Beat, link: dict[str, Any], spec: PyramidSpec, level: int, window: Window) -> Pixels:
    """In the child: the pixels of a window of a level."""
    source = _opened(link)
    beat()
    return read_level(source, spec, level, window, beat)


def _opened(link: dict[str, Any]) -> Source:
    """The source; kept open until another one is asked for.

    Raises:
        SourceError: if it is not what it was when it was linked.
    """
    key = repr(link)
    if key not in _open:
        while _open:
            _open.popitem()[1].close()
        uri = source_of(link)
        if link["stamp"] is not None and stamp(uri) != link["stamp"]:
            raise SourceError(f"{link['stamp']['uri']}: it changed since it was linked; ingest it again")
        _open[key] = open_source(uri, Opening.model_validate(link["opening"]))
    return _open[key]


def read_level(source: Source, spec: PyramidSpec, level: int, window: Window, beat: Beat = lambda: None) -> Pixels:
    """A window of a level of the pyramid that `spec` describes, out of what the source stores.

    `beat` is called after each band of rows; a band has at most BAND_PX x BAND_PX pixels of the stored level.
    """
    stored, steps = nearest_stored(source, spec, level)
    if steps == 0:
        return _padded(source, stored, window)
    rows = max(1, BAND_PX * BAND_PX // (window.shape[-1] << steps) >> steps)
    bands = []
    for top in range(window.start[-2], window.stop[-2], rows):
        height = min(rows, window.stop[-2] - top)
        band = Window((*window.start[:-2], top, window.start[-1]), (*window.shape[:-2], height, window.shape[-1]))
        bands.append(_reduced_band(source, spec, level, steps, stored, band))
        beat()
    return np.concatenate(bands, axis=-2)


def _reduced_band(source: Source, spec: PyramidSpec, level: int, steps: int, stored: int, band: Window) -> Pixels:
    """A band of a level, halved `steps` times from a stored one."""
    finer = spec.levels[level - steps]
    start = tuple(a << steps if axis in "yx" else a for a, axis in zip(band.start, spec.axes, strict=True))
    shape = tuple(n << steps if axis in "yx" else n for n, axis in zip(band.shape, spec.axes, strict=True))
    pixels = _padded(source, stored, Window(start, shape).intersected(Window.whole(finer)))
    for _ in range(steps):
        pixels = spec.reduced(pixels)
    return pixels


def nearest_stored(source: Source, spec: PyramidSpec, level: int) -> tuple[int, int]:
    """The coarsest stored level that is at least as fine as a level of the pyramid, and by how many halvings finer.

    A stored level counts as the pyramid's where its sides are the same within a pixel: writers round down or up.
    """
    best = (0, level)
    for stored in range(1, len(source.info.levels)):
        for nth in range(1, level + 1):
            sides = zip(source.shape(stored)[-2:], spec.levels[nth][-2:], strict=True)
            if all(abs(a - b) <= 1 for a, b in sides) and level - nth < best[1]:
                best = (stored, level - nth)
    return best


def _padded(source: Source, stored: int, window: Window) -> Pixels:
    """A window of a stored level, which may lack the pyramid's last row and column: they are repeated."""
    inside = window.intersected(Window.whole(source.shape(stored)))
    if inside.num_px == 0:  # the window is the extra row or column alone
        start = tuple(min(a, n - 1) for a, n in zip(window.start, source.shape(stored), strict=True))
        inside = Window(start, window.shape).intersected(Window.whole(source.shape(stored)))
    pixels = source.read(inside, stored)
    return np.pad(pixels, [(0, n - m) for n, m in zip(window.shape, pixels.shape, strict=True)], mode="edge")
