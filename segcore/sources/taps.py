"""Taps: which pixels of one grid go into a pixel of another, and with which weights; along y and along x.

    input   |  0  |  1  |  2  |  3  |  4  |     step = sides of an output pixel, in input pixels
    output  |    0    |    1    |    2    |     pixel i covers [i * step, (i + 1) * step)

Area average where an axis gets coarser, bilinear where it gets finer. The weights of a pixel depend on its index alone
and are summed in one order: a window has the bits of the same window of the whole.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segcore.geometry import Window

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """One axis of two grids with one origin."""

    step: float
    """Side of an output pixel, in input pixels."""
    num_in: int

    def taps(self, start: int, stop: int) -> tuple[Indices, Floats]:
        """Indices and weights of the input pixels of each output pixel: (outputs, taps) both; weights sum to 1."""
        out = np.arange(start, stop, dtype=np.float64)
        if self.step <= 1:
            # Centres lie at (i + 0.5) on both grids; beyond the outermost ones the border pixel goes on.
            centre = (out + 0.5) * self.step - 0.5
            first = np.floor(centre)
            weights = np.stack([first + 1 - centre, centre - first], axis=1)
            index = first[:, None] + np.arange(2)
        else:
            low, high = out * self.step, (out + 1) * self.step
            index = np.floor(low)[:, None] + np.arange(int(self.step) + 2)
            inside = np.minimum(high, self.num_in)[:, None]
            weights = np.clip(np.minimum(index + 1, inside) - np.maximum(index, low[:, None]), 0, None)
            # A stored level may be cut off up to a pixel before the image ends; its last pixel goes on.
            weights[weights.sum(axis=1) == 0, 0] = 1
            total = weights[:, 0].copy()
            for tap in range(1, weights.shape[1]):
                total += weights[:, tap]
            weights /= total[:, None]
        return np.clip(index, 0, self.num_in - 1).astype(np.int64), weights

    def nearest(self, start: int, stop: int) -> Indices:
        """Of each output pixel the input pixel in which its centre lies."""
        centre = np.floor((np.arange(start, stop) + 0.5) * self.step)
        return np.asarray(np.clip(centre, 0, self.num_in - 1).astype(np.int64))


@dataclass(frozen=True)
class Taps:
    """The taps of a block, along y and x."""

    y: tuple[Indices, Floats]
    x: tuple[Indices, Floats]

    def support(self, block: Window) -> Window:
        """The input window from which a block is made; leading axes as they are."""
        start = [int(index.min()) for index, _ in (self.y, self.x)]
        stop = [int(index.max()) + 1 for index, _ in (self.y, self.x)]
        sides = (b - a for a, b in zip(start, stop, strict=True))
        return Window((*block.start[:-2], *start), (*block.shape[:-2], *sides))

    def total(self, values: Floats) -> Floats:
        """Weighted sums (y, x) of a plane of the support, tap by tap: first along y, then along x."""
        (index_y, weights_y), (index_x, weights_x) = self.y, self.x
        rows = np.zeros((len(index_y), values.shape[1]))
        for tap in range(index_y.shape[1]):
            rows += weights_y[:, tap, None] * values[index_y[:, tap] - index_y.min()]
        out = np.zeros((len(index_y), len(index_x)))
        for tap in range(index_x.shape[1]):
            out += weights_x[:, tap] * rows[:, index_x[:, tap] - index_x.min()]
        return out
