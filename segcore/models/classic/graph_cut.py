"""Graph cut: the mask of least energy; what each pixel's value says against the length of the borders.

    E(mask) = sum over pixels on the wrong side of |value - threshold|
            + smoothness * sum over neighbours of two sides of exp(-(difference of their values)^2 / 2 contrast^2)

Boykov and Jolly, "Interactive Graph Cuts for Optimal Boundary and Region Segmentation" (2001). The minimum is found
exactly, as the cut of least weight between a source and a sink (SciPy's Dinic). It is of all of the tile.
"""

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from segcore.models.classic.base import Floats, Mask, MaskModel
from segcore.models.classic.grey import Grey, otsu
from segcore.models.classic.thresholds import GreyMaskArguments

UNITS = 10_000
"""Weights are whole numbers: so many are a difference of 1."""
MOST = 2**30
"""What int32 holds, with room for a pair of opposite edges."""

Ints = npt.NDArray[np.int32]


class GraphCutArguments(GreyMaskArguments):
    """What a graph cut is built from."""

    threshold: float | None = None
    """Values above it (dark: below it) are rather foreground, as a fraction of the range of the image's type; none =
    Otsu's, of the tile."""
    smoothness: float = Field(default=0.1, ge=0)
    """What a px of border costs between equal values: a single pixel that is farther from the threshold than four
    times this stands alone."""
    contrast: float = Field(default=0.1, gt=0)
    """Neighbours that differ by more than this, as a fraction of the range of the image's type, are cheap to part."""


class GraphCut(MaskModel):
    """The best mask for values, threshold and smoothness."""

    def __init__(self, arguments: GraphCutArguments) -> None:
        super().__init__(arguments)
        self._grey, self._smoothness, self._contrast = Grey(arguments), arguments.smoothness, arguments.contrast
        self._threshold = arguments.threshold

    def mask(self, tile: Floats) -> Mask:
        values, sign = self._grey(tile)
        threshold = otsu(values, sign) if self._threshold is None else sign * self._threshold
        return least_cut(values - threshold, self._bonds(values, axis=0), self._bonds(values, axis=1))

    def _bonds(self, values: Floats, axis: int) -> Floats:
        """What it costs to part each pixel from the next one along an axis."""
        steps = np.diff(values, axis=axis) / self._contrast
        return np.asarray(self._smoothness * np.exp(-(steps**2) / 2))


def least_cut(excess: Floats, down: Floats, right: Floats) -> Mask:
    """The mask of least energy; of several that with the fewest pixels.

    Args:
        excess: (Y, X), what a pixel that is not in the mask costs; below 0, what one that is costs.
        down: (Y - 1, X), what it costs to part a pixel from the one below.
        right: (Y, X - 1), likewise from the one to the right.
    """
    pixels = np.arange(excess.size).reshape(excess.shape)
    source, sink = excess.size, excess.size + 1
    pull = _whole(excess).ravel()
    inner, outer = np.flatnonzero(pull > 0), np.flatnonzero(pull < 0)
    edges = [(np.full(len(inner), source), inner, pull[inner]), (outer, np.full(len(outer), sink), -pull[outer])]
    for one, other, bonds in ((pixels[:-1], pixels[1:], down), (pixels[:, :-1], pixels[:, 1:], right)):
        first, second, weight = one.ravel(), other.ravel(), _whole(bonds).ravel()
        edges += [(first, second, weight), (second, first, weight)]
    rows, columns, weights = (np.concatenate(part) for part in zip(*edges, strict=True))
    graph = csr_array(coo_array((weights, (rows, columns)), shape=(sink + 1, sink + 1)))
    left = graph - maximum_flow(graph, source, sink, method="dinic").flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    mask = np.zeros(sink + 1, np.bool_)
    mask[breadth_first_order(left, source, return_predecessors=False)] = True
    return mask[: excess.size].reshape(excess.shape)


def _whole(weights: Floats) -> Ints:
    return np.clip(np.rint(UNITS * weights), -MOST, MOST).astype(np.int32)
