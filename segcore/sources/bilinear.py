"""Bilinear: pixels of a coarser grid on a finer one, the same in every window.

A pixel of the fine grid takes the four pixels of the coarse one whose centres lie around its own centre; at the border
the last ones stand for those behind them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.geometry import Window
from segcore.nodata import off_nodata
from segcore.sources.base import Pixels, Valid


@dataclass(frozen=True)
class AxisMap:
    """How places along one axis of the fine grid lie on the coarse one: `scale * place + offset`, in pixels."""

    scale: float
    offset: float
    size: int
    """Pixels of the coarse axis."""

    def around(self, start: int, count: int) -> "Neighbours":
        """The coarse pixels on both sides of the centres of `count` fine ones."""
        at = self.scale * (np.arange(start, start + count) + 0.5) + self.offset
        lower = np.floor(at - 0.5)
        ends = [np.clip(index, 0, self.size - 1).astype(np.intp) for index in (lower, lower + 1, np.floor(at))]
        first, last = int(ends[0].min()), int(ends[1].max())
        below, above, holder = (index - first for index in ends)
        return Neighbours(first, last - first + 1, below, above, holder, at - 0.5 - lower)


@dataclass(frozen=True)
class Neighbours:
    """Coarse pixels around fine ones, along one axis; the indices count from `start`."""

    start: int
    count: int
    below: npt.NDArray[np.intp]
    above: npt.NDArray[np.intp]
    holder: npt.NDArray[np.intp]
    """The coarse pixel in which the centre lies."""
    weight: npt.NDArray[np.float64]
    """Of the one above, from 0 to 1."""


def coarse_window(rows: Neighbours, columns: Neighbours) -> Window:
    """What has to be read of the coarse grid."""
    return Window((rows.start, columns.start), (rows.count, columns.count))


def nearest(pixels: Pixels, rows: Neighbours, columns: Neighbours) -> Pixels:
    """(..., y, x) of the fine grid: the coarse pixels in which they lie."""
    return np.asarray(pixels[..., rows.holder, :][..., columns.holder])


def bilinear(pixels: Pixels, rows: Neighbours, columns: Neighbours) -> Pixels:
    """(C, Y, X) of the fine grid, in the type of `pixels`, which are (C, y, x) of the coarse one."""
    return _stored(_between(pixels.astype(np.float64), rows, columns), pixels.dtype)


def bilinear_of_usable(
    pixels: Pixels, usable: Valid, rows: Neighbours, columns: Neighbours, fill: float, nodata: float | None
) -> Pixels:
    """As `bilinear`, of those pixels alone that are usable.

    Args:
        pixels: (C, y, x) of the coarse grid.
        usable: (C, y, x), band by band: those that are not take no part.
        rows: neighbours along y.
        columns: neighbours along x.
        fill: value of a fine pixel that lies in an unusable coarse one.
        nodata: what no other one may be: a blend that comes out as it (0 between -1 and 1) becomes the next value.
    """
    weights = _between(usable.astype(np.float64), rows, columns)
    values = _between(np.where(usable, pixels.astype(np.float64), 0.0), rows, columns)
    blended = _stored(values / np.where(weights > 0, weights, 1.0), pixels.dtype)
    return np.where(nearest(usable, rows, columns), off_nodata(blended, nodata), pixels.dtype.type(fill))


def _stored(values: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> Pixels:
    """Numbers as a source stores them."""
    return (values if dtype.kind == "f" else np.rint(values)).astype(dtype)


def _between(values: npt.NDArray[np.float64], rows: Neighbours, columns: Neighbours) -> npt.NDArray[np.float64]:
    """Linear along y, then along x; a constant stays what it is."""
    lower, upper = values[..., rows.below, :], values[..., rows.above, :]
    along_y = lower + (upper - lower) * rows.weight[:, None]
    left, right = along_y[..., columns.below], along_y[..., columns.above]
    return np.asarray(left + (right - left) * columns.weight)
