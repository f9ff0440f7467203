"""Planes: a tile of the viewer's grid -> *pixels* of an image, a mask or a layer; through the store alone.

The grid has squares of TILE_PX at every level of the image, counted from its corner. A mask or a layer whose finest
level is the image's level n is asked for at n and coarser.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.store import Image, Label, Layer

TILE_PX = 512
"""Four chunks, so that a screen takes a dozen requests."""
MAX_READ_TOGETHER = 4
"""Bands that lie in one chunk: all are read at once, and tell together which pixels have a value."""

Pixels = npt.NDArray[Any]
Valid = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Place:
    """A tile: a level of the image, its row and column, and which plane along z and t."""

    level: int
    row: int
    column: int
    at: Mapping[str, int]


def tile_window(pyramid: Image | Label | Layer, place: Place) -> Window:
    """What a tile covers of its level, over y and x.

    Raises:
        ConfigError: if there is no such tile.
    """
    level = place.level - pyramid.base_level
    if not 0 <= level < pyramid.num_levels:
        last = pyramid.base_level + pyramid.num_levels - 1
        raise ConfigError(f"tile: expected a level from {pyramid.base_level} to {last}, got {place.level}")
    sides = pyramid.shape(level)[-2:]
    start = place.row * TILE_PX, place.column * TILE_PX
    if not all(0 <= a < n for a, n in zip(start, sides, strict=True)):
        raise ConfigError(f"tile: row {place.row}, column {place.column} lies outside of level {place.level}, {sides}")
    return Window(start, (TILE_PX, TILE_PX)).intersected(Window.whole(sides))


def whole_window(pyramid: Image | Label | Layer, box: Window, at: Mapping[str, int], bands: slice) -> Window:
    """A window over all axes of level 0 or any other: `box` in y and x, one plane of z and t, some bands.

    Raises:
        ConfigError: if there is no such plane.
    """
    start, shape = [], []
    for axis, side in zip(pyramid.axes[:-2], pyramid.shape()[:-2], strict=True):  # these are the same at every level
        if axis == "c":
            start.append(bands.start)
            shape.append(bands.stop - bands.start)
        else:
            index = at.get(axis, side // 2)
            if not 0 <= index < side:
                raise ConfigError(f"plane: expected {axis} from 0 to {side - 1}, got {index}")
            start.append(index)
            shape.append(1)
    return Window((*start, *box.start), (*shape, *box.shape))


def read_ids(label: Label, level: int, box: Window, at: Mapping[str, int]) -> Pixels:
    """Ids (Y, X) of a window of a level of the label's own."""
    return label.read(whole_window(label, box, at, slice(0, 1)), level).reshape(box.shape)


def read_values(layer: Layer, level: int, box: Window, at: Mapping[str, int], channel: int) -> Pixels:
    """Values (Y, X) of one channel of a layer, at a level of the layer's own."""
    return layer.read(whole_window(layer, box, at, slice(channel, channel + 1)), level).reshape(box.shape)


def read_bands(
    image: Image, level: int, box: Window, at: Mapping[str, int], bands: Sequence[int]
) -> tuple[Pixels, Valid | None]:
    """Some bands of one plane, and which pixels are usable.

    Of an image of many bands whose pixels tell themselves (nodata), those count as usable that have a value in one of
    the bands that are read.

    Returns:
        `(C, Y, X)` in the order of `bands`, and `(Y, X)`, True = usable; None = all are.
    """
    num_bands = len(image.channels)
    together = num_bands <= MAX_READ_TOGETHER
    reads = [slice(0, num_bands)] if together else [slice(band, band + 1) for band in dict.fromkeys(bands)]
    found = np.concatenate(
        [image.read(whole_window(image, box, at, read), level).reshape(-1, *box.shape) for read in reads]
    )
    valid: Valid | None = None
    if image.has_valid:
        plane = whole_window(image, box, at, slice(0, 1))
        channel = image.axes.index("c")
        flat = Window(*(tuple(np.delete(side, channel).tolist()) for side in (plane.start, plane.shape)))
        valid = image.read_valid(flat, level).reshape(box.shape)
    elif image.pixels_tell:
        valid = image.usable(found)
    order = list(bands) if together else [list(dict.fromkeys(bands)).index(band) for band in bands]
    return found[order], None if valid is None or valid.all() else valid
