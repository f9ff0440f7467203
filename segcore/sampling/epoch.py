"""Epoch: every place of a grid once before any comes again; each epoch another order, and the grid a bit elsewhere.

An image's weight below 1 leaves out that share of its places, drawn anew for each epoch; one above 1 repeats them:
2.25 takes each twice and a quarter of them a third time.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.sampling.index import Int64s, usable_cells
from segcore.sampling.labelled import LabelledImage
from segcore.sampling.sampler import ROUND_TILES, Region, Round, Sampler

REGION_PX = 1024
"""Places of so wide and high a part of an image that is not kept come in one round, so that it is read once."""


class _Epoch(NamedTuple):
    """The tiles of an epoch, in their order."""

    cell: Int64s
    start: Int64s
    """(n, 2): y and x."""
    begin: Int64s
    """(rounds + 1,): the first tile of each round."""


class EpochSampler(Sampler):
    """Takes each cell of tile size that has a usable pixel once in an epoch.

    Args:
        images: to take from.
        tile_px: side of a tile, and of a cell.
        seed: of the whole run.
        weights: of the images; None = each cell once.

    Raises:
        ConfigError: if nothing is left to take.
    """

    def __init__(
        self, images: Sequence[LabelledImage], tile_px: int, seed: int, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(images, tile_px, seed)
        cells = [usable_cells(image, tile_px) for image in images]
        self._begin = np.cumsum([0, *(len(found) for found in cells)])
        self._image = np.repeat(np.arange(len(images)), np.diff(self._begin))
        self._cells = np.concatenate(cells)
        self._group = self._groups()
        self._num_groups = int(self._group.max(initial=-1)) + 1
        weights = [1.0] * len(images) if weights is None else weights
        self._taken = [
            (int(weight), round(weight % 1 * len(found))) for weight, found in zip(weights, cells, strict=True)
        ]
        self.num_tiles = sum(whole * len(found) + part for (whole, part), found in zip(self._taken, cells, strict=True))
        """Of an epoch."""
        if not self.num_tiles:
            raise ConfigError(f"sampling: epoch: the weights leave no tile of {len(images)} images; give higher ones")
        per_round = self._num_regions(REGION_PX) if self._is_far.any() else ROUND_TILES
        self._per_round = per_round
        self._num_rounds = -(-self._num_groups // per_round)
        self._epoch = lru_cache(maxsize=2)(self._planned)

    def _groups(self) -> Int64s:
        """Cells that are read together have one number: those of a part of an image, or single ones if it is kept."""
        side = max(1, REGION_PX // self.tile_px)
        part = self._cells // np.where(self._is_far[self._image], side, 1)[:, None] ** [0, 1, 1]
        _, group = np.unique(np.column_stack([self._image, part]), axis=0, return_inverse=True)
        return np.asarray(group.ravel(), np.int64)

    def find(self, tile: int) -> tuple[int, int]:
        """In which round a tile lies, and as which."""
        epoch, at = divmod(tile, self.num_tiles)
        begin = self._epoch(epoch).begin
        number = int(np.searchsorted(begin, at, side="right")) - 1
        return epoch * self._num_rounds + number, at - int(begin[number])

    def _planned(self, epoch: int) -> _Epoch:
        rng = np.random.default_rng((self.seed, epoch))
        cell = np.concatenate([self._chosen(rng, image) for image in range(len(self.images))])
        jitter = rng.integers(-self._reach, self._reach + 1, size=(len(self.images), 2))
        rank = rng.permutation(self._num_groups)
        number = rank[self._group[cell]] // self._per_round
        order = np.lexsort((rng.random(len(cell)), number))
        cell, number = cell[order], number[order]
        start = self._bounded(self._cells[cell, 1:] * self.tile_px + jitter[self._image[cell]], self._image[cell])
        return _Epoch(cell, start, np.searchsorted(number, np.arange(self._num_rounds + 1)))

    def _chosen(self, rng: np.random.Generator, image: int) -> Int64s:
        """The cells of an image that an epoch takes, by its weight."""
        whole, part = self._taken[image]
        cells = np.arange(*self._begin[image : image + 2])
        return np.concatenate([np.tile(cells, whole), rng.choice(cells, part, replace=False)])

    def _round(self, number: int) -> Round:
        epoch, at = divmod(number, self._num_rounds)
        plan = self._epoch(epoch)
        tiles = slice(plan.begin[at], plan.begin[at + 1])
        cell, start = plan.cell[tiles], plan.start[tiles]
        groups, owner = np.unique(self._group[cell], return_inverse=True)
        regions = [self._region(cell[owner == each][0], start[owner == each]) for each in range(len(groups))]
        return Round(regions, owner, start)

    def _region(self, cell: int, start: Int64s) -> Region:
        """What holds all these tiles of one group."""
        image, plane = int(self._image[cell]), int(self._cells[cell, 0])
        whole = self._whole(image, plane)
        if not self._is_far[image]:
            return whole
        low, high = start.min(axis=0), start.max(axis=0) + self.tile_px
        box = Window(tuple(low.tolist()), tuple((high - low).tolist()))
        return whole._replace(window=box.intersected(whole.window))
