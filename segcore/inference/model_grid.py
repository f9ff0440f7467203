"""Model grid: the level of an image that a model reads, over the axes without c; store -> *pixels* -> tiles."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segcore.geometry import Ints, Window
from segcore.store import Image

Pixels = npt.NDArray[np.generic]
Valid = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ModelGrid:
    """An image as a model reads it. Windows are over its axes without c."""

    image: Image
    level: int = 0
    """Of the image; the finest one of the mask."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Of the windows."""
        return tuple(axis for axis in self.image.axes if axis != "c")

    @property
    def shape(self) -> Ints:
        """Sides in px."""
        return tuple(n for axis, n in zip(self.image.axes, self.image.shape(self.level), strict=True) if axis != "c")

    def read(self, window: Window) -> Pixels:
        """The pixels of a window inside the grid: (C, *window.shape), in the image's own dtype."""
        channel = self.image.axes.index("c")
        whole = window.with_axis(channel, self.image.shape(self.level)[channel])
        return np.moveaxis(self.image.read(whole, self.level), channel, 0)
