"""Tiling: which tiles an image is cut into, and the pixels that each of them sees; store -> *tiles* -> model.

crop       write windows side by side, each tile reads its halo around them
gaussian   the same grid, but the whole read window of every tile counts, weighted
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from segcore.errors import ConfigError
from segcore.geometry import Grid, Ints, Tile, Window, reflected, rounded_up, tiles_in
from segcore.inference.model_grid import ModelGrid, Pixels, Valid
from segcore.stretch import Stretch


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tile grid of one image, anchored at its origin, over the axes without c."""

    shape: Ints
    """Of the image."""
    core: Ints
    """Sides of a write window; multiples of the model's stride."""
    halo: Ints
    """Context on both sides of each axis; multiples of the model's stride."""
    stride: Ints
    """Of the model."""
    is_cut: bool = True
    """True if tiles at the far borders end at the first multiple of the stride; else all have one shape."""

    @property
    def read(self) -> Ints:
        """Sides of a read window; at the far borders it may be less."""
        return tuple(n + 2 * h for n, h in zip(self.core, self.halo, strict=True))

    @property
    def _step(self) -> Ints:
        return self.stride if self.is_cut else self.core

    @property
    def num_tiles(self) -> int:
        return Grid(self.shape, self.core).num_cells

    @property
    def num_read_px(self) -> int:
        """Of all tiles, halo and all."""
        total = 1
        for n, core, halo, step in zip(self.shape, self.core, self.halo, self._step, strict=True):
            whole = (n - 1) // core
            total *= whole * core + rounded_up(n - whole * core, step) + 2 * (whole + 1) * halo
        return total

    def tiles(self, window: Window) -> Iterator[Tile]:
        """Tiles whose write windows share a pixel with `window`, in raster order."""
        return tiles_in(window, self.shape, self.core, self.halo, self._step)


def crop_tiling(shape: Ints, tile: Ints, halo: Ints, stride: Ints, shard_px: int) -> Tiling:
    """The grid for `blend: crop`.

    In y and x the write window's side is the one nearest to what is wanted that divides the shard's side and is a
    multiple of the stride, so that every tile lies in one column of shards. A smaller image takes one tile of its size.

    Args:
        shape: of the image; the last two axes are y and x.
        tile: wanted sides of a write window.
        halo: wanted context, rounded up to the stride.
        stride: of the model, per axis.
        shard_px: side of the mask's shards in y and x.

    Raises:
        ConfigError: if no side divides the shard's side and is a multiple of the stride.
    """
    planes = tuple(map(rounded_up, tile[:-2], stride[:-2]))
    sides = tuple(_dividing(shard_px, wanted, step) for wanted, step in zip(tile[-2:], stride[-2:], strict=True))
    return Tiling(shape, _fitted(shape, (*planes, *sides), stride), tuple(map(rounded_up, halo, stride)), stride)


def _dividing(shard_px: int, wanted_px: int, stride: int) -> int:
    sides = [side for side in range(stride, shard_px + 1, stride) if shard_px % side == 0]
    if not sides:
        raise ConfigError(
            f"shard_px {shard_px}: expected a multiple of the model's stride {stride}; "
            f"the nearest is {rounded_up(shard_px, stride)}"
        )
    return min(sides, key=lambda side: (abs(side - wanted_px), -side))


def gaussian_tiling(shape: Ints, tile: Ints, halo: Ints, stride: Ints) -> Tiling:
    """The grid for `blend: gaussian`: neighbours overlap by twice the halo.

    Args:
        shape: of the image.
        tile: wanted sides of a whole tile.
        halo: wanted context, rounded up to the stride; an eighth of the tile overlaps by a quarter.
        stride: of the model, per axis.

    Raises:
        ConfigError: if the halo leaves nothing of the tile.
    """
    sides, halo = tuple(map(rounded_up, tile, stride)), tuple(map(rounded_up, halo, stride))
    for left, side, margin in zip(range(len(sides), 0, -1), sides, halo, strict=True):
        if 2 * margin >= side:
            unit, option = ("px", "--tile-px") if left <= 2 else ("planes", "--tile-planes")
            raise ConfigError(
                f"halo {margin} {unit}: expected less than half of the tile of {side} {unit}; give a larger {option}, "
                f"of more than {2 * margin}"
            )
    core = tuple(side - 2 * margin for side, margin in zip(sides, halo, strict=True))
    return Tiling(shape, _fitted(shape, core, stride), halo, stride)


