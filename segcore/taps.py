"""Taps: which pixels of one grid go into a pixel of another, and with which weights; along y and along x.

    input   |  0  |  1  |  2  |  3  |  4  |     step = sides of an output pixel, in input pixels
    output  |    0    |    1    |    2    |     pixel i covers [i * step, (i + 1) * step)

Area average where an axis gets coarser, bilinear where it gets finer. The weights of a pixel depend on its index alone
and are summed in one order: a window has the bits of the same window of the whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.geometry import Window
from segcore.nodata import off_nodata

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Pixels = npt.NDArray[Any]

HALF = 0.5 - 1e-9
"""The part of a pixel's support that must be usable; half of it is enough, whatever rounding did to it."""


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

    def bands(self, num_rows: int) -> Iterator[tuple["Taps", slice, slice]]:
        """The block in bands of so many rows: their taps, their rows in the block, and in its support."""
        index, weights = self.y
        for top in range(0, len(index), num_rows):
            rows = slice(top, min(top + num_rows, len(index)))
            own = index[rows]
            first = index.min()
            yield Taps((own, weights[rows]), self.x), rows, slice(own.min() - first, own.max() + 1 - first)

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

    def averaged(self, values: Pixels, usable: npt.NDArray[np.bool_] | None, nodata: float | None) -> Pixels:
        """A plane of a block (y, x) in the type of the support's `values`; integers are rounded half up.

        Args:
            values: a plane of the support.
            usable: same shape; what has no value enters no average. None = all have one.
            nodata: as `values` have it; of a pixel of whose support less than half is usable (NaN, or 0 in integers,
                where there is none). Nothing becomes nodata by averaging.
        """
        if usable is None:
            return _rounded(self.total(values.astype(np.float64)), values.dtype)
        share = self.total(usable.astype(np.float64))
        total = self.total(np.where(usable, values, 0).astype(np.float64))
        kept = share >= HALF
        found = _rounded(total / np.where(kept, share, 1.0), values.dtype)
        return np.where(kept, off_nodata(found, nodata), _fill(values.dtype, nodata))


def _fill(dtype: np.dtype[Any], nodata: float | None) -> Any:
    """The value of what has none."""
    absent = np.nan if dtype.kind == "f" else 0
    return dtype.type(absent if nodata is None else nodata)


def _rounded(values: Floats, dtype: np.dtype[Any]) -> Pixels:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.floor(values + 0.5), limits.min, limits.max).astype(dtype)
