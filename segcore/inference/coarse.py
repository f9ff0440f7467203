"""Coarse: where something is marked, in squares of many pixels: small enough to be kept whole, asked for windows.

    level 0  ........#...  --any of factor x factor-->  map  ..#  --window--> does it touch a marked square?

A square is marked if any of its pixels is: the mode or the mean of a pyramid would lose what is thin.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segcore.errors import ConfigError
from segcore.geometry import Grid, Ints, Window
from segcore.inference.model_grid import Valid
from segcore.store import Image, Label

MAX_MAP_PX = 1 << 22
"""Squares of one map, one byte each, over all planes."""
PIECE_PX = 1024
"""Side of what is read at once to make a map."""
LEAST_NODATA_LEVEL = 2
"""A map of nodata is read from this level or a coarser one: of the pixels themselves it would cost a second read."""


@dataclass(frozen=True, eq=False)
class CoarseMap:
    """What is marked; over (y, x), or with the planes of z or t before them."""

    marked: Valid
    factor: int
    """Sides of a square in pixels of level 0; a plane stays a plane."""

    def touches(self, window: Window) -> bool:
        """True if a marked square shares a pixel with a window of level 0, over the image's axes without c."""
        start, stop = window.start[-self.marked.ndim :], window.stop[-self.marked.ndim :]
        planes = tuple(slice(a, b) for a, b in zip(start[:-2], stop[:-2], strict=True))
        sides = (slice(a // self.factor, -(-b // self.factor)) for a, b in zip(start[-2:], stop[-2:], strict=True))
        return bool(self.marked[(*planes, *sides)].any())

    def grown(self, margin: int) -> "CoarseMap":
        """Marked as well: what lies within so many squares, in y and x."""
        marked = self.marked.copy()
        for axis in (-2, -1):
            lines = np.moveaxis(marked, axis, -1)  # views: what is written to them is written to `marked`
            before = lines.copy()
            for step in range(1, min(margin, lines.shape[-1] - 1) + 1):
                lines[..., step:] |= before[..., :-step]
                lines[..., :-step] |= before[..., step:]
        return CoarseMap(marked, self.factor)


def factor_for(shape: Ints) -> int:
    """The smallest power of 2 at which a map of an image of this shape (without c) has at most MAX_MAP_PX squares."""
    factor = 1
    while math.prod(shape[:-2]) * math.prod(-(-n // factor) for n in shape[-2:]) > MAX_MAP_PX:
        factor *= 2
    return factor


def plane_shape(image: Image, level: int = 0) -> Ints:
    """Sides of a level over the axes without c."""
    return tuple(n for axis, n in zip(image.axes, image.shape(level), strict=True) if axis != "c")


def map_of_usable(image: Image) -> CoarseMap | None:
    """Squares with a usable pixel, by the nodata of a coarser level; None where that would not be certain.

    A coarser pixel of the store has a value where any of its pixels has one. Not so the levels that a linked source
    brings along, nor those of a `valid` label, which go down by the mode.
    """
    if not image.pixels_tell or image.is_linked or image.num_levels == 1:
        return None
    factor = max(factor_for(plane_shape(image)), 2 ** min(LEAST_NODATA_LEVEL, image.num_levels - 1))
    level = min(factor.bit_length() - 1, image.num_levels - 1)
    return _mapped(plane_shape(image, level), level, factor, lambda window: image.read_valid(window, level))


def map_of_label(label: Label, image: Image, is_marked: Callable[[Valid], Valid]) -> CoarseMap:
    """Squares in which a pixel of a label's finest level is marked; all of that level is read once, piece by piece.

    Args:
        label: of the image, its finest level as fine as any of the image's.
        image: what it lies over.
        is_marked: ids -> True = marked.

    Raises:
        ConfigError: if the label is not of the image's size.
    """
    level = level_of(label, image)
    factor = max(factor_for(plane_shape(image)), 2**level)
    return _mapped(label.shape(), level, factor, lambda window: is_marked(label.read(window)))


def level_of(label: Label, image: Image) -> int:
    """The level of an image that is the finest of its label.

    Raises:
        ConfigError: if the label is not of the image's size.
    """
    shapes = [plane_shape(image, level) for level in range(image.num_levels)]
    if label.shape() not in shapes:
        raise ConfigError(
            f"image {image.image_id}: the label {label.name} has {label.shape()} px, which no level of the image has"
        )
    return shapes.index(label.shape())


def _mapped(shape: Ints, level: int, factor: int, ask: Callable[[Window], Valid]) -> CoarseMap:
    """The map of a level of this shape, asked piece by piece."""
    step = factor >> level
    assert step >= 1, f"squares of {factor} px are smaller than the pixels of level {level}"
    marked = np.zeros((*shape[:-2], *(-(-n // step) for n in shape[-2:])), dtype=np.bool_)
    side = max(PIECE_PX, step)
    grid = Grid(shape, (*(1,) * (len(shape) - 2), side, side))
    for window in map(grid.window, grid.indices()):
        found = ask(window)
        for axis in (-2, -1):
            found = np.logical_or.reduceat(found, range(0, found.shape[axis], step), axis=axis)
        start = (*window.start[:-2], *(a // step for a in window.start[-2:]))
        marked[Window(start, found.shape).slices] = found
    return CoarseMap(marked, factor)
