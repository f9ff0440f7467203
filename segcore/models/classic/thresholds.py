"""Thresholds: a pixel's class by its value alone, or by how it compares with its surroundings.

Otsu's threshold for several classes: Liao et al., "A Fast Algorithm for Multilevel Thresholding" (2001), of the tile.
"""

from typing import Literal

import numpy as np
from pydantic import Field
from scipy import ndimage
from skimage import filters

from segcore.models.classic.base import (
    TRUNCATE,
    ClassicModel,
    Floats,
    Ids,
    Mask,
    MaskArguments,
    MaskModel,
    gaussian_reach,
)
from segcore.models.classic.grey import LEVELS, Grey, GreyArguments, otsu

MAX_CLASSES = 5
"""Multi-Otsu tries all combinations of thresholds: with five of 256 levels it takes most of a second."""


def multi_otsu(values: Floats, classes: int, sign: float = 1.0) -> Floats:
    """The thresholds (classes - 1,), ascending; where there are fewer levels than classes the last classes are empty.

    Args:
        values: (Y, X).
        classes: 2 to 5.
        sign: as of `otsu`.
    """
    if classes == 2:
        return np.array([otsu(values, sign)])
    counts, edges = np.histogram(sign * values, LEVELS)
    occupied = np.flatnonzero(counts)
    if len(occupied) <= classes:
        found = (edges[occupied[1:]] + edges[occupied[:-1] + 1]) / 2
    else:
        found = filters.threshold_multiotsu(sign * values, classes, nbins=LEVELS)  # type: ignore[no-untyped-call]
    return np.concatenate([np.sort(sign * found), np.full(classes - 1 - len(found), np.inf)])


def classed(values: Floats, thresholds: Floats) -> Ids:
    """How many of the ascending thresholds each value is above."""
    return np.searchsorted(thresholds, values, side="left").astype(np.int64)


class GreyMaskArguments(GreyArguments, MaskArguments):
    """Of a method that makes a mask of one value a pixel."""


class ThresholdArguments(GreyMaskArguments):
    """What a fixed threshold is built from."""

    threshold: float = 0.5
    """Values above it (dark: below it) are foreground, as a fraction of the range of the image's type."""


class Threshold(MaskModel):
    """One threshold for all tiles and images: its mask does not depend on how the image is cut."""

    def __init__(self, arguments: ThresholdArguments) -> None:
        super().__init__(arguments, reach_px=0)
        self._grey, self._threshold = Grey(arguments), arguments.threshold

    def mask(self, tile: Floats) -> Mask:
        values, sign = self._grey(tile)
        return values > sign * self._threshold


class Otsu(MaskModel):
    """Above the threshold that divides the tile's histogram best in two."""

    def __init__(self, arguments: GreyMaskArguments) -> None:
        super().__init__(arguments)
        self._grey = Grey(arguments)

    def mask(self, tile: Floats) -> Mask:
        values, sign = self._grey(tile)
        return values > otsu(values, sign)


class MultiOtsu(ClassicModel):
    """Class k is above k of the thresholds that divide the tile's histogram best.

    Raises:
        ValueError: if there are more than five classes.
    """

    def __init__(self, arguments: GreyArguments) -> None:
        super().__init__(arguments)
        check_num_classes(arguments.num_classes)
        self._grey = Grey(arguments)

    def ids(self, tile: Floats) -> Ids:
        values, sign = self._grey(tile)
        return classed(values, multi_otsu(values, self.num_classes, sign))


def check_num_classes(num_classes: int) -> None:
    """Refuse what multi-Otsu cannot do, or not in time.

    Raises:
        ValueError: naming how many it can.
    """
    if not 2 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"it tells 2 to {MAX_CLASSES} classes apart by their brightness, got {num_classes}")


class LocalThresholdArguments(GreyMaskArguments):
    """What a local threshold is built from."""

    window: int = Field(default=51, ge=3, le=1023)
    """Side in px of what a pixel is compared with; an even one is one more, so that it has a middle."""
    offset: float = 0.02
    """A pixel is foreground where it is brighter (dark: darker) than the mean of its window by more than this, as a
    fraction of the range of the image's type."""
    method: Literal["mean", "gaussian"] = "mean"
    """All of the window counts alike, or its middle more; a Gaussian reaches a third of the window beyond its half."""


class LocalThreshold(MaskModel):
    """Brighter than the mean of the surroundings, as scikit-image's `threshold_local`.

    The sum of a window is taken anew for each pixel: a running one has other last bits in every tile, which decide in
    even areas.
    """

    def __init__(self, arguments: LocalThresholdArguments) -> None:
        window = 2 * (arguments.window // 2) + 1
        deviation = (window - 1) / 6 if arguments.method == "gaussian" else None
        super().__init__(arguments, reach_px=window // 2 if deviation is None else gaussian_reach(deviation))
        self._window, self._deviation = window, deviation
        self._grey, self._offset = Grey(arguments), arguments.offset

    def mask(self, tile: Floats) -> Mask:
        values, _ = self._grey(tile)
        return values > self._mean(values) + self._offset

    def _mean(self, values: Floats) -> Floats:
        if self._deviation is not None:
            return np.asarray(ndimage.gaussian_filter(values, self._deviation, truncate=TRUNCATE))
        kernel = np.full(self._window, 1 / self._window)
        return np.asarray(ndimage.correlate1d(ndimage.correlate1d(values, kernel, axis=0), kernel, axis=1))
