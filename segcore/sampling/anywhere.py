"""Anywhere: tiles at random places, again and again, with rare classes as often as common ones.

          | chunk | chunk | chunk | chunk |
    region  ===============================     whole chunks, so that each is decoded once
    cells   -----------------------             where its tiles begin: they all end inside the region

A tile of an image that is not kept in memory brings others of its class with it. The region lies around the first one
with every offset of whole chunks as likely as the other, and the others are drawn evenly among the tiles that begin in
its cells: so each tile of the image is as likely as if all were drawn alone.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segcore.geometry import Window
from segcore.sampling.index import ClassIndex, Int32s, Int64s
from segcore.sampling.labelled import LabelledImage
from segcore.sampling.sampler import ROUND_TILES, Region, Round, Sampler
from segcore.store.pyramid import CHUNK_PX

Floats = npt.NDArray[np.float64]

CELLS = 3
"""A region is so many chunks, in which its tiles begin, wide and high, and what the last of these tiles reach over."""
TIMES_READ = 4
"""So many tiles as cover a region this often are cut from it..."""
MAX_TILES = 64
"""...but not more: the tiles of a round are to differ."""
SPARE = 4
"""Places that are tried for each tile of a region; about half of them are in its cells."""


class RandomSampler(Sampler):
    """Draws tiles anywhere.

    Args:
        images: to draw from.
        index: of these images.
        tile_px: side of a tile.
        class_share: of the tiles, share that is placed at a pixel of a class drawn evenly, in an image drawn evenly
            among those that have it; the rest lies at any usable pixel, each as likely as the other.
        seed: of the whole run.
        weights: of the images; of each other one's chance, this many times. None = all alike.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        index: ClassIndex,
        tile_px: int,
        class_share: float,
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(images, tile_px, seed)
        self._index = index
        self.shares = _shares(index, class_share, np.ones(len(images)) if weights is None else np.asarray(weights))
        """(images, classes): share of the tiles that is placed at a pixel of this class in this image."""
        self._summed, self._far_summed = (
            np.cumsum(shares) for shares in (self.shares, self.shares * self._is_far[:, None])
        )
        spanned = -(-(tile_px - 1) // CHUNK_PX) + 1  # chunks that a tile touches at most, and mostly
        self._region_px = (CELLS + spanned - 1) * CHUNK_PX
        self._regions = self._num_regions(self._region_px)
        per_region = max(1, min(MAX_TILES, TIMES_READ * self._region_px**2 // tile_px**2))
        self._tiles = self._regions * per_region if self._far_summed[-1] else ROUND_TILES

    def find(self, tile: int) -> tuple[int, int]:
        """In which round a tile lies, and as which."""
        return divmod(tile, self._tiles)

    def _round(self, number: int) -> Round:
        rng = np.random.default_rng((self.seed, number))
        pairs = _drawn(rng, self._summed, self._tiles)
        owner, start = np.empty(self._tiles, np.int64), np.empty((self._tiles, 2), np.int64)
        regions: dict[Region, int] = {}
        is_far = self._is_far[pairs // self._index.num_classes]
        for pair in np.unique(pairs[~is_far]):
            (one, one_class), members = divmod(int(pair), self._index.num_classes), np.flatnonzero(pairs == pair)
            places = self._index.found[one][one_class].places
            picked = places[rng.integers(len(places), size=len(members))]
            start[members] = self._jittered(rng, picked, one)
            owner[members] = [
                regions.setdefault(self._whole(one, plane), len(regions)) for plane in picked[:, 0].tolist()
            ]
        far = rng.permutation(np.flatnonzero(is_far))
        listed = list(regions)
        for first in range(min(self._regions, len(far))):
            members = far[first :: self._regions]
            region, start[members] = self._region(rng, len(members))
            owner[members] = len(listed)
            listed.append(region)
        return Round(listed, owner, start)

    def _region(self, rng: np.random.Generator, num_tiles: int) -> tuple[Region, Int64s]:
        """A region of an image that is not kept, and the starts of its tiles."""
        image, class_id = divmod(int(_drawn(rng, self._far_summed, 1)[0]), self._index.num_classes)
        found = self._index.found[image][class_id]
        place = found.places[rng.integers(len(found.places))]
        start = self._jittered(rng, place[None], image)
        cell = start[0] // CHUNK_PX - rng.integers(CELLS, size=2)
        low, high = self._centres(cell, image)
        near = found.near(int(place[0]), low, high)
        others = found.places[near[rng.integers(len(near), size=SPARE * num_tiles)]]
        starts = self._jittered(rng, others, image)
        in_cells = ((starts // CHUNK_PX >= cell) & (starts // CHUNK_PX < cell + CELLS)).all(axis=1)
        starts = np.concatenate([start, starts[in_cells]])[:num_tiles]
        block = Window(tuple((cell * CHUNK_PX).tolist()), (self._region_px, self._region_px))
        window = block.intersected(Window.whole(self.images[image].shape_yx))
        return Region(image, int(place[0]), window), np.resize(starts, (num_tiles, 2))

    def _jittered(self, rng: np.random.Generator, places: Int32s, image: int) -> Int64s:
        """Starts (n, 2) of tiles whose centres lie near places (n, 3)."""
        jitter = rng.integers(-self._reach, self._reach + 1, size=(len(places), 2))
        return self._bounded(places[:, 1:] + jitter - self.tile_px // 2, image)

    def _centres(self, cell: Int64s, image: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The box (y, x) of all places whose tiles can begin in the cells from `cell` on."""
        sides = self._sides[image]
        first, last = cell * CHUNK_PX, (cell + CELLS) * CHUNK_PX - 1
        low = np.maximum(0, first + self.tile_px // 2 - self._reach)
        high = np.minimum(sides, last + self.tile_px // 2 + self._reach + 1)
        # Tiles near the border are moved inside: places beyond these cells can have tiles that begin in them.
        low[first <= self._bounded(np.full(2, -self.tile_px), image)] = 0
        is_last = last >= self._bounded(sides, image)
        high[is_last] = sides[is_last]
        return tuple(low.tolist()), tuple(high.tolist())


def _shares(index: ClassIndex, class_share: float, weights: Floats) -> Floats:
    """(images, classes): share of the tiles that each class of each image gets; they sum to 1."""
    holders = (index.pixels > 0) * weights[:, None]
    totals = holders.sum(axis=0)
    by_class = holders / np.where(totals > 0, totals, 1) / np.count_nonzero(totals)
    by_pixel = index.pixels * weights[:, None]
    return np.asarray(class_share * by_class + (1 - class_share) * by_pixel / by_pixel.sum())


def _drawn(rng: np.random.Generator, summed: Floats, count: int) -> Int64s:
    """Indices, drawn by their shares, of which `summed` are the running sums."""
    return np.asarray(np.searchsorted(summed, rng.random(count) * summed[-1], side="right"), np.int64)
