"""Geometry: windows, tiles, shard and work-unit grids, level arithmetic. Pure integers, any number of axes.

    read window   +-----------------+
                  |  halo           |
                  |   +---------+   |
                  |   |  write  |   |   one Tile: the model sees the read window,
                  |   | window  |   |   only the write window of its answer is kept
                  |   +---------+   |
                  +-----------------+

Windows are in pixels of one level. A read window may reach over the image's border: what lies
outside is filled by reflection (`reflected`).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import numpy.typing as npt

Ints = tuple[int, ...]

MAX_COARSEST_PX = 512
"""The pyramid goes on until the longer of y and x is at most this."""


@dataclass(frozen=True, slots=True)
class Window:
    """An N-D box: `start` (inclusive) and `shape`, both in pixels of one level, in axis order.

    Raises:
        ValueError: if the two differ in length, or a side is negative.
    """

    start: Ints
    shape: Ints

    def __post_init__(self) -> None:
        if len(self.start) != len(self.shape):
            raise ValueError(f"start {self.start} and shape {self.shape} must have the same number of axes")
        if any(side < 0 for side in self.shape):
            raise ValueError(f"window sides must not be negative, got {self.shape}")

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Window":
        """The window that covers an array of this shape."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def stop(self) -> Ints:
        """The first pixel behind the window, per axis."""
        return tuple(a + n for a, n in zip(self.start, self.shape, strict=True))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def num_px(self) -> int:
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index into an array whose origin is the level's origin; never of a window that starts below 0."""
        assert all(a >= 0 for a in self.start), f"window {self} starts outside the array"
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))

    @property
    def behind(self) -> tuple[EllipsisType | slice, ...]:
        """Like `slices`, for an array that has further axes before those of the window."""
        return (..., *self.slices)

    def expanded(self, margin: Sequence[int]) -> "Window":
        """The window grown by `margin` pixels per axis on both sides."""
        start = tuple(a - m for a, m in zip(self.start, margin, strict=True))
        return Window(start, tuple(n + 2 * m for n, m in zip(self.shape, margin, strict=True)))

    def intersected(self, other: "Window") -> "Window":
        """What both cover; sides of 0 where they do not meet."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = (min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Window(start, tuple(max(0, b - a) for a, b in zip(start, stop, strict=True)))

    def contains(self, other: "Window") -> bool:
        """True if every pixel of `other` lies in this window."""
        return self.intersected(other) == other

    def with_axis(self, at: int, length: int, start: int = 0) -> "Window":
        """The window with one more axis before `at`, over `length` of it from `start` on."""
        return Window((*self.start[:at], start, *self.start[at:]), (*self.shape[:at], length, *self.shape[at:]))

    def relative_to(self, origin: Sequence[int]) -> "Window":
        """The same box, counted from `origin`."""
        return Window(tuple(a - o for a, o in zip(self.start, origin, strict=True)), self.shape)


@dataclass(frozen=True, slots=True)
class Tile:
    """One model input: `write` (inside the image) plus halo = `read` (may reach over the border)."""

    index: Ints
    write: Window
    read: Window


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of one fixed shape, anchored at the origin, that cover an array; border cells are clipped.

    Every pixel of the array lies in exactly one cell.
    """

    shape: Ints
    cell: Ints

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.cell) or any(side < 1 for side in (*self.shape, *self.cell)):
            raise ValueError(f"grid needs positive sides on the same axes, got shape {self.shape} and cell {self.cell}")

    @property
    def counts(self) -> Ints:
        """Number of cells per axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.cell, strict=True))

    @property
    def num_cells(self) -> int:
        return math.prod(self.counts)

    def indices(self) -> Iterator[Ints]:
        """Every cell's index, in raster order."""
        return itertools.product(*(range(n) for n in self.counts))

    def window(self, index: Ints) -> Window:
        """The pixels of a cell, clipped to the array."""
        assert all(0 <= i < n for i, n in zip(index, self.counts, strict=True)), f"cell {index} not in {self.counts}"
        start = tuple(i * c for i, c in zip(index, self.cell, strict=True))
        return Window(start, self.cell).intersected(Window.whole(self.shape))

    def touching(self, window: Window) -> Iterator[Ints]:
        """Indices of the cells that share a pixel with `window`, in raster order."""
        inside = window.intersected(Window.whole(self.shape))
        if inside.num_px == 0:
            return iter(())
        return itertools.product(
            *(range(a // c, -(-b // c)) for a, b, c in zip(inside.start, inside.stop, self.cell, strict=True))
        )


def rounded_up(px: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `px`."""
    return -(-px // step) * step


def tiles_in(window: Window, image_shape: Ints, core: Ints, halo: Ints, step: Ints | None = None) -> Iterator[Tile]:
    """Tiles whose write windows lie on the grid of `core` anchored at the image origin and touch `window`.

        image   |-------------------------------------|
        write   |----------------|----------------|---|
        read  ~~|----------------|~~         ~~|---.|~~      ~ halo, . up to a multiple of `step`

    Args:
        window: the pixels that have to be written, same axes as the rest.
        image_shape: of the level that is tiled.
        core: sides of a write window in px.
        halo: context in px per axis, on both sides.
        step: the border's write windows are read up to a multiple of this; None = up to `core`, so that all tiles
            have one shape.
    """
    grid, step = Grid(image_shape, core), step or core
    for index in grid.touching(window):
        write = grid.window(index)
        yield Tile(index, write, Window(write.start, tuple(map(rounded_up, write.shape, step))).expanded(halo))


def reflected(start: int, length: int, size: int) -> npt.NDArray[np.intp]:
    """Indices `start .. start + length` of an axis of `size` pixels, mirrored at the borders.

    The border pixel itself is not repeated (numpy's `reflect`): for size 4, -2..6 gives 2 1 0 1 2 3 2 1.
    """
    if size == 1:
        return np.zeros(length, dtype=np.intp)
    period = 2 * (size - 1)
    folded = np.arange(start, start + length) % period
    return np.minimum(folded, period - folded).astype(np.intp)


def halved(shape: Sequence[int], halve: Sequence[bool]) -> Ints:
    """The next coarser level's shape: ceil(n / 2) on the axes that are halved."""
    return tuple(-(-n // 2) if h else n for n, h in zip(shape, halve, strict=True))


def level_shapes(shape: Sequence[int], halve: Sequence[bool]) -> list[Ints]:
    """Shapes of all levels, finest first: halved until the longest halved axis is at most 512 px."""
    shapes = [tuple(shape)]
    while max((n for n, h in zip(shapes[-1], halve, strict=True) if h), default=0) > MAX_COARSEST_PX:
        shapes.append(halved(shapes[-1], halve))
    return shapes


def is_level(full: tuple[int, int], finer: tuple[int, int], found: tuple[int, int]) -> bool:
    """True for an overview that is smaller than the last one, and the whole image in one whole fraction of its size."""
    factor = max(round(n / side) for n, side in zip(full, found, strict=True))
    if factor < 2 or found == finer or found[0] > finer[0] or found[1] > finer[1]:
        return False
    # A side shorter than the fraction is one pixel in all of them.
    return all(n // factor <= side <= -(-n // factor) or side == 1 for n, side in zip(full, found, strict=True))


def z_order(indices: Sequence[Ints]) -> list[Ints]:
    """Cell indices sorted along a Z curve over their last two axes: siblings of one parent follow each other."""
    return sorted(indices, key=lambda index: (index[:-2], z_code(*index[-2:])))


def z_code(y: int, x: int) -> int:
    """Place of a cell on a Z curve (Morton, 1966)."""
    code = 0
    for bit in range(max(y, x).bit_length()):
        code |= ((y >> bit) & 1) << (2 * bit + 1) | ((x >> bit) & 1) << (2 * bit)
    return code
