"""Model grid: the pixels of an image as a model sees them, over the axes without c; store -> *pixels* -> tiles.

    level of the image, mask  |  0  |  1  |  2  |  3  |  4  |     step = sides of a model pixel, in pixels of the level
    model grid                |    0    |    1    |    2    |     pixel i covers [i * step, (i + 1) * step)

A level whose pixels have the model's size is read as it is. Another is resampled window by window, on a grid anchored
at the image's origin: the pixels of a window are those of the whole, bit for bit. The mask stays on the level's grid:
each of its pixels takes the class of the model pixel in which its centre lies.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from segcore.geometry import Ints, Window
from segcore.store import Image
from segcore.taps import Axis, Taps

Pixels = npt.NDArray[np.generic]
Valid = npt.NDArray[np.bool_]


FLOATS_PX = 1 << 18
"""Pixels that are averaged at once: floats are held of no more."""


@dataclass(frozen=True)
class ModelGrid:
    """An image as a model sees it. Windows, of the model grid or of the mask's, are over its axes without c."""

    image: Image
    level: int = 0
    """Of the image; the finest one of the mask."""
    step: tuple[float, float] = (1.0, 1.0)
    """Sides (y, x) of a model pixel, in pixels of the level."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Of the windows."""
        return tuple(axis for axis in self.image.axes if axis != "c")

    @property
    def is_resampled(self) -> bool:
        return self.step != (1.0, 1.0)

    @cached_property
    def mask_shape(self) -> Ints:
        """Sides of the level, and so of the mask, in px."""
        return tuple(n for axis, n in zip(self.image.axes, self.image.shape(self.level), strict=True) if axis != "c")

    @cached_property
    def shape(self) -> Ints:
        """Sides in model pixels: as many as hold the centre of a pixel of the mask."""
        if not self.is_resampled:
            return self.mask_shape
        sides = (int((n - 0.5) * (1 / step)) + 1 for n, step in zip(self.mask_shape[-2:], self.step, strict=True))
        return (*self.mask_shape[:-2], *sides)

    def read(self, window: Window) -> Pixels:
        """The pixels of a window inside the model grid: (C, *window.shape), in the image's own dtype."""
        if not self.is_resampled:
            return self._read_level(window)
        sides = zip(self.step, self.mask_shape[-2:], window.start[-2:], window.stop[-2:], strict=True)
        y, x = (Axis(step, n).taps(start, stop) for step, n, start, stop in sides)
        taps = Taps(y, x)
        fine = self._read_level(taps.support(window))
        can_miss = self.image.nodata is not None or fine.dtype.kind == "f"
        pixels = np.empty((fine.shape[0], *window.shape), dtype=fine.dtype)
        for band, rows, support in taps.bands(max(1, FLOATS_PX // fine.shape[-1])):
            for plane in np.ndindex(pixels.shape[:-2]):
                values = fine[plane][support]
                usable = ~self.image.missing(values) if can_miss else None
                pixels[plane][rows] = band.averaged(values, usable, self.image.nodata)
        return pixels

    def _read_level(self, window: Window) -> Pixels:
        channel = self.image.axes.index("c")
        whole = window.with_axis(channel, self.image.shape(self.level)[channel])
        return np.moveaxis(self.image.read(whole, self.level), channel, 0)

    # From the mask's pixels to the model's, and back

    def _centres(self, axis: int, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Of each pixel of the mask along y (-2) or x (-1), the model pixel in which its centre lies."""
        return Axis(1 / self.step[axis], self.shape[axis]).nearest(start, stop)

    def model_window(self, mask_window: Window) -> Window:
        """The model pixels from which a window of the mask takes its classes."""
        if not self.is_resampled:
            return mask_window
        sides = []
        for axis in (-2, -1):
            centres = self._centres(axis, mask_window.start[axis], mask_window.stop[axis])
            sides.append((int(centres[0]), int(centres[-1]) + 1))
        return _with_sides(mask_window, sides)

    def mask_window(self, window: Window) -> Window:
        """The pixels of the mask whose centres lie in a window of the model grid."""
        if not self.is_resampled:
            return window
        sides = []
        for axis in (-2, -1):
            low = max(0, int(window.start[axis] * self.step[axis]) - 2)
            high = min(self.mask_shape[axis], int(window.stop[axis] * self.step[axis]) + 2)
            centres = self._centres(axis, low, high)
            start, stop = np.searchsorted(centres, (window.start[axis], window.stop[axis]))
            sides.append((low + int(start), low + int(stop)))
        return _with_sides(window, sides)

    def on_mask(self, values: Pixels, window: Window, mask_window: Window) -> Pixels:
        """Values (..., *window.shape) of a window of the model grid, taken to a window of the mask inside it."""
        if not self.is_resampled:
            return values[mask_window.relative_to(window.start).behind]
        sides = [(window.start[axis], window.stop[axis]) for axis in (-2, -1)]
        planes = values[_with_sides(mask_window, sides).relative_to(window.start).behind]
        for axis in (-2, -1):
            centres = self._centres(axis, mask_window.start[axis], mask_window.stop[axis])
            planes = planes.take(centres - window.start[axis], axis=axis)
        return planes


def _with_sides(window: Window, sides: list[tuple[int, int]]) -> Window:
    """The window with other (start, stop) along y and x."""
    start = (*window.start[:-2], *(a for a, _ in sides))
    return Window(start, (*window.shape[:-2], *(b - a for a, b in sides)))
