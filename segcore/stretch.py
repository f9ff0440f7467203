"""Stretch: each image's own range of intensities -> the whole range of its type.

For sets whose images differ more among each other than within (dark fluorescence beside bright-field): one
normalisation for all would leave the dark ones without contrast. The range is the image's, never the tile's, so
the mask stays the same however the work is cut.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.geometry import Window
from segcore.store import Image

LOW_PERCENT, HIGH_PERCENT = 0.1, 99.9
"""Few enough to spare small things: where nuclei are 1 % of a slide, they are its darkest 1 %."""
MAX_RATIO = 3.0
"""Images whose upper ends differ by more than this are stretched by default."""
DTYPES = ("uint8", "uint16")

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Stretch:
    """The range of one image, all bands together, so that hues stay."""

    low: float
    """Becomes 0."""
    high: float
    """Becomes the highest value of the type; over `low`."""

    def apply(self, pixels: Pixels) -> Pixels:
        """Stretched pixels (C, ...), same shape and dtype (uint8 or uint16); what lies outside the range is clipped."""
        top = np.iinfo(pixels.dtype).max
        values = np.arange(top + 1, dtype=np.float64)
        table = np.rint(np.clip((values - self.low) / (self.high - self.low), 0, 1) * top).astype(pixels.dtype)
        stretched = np.empty_like(pixels)
        for band, values_of_band in zip(
            stretched, pixels, strict=True
        ):  # indexing takes eight bytes a pixel for a while
            band[...] = table[values_of_band]
        return stretched


def stretch_of(image: Image) -> Stretch:
    """The range from the 0.1st to the 99.9th percentile of the usable pixels of the coarsest level."""
    level = image.num_levels - 1
    sides = list(zip(image.axes, image.shape(level), strict=True))
    start = tuple(n // 2 if axis in "zt" else 0 for axis, n in sides)
    shape = tuple(1 if axis in "zt" else n for axis, n in sides)
    pixels = image.read(Window(start, shape), level).reshape(-1, *shape[-2:])
    plane = [(a, n) for a, n, axis in zip(start, shape, image.axes, strict=True) if axis != "c"]
    if image.has_valid:
        label = Window(tuple(a for a, _ in plane), tuple(n for _, n in plane))
        valid = image.read_valid(label, level).reshape(shape[-2:])
    else:
        valid = image.usable(pixels)
    values = pixels[:, valid]
    if values.size == 0:
        return Stretch(0.0, float(np.iinfo(image.dtype).max))
    low, high = np.percentile(values, (LOW_PERCENT, HIGH_PERCENT)).tolist()
    return Stretch(low, max(high, low + 1))
