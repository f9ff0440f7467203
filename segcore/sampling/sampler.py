"""Sampler: which tiles to train on, and which parts of images are read for them, in rounds.

    round  |  regions: whole chunks, each read once  |  tiles: each is cut from a region; in a seeded order

Which tile is the i-th of a run, and in which round, is a pure function of (seed, i): a resumed run sees the tiles of an
undisturbed one, whatever was prefetched. Images that are kept in memory are regions as they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from segcore.geometry import Window
from segcore.sampling.index import Int64s
from segcore.sampling.labelled import LabelledImage, Pixels, Truth

ROUND_BYTES = 128 << 20
"""Of the regions of a round, pixels and targets decoded; two rounds are in memory at a time."""
MIN_REGIONS, MAX_REGIONS = 4, 32
"""Of a round, also where fewer would take less memory: tiles that follow each other are to differ."""
ROUND_TILES = 256
"""Of a round where all images are kept."""


class Draw(NamedTuple):
    """Which tile: all that decides its pixels."""

    image: int
    plane: int
    window: Window
    """Over (y, x), may reach over the border."""


class Region(NamedTuple):
    """What is read at one go."""

    image: int
    plane: int
    window: Window
    """Over (y, x), inside the image."""


class Round(NamedTuple):
    """Tiles that follow each other, and what they are cut from."""

    regions: list[Region]
    owner: Int64s
    """(n,): of each tile, its region."""
    start: Int64s
    """(n, 2): of each tile, y and x in its image; a tile may reach over the image's border."""


class Sampler(ABC):
    """Draws tiles, round by round.

    Args:
        images: to draw from; whether they are kept in memory is settled.
        tile_px: side of a tile.
        seed: of the whole run.
    """

    def __init__(self, images: Sequence[LabelledImage], tile_px: int, seed: int) -> None:
        self.images, self.tile_px, self.seed = images, tile_px, seed
        self._reach = tile_px // 4  # of the jitter
        self._is_far = np.array([not image.is_kept for image in images])
        self._sides = np.array([image.shape_yx for image in images])
        self.round = lru_cache(maxsize=2)(self._round)
        """A round by its number."""

    @abstractmethod
    def _round(self, number: int) -> Round:
        """The same in every run with the same seed."""

    @abstractmethod
    def find(self, tile: int) -> tuple[int, int]:
        """In which round a tile of the run lies, and as which of the round."""

    def draws(self, first: int, count: int) -> list[Draw]:
        """Some tiles of the run, in their order."""
        found = []
        for tile in range(first, first + count):
            number, at = self.find(tile)
            made = self.round(number)
            region, start = made.regions[int(made.owner[at])], tuple(made.start[at].tolist())
            found.append(Draw(region.image, region.plane, Window(start, (self.tile_px, self.tile_px))))
        return found

    def tiles(self, step: int, batch: int) -> tuple[Pixels, Truth]:
        """One batch, tile by tile: pixels (N, C, [P,] Y, X) in the images' own dtype, class numbers (N, [P,] Y, X)."""
        draws = self.draws(step * batch, batch)
        read = [self.images[draw.image].read_reflected(draw.plane, draw.window) for draw in draws]
        return np.stack([pixels for pixels, _ in read]), np.stack([target for _, target in read])

    def _num_regions(self, region_px: int) -> int:
        """Regions of a round, by the memory that one takes."""
        images = [image for image, is_far in zip(self.images, self._is_far, strict=True) if is_far]
        bytes_per_px = max((image.tile_planes * image.bytes_per_px for image in images), default=1)
        return min(MAX_REGIONS, max(MIN_REGIONS, ROUND_BYTES // (region_px**2 * bytes_per_px)))

    def _bounded(self, start: Int64s, images: Int64s | int) -> Int64s:
        """Starts of tiles: mostly inside the image, and a little over its border, as in prediction with a halo."""
        over, free = self.tile_px // 8, self._sides[images] - self.tile_px
        return np.where(free < -2 * over, free // 2, np.clip(start, -over, np.maximum(free + over, -over)))

    def _whole(self, image: int, plane: int) -> Region:
        return Region(image, plane, Window.whole(self.images[image].shape_yx))
