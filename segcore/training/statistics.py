"""Statistics: training images -> *mean and deviation per band*, by which pixels are normalised."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segcore.geometry import Window
from segcore.sampling import LabelledImage

MAX_STATISTICS_PX = 4 << 20
"""Mean and deviation come from the finest level that has at most so many pixels in a plane."""

Floats = npt.NDArray[np.float64]


class Statistics:
    """Those of any of the images that it was asked for; each image is read once, for all folds and trials."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None, int, bool], Floats] = {}

    def of(self, images: Sequence[LabelledImage]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per band over its values in usable pixels; each plane weighs as much."""
        planes = np.concatenate([self._of_image(image) for image in images])
        has_value = ~np.isnan(planes[:, 0])
        sums = np.zeros((2, planes.shape[2]))
        for plane, known in zip(planes, has_value, strict=True):  # in their order: the same sum, to the last bit
            sums[:, known] += plane[:, known]
        mean, square = sums / np.maximum(1, has_value.sum(axis=0))
        std = np.sqrt(np.maximum(square - mean**2, 0))
        std[std < 1e-6 * np.maximum(1, np.abs(mean))] = 1.0  # a constant band says nothing: it stays at 0
        return tuple(float(value) for value in mean), tuple(float(value) for value in std)

    def _of_image(self, image: LabelledImage) -> Floats:
        key = (image.image_id, image.image.digest, image.level, image.stretch is not None)
        if key not in self._known:
            self._known[key] = _planes(image)
        return self._known[key]


def _planes(image: LabelledImage) -> Floats:
    """Mean and mean square (planes, 2, C) of each plane's usable values; NaN of a band that has none there."""
    level = image.level
    while level + 1 < image.image.num_levels and np.prod(image.image.shape(level)[-2:]) > MAX_STATISTICS_PX:
        level += 1
    window = Window.whole(image.image.shape(level)[-2:])
    found = np.full((image.num_planes, 2, image.num_channels), np.nan)
    for plane in range(image.num_planes):
        pixels = image.read_pixels(plane, window, level)
        valid = image.read_valid(plane, window, level, pixels)
        pixels = image.stretched(pixels)
        for band, values in enumerate(pixels[:, valid].astype(np.float64)):
            values = values[np.isfinite(values)]
            if values.size:
                found[plane, :, band] = values.mean(), (values**2).mean()
    return found