def _fitted(shape: Ints, core: Ints, stride: Ints) -> Ints:
    """The core, cut to the image's own side (rounded up to the stride) on an axis that one tile covers."""
    return tuple(min(n, rounded_up(side, step)) for n, side, step in zip(core, shape, stride, strict=True))


def read_reflected(grid: ModelGrid, window: Window, stretch: Stretch | None = None) -> Pixels:
    """The pixels of a window that may reach over the border; what lies outside is mirrored.

    Args:
        grid: the image.
        window: over the axes without c.
        stretch: what is done to the intensities.

    Returns:
        (C, *window.shape), in the image's own dtype.
    """
    pixels = _read_mirrored(grid, window)
    return pixels if stretch is None else stretch.apply(pixels)


def _read_mirrored(grid: ModelGrid, window: Window) -> Pixels:
    places = [reflected(a, n, size) for a, n, size in zip(window.start, window.shape, grid.shape, strict=True)]
    low, high = tuple(int(at.min()) for at in places), tuple(int(at.max()) + 1 for at in places)
    inside = Window(low, tuple(b - a for a, b in zip(low, high, strict=True)))
    pixels = grid.read(inside)
    for axis, at in enumerate(places):
        if (inside.start[axis], inside.stop[axis]) != (window.start[axis], window.stop[axis]):
            pixels = pixels.take(at - low[axis], axis=axis + 1)
    return pixels


def read_validity(grid: ModelGrid, window: Window) -> Valid | None:
    """Which pixels of a window of the mask's grid are usable; None = all of them."""
    if not grid.image.has_valid and not grid.image.pixels_tell:
        return None
    valid = grid.image.read_valid(window, grid.level)
    return None if valid.all() else valid


def is_usable(valid: Valid | None, window: Window, origin: Ints) -> bool:
    """True if a window has a usable pixel.

    Args:
        valid: usable pixels of a region that starts at `origin`; None = all.
        window: what lies outside the region is left out.
        origin: over the same axes.
    """
    if valid is None:
        return True
    inside = window.relative_to(origin).intersected(Window.whole(valid.shape))
    return bool(valid[inside.slices].any())


def first(window: Window) -> Window:
    """The window's first pixel."""
    return Window(window.start, (1,) * window.ndim)


def bounding(windows: Sequence[Window]) -> Window:
    """The smallest window that holds all of at least one."""
    low = tuple(map(min, zip(*(window.start for window in windows), strict=True)))
    high = tuple(map(max, zip(*(window.stop for window in windows), strict=True)))
    return Window(low, tuple(b - a for a, b in zip(low, high, strict=True)))


def stacked(pixels: Pixels, origin: Ints, tiles: Sequence[Tile], batch: int) -> Pixels:
    """One batch of fixed size: the tiles' read windows out of a region, the last one repeated to fill it.

    A batch of fixed size keeps the kernels, and so the rounding, the same.

    Args:
        pixels: a region (C, ...).
        origin: of the region in the image.
        tiles: 1..batch tiles of one shape that lie in the region.
        batch: number of tiles in the result.

    Returns:
        (N, C, ...) with N = batch.
    """
    assert 1 <= len(tiles) <= batch, f"{len(tiles)} tiles do not fit a batch of {batch}"
    views = [pixels[(slice(None), *tile.read.relative_to(origin).slices)] for tile in tiles]
    return np.stack(views + [views[-1]] * (batch - len(tiles)))
