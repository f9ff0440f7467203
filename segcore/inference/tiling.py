"""Tiling: which tiles an image is cut into, and the pixels that each of them sees; store -> *tiles* -> model.

crop       write windows side by side, each tile reads its halo around them
gaussian   the same grid, but the whole read window of every tile counts, weighted
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segcore.errors import ConfigError
from segcore.geometry import Ints, Tile, Window, reflected, tiles_in
from segcore.store import Image
from segcore.stretch import Stretch

Pixels = npt.NDArray[np.generic]
Valid = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tile grid of one image, anchored at its origin; y and x only."""

    shape: Ints
    """Of the image, (y, x)."""
    core: Ints
    """Sides of a write window, (y, x); multiples of the model's stride."""
    halo: int
    """Context in px on every side; a multiple of the model's stride."""

    @property
    def read(self) -> Ints:
        """Sides of a read window: what the model is given, always the same."""
        return (self.core[0] + 2 * self.halo, self.core[1] + 2 * self.halo)

    def tiles(self, window: Window) -> Iterator[Tile]:
        """Tiles whose write windows share a pixel with `window`, in raster order."""
        return tiles_in(window, self.shape, self.core, (self.halo, self.halo))


def rounded_up(px: int, stride: int) -> int:
    """The smallest multiple of `stride` that is at least `px`."""
    return -(-px // stride) * stride


def crop_tiling(shape: Ints, tile_px: int, halo_px: int, stride: int, shard_px: int) -> Tiling:
    """The grid for `blend: crop`.

    The write window's side is the one nearest to `tile_px` that divides the shard's side and is a multiple of
    the stride, so that every tile lies in one shard. An image of less than that takes one tile of its own size.

    Args:
        shape: of the image, (y, x).
        tile_px: wanted side of a write window.
        halo_px: wanted context, rounded up to the stride.
        stride: of the model.
        shard_px: side of the mask's shards.

    Raises:
        ConfigError: if no side divides the shard's side and is a multiple of the stride.
    """
    sides = [side for side in range(stride, shard_px + 1, stride) if shard_px % side == 0]
    if not sides:
        raise ConfigError(
            f"shard_px {shard_px}: expected a multiple of the model's stride {stride}; "
            f"the nearest is {rounded_up(shard_px, stride)}"
        )
    core_px = min(sides, key=lambda side: (abs(side - tile_px), -side))
    return Tiling(shape, _fitted(shape, core_px, stride), rounded_up(halo_px, stride))


def gaussian_tiling(shape: Ints, tile_px: int, halo_px: int | None, stride: int) -> Tiling:
    """The grid for `blend: gaussian`: neighbours overlap by twice the halo.

    Args:
        shape: of the image, (y, x).
        tile_px: wanted side of a whole tile.
        halo_px: wanted halo; None = an eighth of the tile, so that a quarter of it overlaps.
        stride: of the model.

    Raises:
        ConfigError: if the halo leaves nothing of the tile.
    """
    side = rounded_up(tile_px, stride)
    halo = rounded_up(side // 8 if halo_px is None else halo_px, stride)
    if 2 * halo >= side:
        raise ConfigError(f"halo_px {halo}: expected less than half of the tile of {side} px; give a larger tile_px")
    return Tiling(shape, _fitted(shape, side - 2 * halo, stride), halo)


def _fitted(shape: Ints, core_px: int, stride: int) -> Ints:
    """The core, cut to the image's own side (rounded up to the stride) on an axis that one tile covers."""
    y, x = (min(core_px, rounded_up(side, stride)) for side in shape)
    return (y, x)


def read_reflected(image: Image, window: Window, stretch: Stretch | None = None, level: int = 0) -> Pixels:
    """The pixels of a window that may reach over the border; what lies outside is mirrored.

    Args:
        image: (C, Y, X).
        window: over (y, x), in pixels of `level`.
        stretch: what is done to the intensities.
        level: pyramid level.

    Returns:
        (C, *window.shape), in the image's own dtype.
    """
    pixels = _read_mirrored(image, window, level)
    return pixels if stretch is None else stretch.apply(pixels)


def _read_mirrored(image: Image, window: Window, level: int) -> Pixels:
    num_channels, *shape = image.shape(level)
    if Window.whole(shape).contains(window):
        return image.read(Window((0, *window.start), (num_channels, *window.shape)), level)
    rows, columns = (reflected(a, n, size) for a, n, size in zip(window.start, window.shape, shape, strict=True))
    low = (int(rows.min()), int(columns.min()))
    high = (int(rows.max()), int(columns.max()))
    inside = Window((0, *low), (num_channels, high[0] - low[0] + 1, high[1] - low[1] + 1))
    pixels = image.read(inside, level).take(rows - low[0], axis=1)
    return pixels.take(columns - low[1], axis=2)


def read_validity(image: Image, window: Window, level: int = 0) -> Valid | None:
    """Which pixels of a window inside the image are usable, (Y, X), True = usable; None = all of them."""
    if not image.has_valid and not image.pixels_tell:
        return None
    valid = image.read_valid(window, level)
    return None if valid.all() else valid


def bounding(windows: Sequence[Window]) -> Window:
    """The smallest window that holds all of at least one."""
    low = tuple(map(min, zip(*(window.start for window in windows), strict=True)))
    high = tuple(map(max, zip(*(window.stop for window in windows), strict=True)))
    return Window(low, tuple(b - a for a, b in zip(low, high, strict=True)))


def stacked(pixels: Pixels, origin: Ints, tiles: Sequence[Tile], batch: int) -> Pixels:
    """One batch of fixed size: the tiles' read windows out of a region, the last one repeated to fill it.

    A batch of fixed size keeps the kernels, and so the rounding, the same.

    Args:
        pixels: a region (C, Y, X).
        origin: of the region in the image, (y, x).
        tiles: 1..batch tiles that lie in the region.
        batch: number of tiles in the result.

    Returns:
        (N, C, Y, X) with N = batch.
    """
    assert 1 <= len(tiles) <= batch, f"{len(tiles)} tiles do not fit a batch of {batch}"
    views = [pixels[(slice(None), *tile.read.relative_to(origin).slices)] for tile in tiles]
    return np.stack(views + [views[-1]] * (batch - len(tiles)))
