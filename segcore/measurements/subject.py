"""Subject: one image with its mask, the objects of that and, where there is one, the layer of probabilities, by window.

Windows are the same whatever the shards are, so that sums of fractions are too.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.components.cells import Coder
from segcore.geometry import Grid, Window
from segcore.measurements.sums import HALO_PX, Bools, Floats, Ids, Seen, Sums, sums_of
from segcore.scoring.ground import row_areas
from segcore.store import Image, Label, Layer

WINDOW_PX = 2048
VOLUME_PX = 1 << 22
"""Of a volume's window: as many planes as that makes, one at least."""


def windows_of(mask: Label) -> Grid:
    """The windows that cover a mask, in px of it."""
    shape = mask.shape()
    plane_px = math.prod(min(WINDOW_PX, n) for n in shape[-2:])
    cell = {"t": 1, "z": max(1, VOLUME_PX // plane_px), "y": WINDOW_PX, "x": WINDOW_PX}
    return Grid(shape, tuple(cell[axis] for axis in mask.axes))


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    image: Image
    mask: Label
    objects: Label
    probs: Layer | None
    intensity: bool

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the image's bands, each once; none where it is not read."""
        names = self.image.channels if self.intensity else ()
        return tuple(name if names.index(name) == at else f"{name} {at}" for at, name in enumerate(names))

    def sums(self, window: Window) -> tuple[Sums, Bools]:
        """The objects of a window, and whether each of them reaches a face that it may go on over."""
        spatial = tuple(at for at, axis in enumerate(self.mask.axes) if axis != "t")
        dropped = tuple(at for at in range(window.ndim) if at not in spatial)
        ids = self._ids(window)
        pixels, has_value = self._pixels(window) if self.intensity else (None, None)
        found = sums_of(
            Seen(
                start=np.array([window.start[at] for at in spatial], np.int64),
                ids=ids.squeeze(dropped),
                codes=Coder(self.mask).read(window).squeeze(dropped),
                ground=self._ground(window),
                pixels=None if pixels is None else pixels.squeeze(tuple(at + 1 for at in dropped)),
                has_value=None if has_value is None else has_value.squeeze(tuple(at + 1 for at in dropped)),
                probs=self._probs(window),
            ),
            len(self.mask.classes),
        )
        shape = self.mask.shape()
        ends = np.array([[window.start[at], window.stop[at]] for at in spatial])
        goes_on = np.array([[window.start[at] > 0, window.stop[at] < shape[at]] for at in spatial])
        at_face = ((found.low == ends[:, 0]) & goes_on[:, 0]) | ((found.high == ends[:, 1]) & goes_on[:, 1])
        return found, at_face.any(axis=1)

    def _ids(self, window: Window) -> Ids:
        """Ids of a window with `HALO_PX` around it in y and x, 0 beyond the array."""
        margin = (*(0,) * (window.ndim - 2), HALO_PX, HALO_PX)
        wide = window.expanded(margin)
        read = wide.intersected(Window.whole(self.mask.shape()))
        pad = [(a - b, d - c) for a, b, c, d in zip(read.start, wide.start, read.stop, wide.stop, strict=True)]
        return np.pad(self.objects.read(read), pad)

    def _ground(self, window: Window) -> Floats | None:
        georef = self.image.georef
        if georef is None or "z" in self.mask.axes:
            return None
        return row_areas(georef.at_level(self.mask.base_level), window.start[-2], window.shape[-2])

    def _pixels(self, window: Window) -> tuple[npt.NDArray[np.generic], Bools | None]:
        """Bands (B, ...) of a window, and where they have a value; None = everywhere."""
        image, level = self.image, self.mask.base_level
        at = image.axes.index("c")
        read = image.read(window.with_axis(at, image.shape(level)[at]), level)
        pixels = np.moveaxis(read, at, 0)
        if image.has_valid:
            valid = image.read_valid(window, level)
            return pixels, np.broadcast_to(valid, pixels.shape)
        return pixels, ~image.missing(pixels) if image.pixels_tell else None

    def _probs(self, window: Window) -> npt.NDArray[Any] | None:
        """(P, ...) of a window without its t, as they are stored; of a coarser layer the pixel that lies there."""
        layer = self.probs
        if layer is None:
            return None
        step = layer.base_level - self.mask.base_level
        start = (*window.start[:-2], *(a >> step for a in window.start[-2:]))
        stop = (*window.stop[:-2], *(((a - 1) >> step) + 1 for a in window.stop[-2:]))
        at = layer.axes.index("c")
        own = Window(start, tuple(b - a for a, b in zip(start, stop, strict=True)))
        read = np.moveaxis(layer.read(own.with_axis(at, layer.shape()[at])), at, 0)
        for axis in (-2, -1) if step else ():
            near = (np.arange(window.start[axis], window.stop[axis]) >> step) - start[axis]
            read = read.take(near, axis=axis)
        if "t" in self.mask.axes:
            read = read.squeeze(1 + self.mask.axes.index("t"))
        return read
