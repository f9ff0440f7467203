"""Growing: what is surely foreground or surely background is marked, and the two grow over what lies between.

    value   ---- threshold - margin ---- threshold ---- threshold + margin ----
            background marker  |        not marked          |  foreground marker

All of them follow connected pixels as far as these go, and so see all of a tile.
"""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from skimage import feature, filters, segmentation

from segcore.models.classic.base import Floats, Mask, MaskModel
from segcore.models.classic.grey import Grey, otsu
from segcore.models.classic.thresholds import GreyMaskArguments

BACKGROUND, FOREGROUND = 1, 2
"""Markers; 0 = not marked."""
SOLVER: dict[str, Any] = {"mode": "cg_j", "prob_tol": math.inf}
"""SciPy's conjugate gradients. Probabilities may be a little outside of 0..1: all that counts is which is larger."""


class MarkerArguments(GreyMaskArguments):
    """Of a method that grows from markers."""

    threshold: float | None = None
    """Middle of what is not marked, as a fraction of the range of the image's type; none = Otsu's, of the tile."""
    margin: float = Field(default=0.05, ge=0)
    """Values farther from the threshold than this are marked."""


class GrowingModel(MaskModel):
    """Values and their two limits -> what grew."""

    def __init__(self, arguments: MarkerArguments) -> None:
        super().__init__(arguments)
        self._grey, self._threshold, self._margin = Grey(arguments), arguments.threshold, arguments.margin

    def mask(self, tile: Floats) -> Mask:
        values, sign = self._grey(tile)
        middle = otsu(values, sign) if self._threshold is None else sign * self._threshold
        low, high = middle - self._margin, middle + self._margin
        markers = np.where(values > high, FOREGROUND, np.where(values < low, BACKGROUND, 0))
        there = np.unique(markers[markers > 0])
        if len(there) < 2:  # alone it would grow over all of the tile
            return np.full(values.shape, FOREGROUND in there)
        return self.grown(values, markers, low)

    def grown(self, values: Floats, markers: npt.NDArray[np.int64], low: float) -> Mask:
        """Where the foreground is, of a tile that has markers of both kinds."""
        raise NotImplementedError


class RegionGrowing(GrowingModel):
    """From each foreground marker over all neighbours that are not surely background: hysteresis (Canny, 1986)."""

    def grown(self, values: Floats, markers: npt.NDArray[np.int64], low: float) -> Mask:
        grown = filters.apply_hysteresis_threshold(values, low, low + 2 * self._margin)  # type: ignore[no-untyped-call]
        return np.asarray(grown)


class EdgesWatershedArguments(MarkerArguments):
    """What edges and watershed are built from."""

    edges: Literal["sobel", "canny"] = "sobel"
    """What stops the growing: the slope, or thin lines along the steepest places."""
    edge: float = Field(default=0.1, gt=0)
    """Canny: slope from which a line begins, in fractions of the type's range as Sobel gives them; it ends below half
    of that."""


class EdgesWatershed(GrowingModel):
    """Markers grow as water rises over the edges, and meet at their ridges.

    Meyer, "Un algorithme optimal pour la ligne de partage des eaux" (1991).
    """

    def __init__(self, arguments: EdgesWatershedArguments) -> None:
        super().__init__(arguments)
        self._edge = arguments.edge if arguments.edges == "canny" else None

    def grown(self, values: Floats, markers: npt.NDArray[np.int64], low: float) -> Mask:
        if self._edge is None:
            height = filters.sobel(values)  # type: ignore[no-untyped-call]
        else:
            steep = {"low_threshold": self._edge / 2, "high_threshold": self._edge}
            height = feature.canny(values, sigma=0, **steep).astype(np.float64)  # type: ignore[no-untyped-call]
        found = segmentation.watershed(height, markers)  # type: ignore[no-untyped-call]
        return np.asarray(found == FOREGROUND)


class RandomWalkerArguments(MarkerArguments):
    """What a random walker is built from."""

    beta: float = Field(default=130.0, gt=0)
    """How strongly a difference of two neighbours keeps a walker from going there; in units of the tile's variance."""


class RandomWalker(GrowingModel):
    """A pixel is what a walker from it is likelier to meet first.

    Grady, "Random Walks for Image Segmentation" (2006). It solves a linear system of the pixels that are not marked.
    """

    def __init__(self, arguments: RandomWalkerArguments) -> None:
        super().__init__(arguments)
        self._beta = arguments.beta

    def grown(self, values: Floats, markers: npt.NDArray[np.int64], low: float) -> Mask:
        if markers.all():
            return np.asarray(markers == FOREGROUND)
        found = segmentation.random_walker(values, markers, beta=self._beta, **SOLVER)
        return np.asarray(found == FOREGROUND)
