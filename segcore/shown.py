"""Shown: what a picture of an image in a page shows, read at a coarse level or as one tile, and of its bands those that
are seen; never more than a page can use.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.geometry import Window
from segcore.report import pictures
from segcore.store import Image, Label

LEVEL_PX = 1024
"""Whole images are read at the finest level whose longer side is at most this."""
PICTURE_PX = 560
"""Longer side of a picture in the page."""

MOST_TOGETHER = 4
"""Bands that are read at once, with those between that are not shown."""

Ids = npt.NDArray[Any]
Valid = npt.NDArray[np.bool_]


def coarse_plane(image: Image, finest: int = 0) -> tuple[Window, int]:
    """The whole of an image (of a volume or sequence the middle plane), in pixels of a coarse level, and that level.

    Args:
        image: what is shown.
        finest: the finest level that is asked for: a mask's.
    """
    levels = range(finest, image.num_levels)
    level = next((n for n in levels if max(image.shape(n)[-2:]) <= LEVEL_PX), levels[-1])
    *lead, height, width = (n for axis, n in zip(image.axes, image.shape(level), strict=True) if axis != "c")
    return Window((*(n // 2 for n in lead), 0, 0), (*(1 for _ in lead), height, width)), level


def read_picture(
    image: Image, window: Window, level: int, longest_px: int | None = PICTURE_PX
) -> tuple[pictures.Rgb, Valid]:
    """The picture of a plane (Y, X, 3), shrunk to fit the page, and which of its pixels are usable, at full size.

    Args:
        image: what is shown.
        window: of a label of it: without channels.
        level: of the image.
        longest_px: of the picture's sides; None = as many as there are.
    """
    sides = window.shape[-2:]
    valid = image.read_valid(window, level).reshape(sides)
    bands = sorted(set(pictures.color_channels(len(image.channels), image.channels)))
    at, span = image.axes.index("c"), bands[-1] - bands[0] + 1
    # Neighbours often lie in one chunk, or in the same pixels of a source.
    reads = [(bands[0], span)] if span <= MOST_TOGETHER else [(band, 1) for band in bands]
    found = [image.read(window.with_axis(at, num, first), level).reshape(num, *sides) for first, num in reads]
    plane = np.concatenate(found) if len(reads) > 1 else found[0][[band - bands[0] for band in bands]]
    picture = pictures.to_rgb(plane, [image.channels[band] for band in bands], valid)
    return picture if longest_px is None else pictures.shrunk(picture, longest_px), valid


def read_ids(label: Label, window: Window, level: int, valid: Valid, sides: tuple[int, ...]) -> Ids:
    """The ids of a plane at the size of its picture; `ignore` where it is not usable."""
    ids = label.read(window, level - label.base_level).reshape(valid.shape)
    return pictures.sampled(np.where(valid, ids, label.ignore), sides)
