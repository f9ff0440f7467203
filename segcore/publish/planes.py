"""Planes: what a picture of an image shows, read at a coarse level or as one tile; never more than a page can use."""

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

Ids = npt.NDArray[Any]
Valid = npt.NDArray[np.bool_]


def coarse_plane(image: Image, mask: Label) -> tuple[Window, int]:
    """The whole of an image (of a volume or sequence the middle plane), in pixels of a coarse level, and that level."""
    levels = range(mask.base_level, image.num_levels)
    level = next((n for n in levels if max(image.shape(n)[-2:]) <= LEVEL_PX), levels[-1])
    lead = mask.shape(level - mask.base_level)[:-2]
    start, shape = (*(n // 2 for n in lead), 0, 0), (*(1 for _ in lead), *image.shape(level)[-2:])
    return Window(start, shape), level


def read_picture(image: Image, window: Window, level: int) -> tuple[pictures.Rgb, Valid]:
    """The picture of a plane (Y, X, 3), shrunk to fit the page, and which of its pixels are usable, at full size.

    Args:
        image: what is shown.
        window: of a label of it: without channels.
        level: of the image.
    """
    at = image.axes.index("c")
    pixels = image.read(window.with_axis(at, image.shape(level)[at]), level)
    plane = pixels.reshape(-1, *pixels.shape[-2:])
    valid = image.read_valid(window, level).reshape(plane.shape[-2:])
    return pictures.shrunk(pictures.to_rgb(plane, image.channels, valid), PICTURE_PX), valid


def read_ids(label: Label, window: Window, level: int, valid: Valid, sides: tuple[int, ...]) -> Ids:
    """The ids of a plane at the size of its picture; `ignore` where it is not usable."""
    ids = label.read(window, level - label.base_level).reshape(valid.shape)
    return pictures.sampled(np.where(valid, ids, label.ignore), sides)
