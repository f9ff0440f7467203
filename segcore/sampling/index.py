"""Index: where each class is, so that rare ones are seen as often as common ones; made once, from coarse targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from segcore.sampling.codes import IGNORED
from segcore.sampling.labelled import LabelledImage
from segcore.store.pyramid import CHUNK_PX

MAX_INDEX_PX = 16 << 20
"""The class index is made from the finest level that has at most so many pixels in a plane."""
MAX_POSITIONS = 1 << 21
"""Pixels that the index keeps of each class, over all images."""

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Places:
    """Some pixels of one class in one image."""

    num_px: int
    """Pixels of the class there, of which `places` is a sample."""
    places: Int32s
    """(n, 3): plane, y, x, in pixels as they are read."""

    @cached_property
    def _by_block(self) -> tuple[Int64s, Int64s, Int64s]:
        """Places in the order of their blocks of one chunk; the blocks that hold any; where each of these begins."""
        blocks = self._block(*self.places.T)
        order = np.argsort(blocks, kind="stable")
        found, first = np.unique(blocks[order], return_index=True)
        return order, found, np.append(first, len(order))

    @staticmethod
    def _block(plane: npt.ArrayLike, y: npt.ArrayLike, x: npt.ArrayLike) -> Int64s:
        """A number for a block, growing along x first."""
        rows = np.asarray(plane, np.int64) << 24 | np.asarray(y, np.int64) // CHUNK_PX
        return np.asarray(rows << 24 | np.asarray(x, np.int64) // CHUNK_PX)

    def near(self, plane: int, low: tuple[int, int], high: tuple[int, int]) -> Int64s:
        """Numbers of the places in all blocks that touch the box from `low` up to `high` (y, x)."""
        order, found, first = self._by_block
        rows = np.arange(low[0] // CHUNK_PX, -(-high[0] // CHUNK_PX)) * CHUNK_PX
        begin = first[np.searchsorted(found, self._block(plane, rows, low[1]))]
        end = first[np.searchsorted(found, self._block(plane, rows, high[1] - 1), side="right")]
        return np.concatenate([order[a:b] for a, b in zip(begin, end, strict=True)])


class ClassIndex:
    """Where each class is: `found[image][class]`, made once from targets at a coarse level."""

    def __init__(self, images: Sequence[LabelledImage], num_classes: int, seed: int = 0) -> None:
        self.num_classes = num_classes
        share = max(64, MAX_POSITIONS // max(1, sum(image.num_planes for image in images)))
        self.found = [self._of_image(image, share, seed) for image in images]
        self.pixels = np.array([[places.num_px for places in row] for row in self.found], dtype=np.float64)
        """(images, classes): usable pixels of each class, scaled up to those that are read."""

    def _of_image(self, image: LabelledImage, share: int, seed: int) -> list[Places]:
        level = coarse_level(image)
        factor = 2 ** (level - image.level)
        area = factor**2 / (image.step[0] * image.step[1])
        rng = np.random.default_rng((seed, len(image.image_id)))
        rows: list[list[Int32s]] = [[] for _ in range(self.num_classes)]
        counts: list[list[int]] = [[] for _ in range(self.num_classes)]
        for plane in range(image.num_planes):
            classes = image.read_classes(plane, level)
            for number in range(self.num_classes):
                where = np.flatnonzero(classes == number)
                counts[number].append(len(where))
                if len(where) > share:
                    where = np.sort(rng.choice(where, share, replace=False))
                sides = zip(np.unravel_index(where, classes.shape), image.step, image.shape_yx, strict=True)
                y, x = (np.minimum((at + 0.5) * factor / step, n - 1).astype(np.int32) for at, step, n in sides)
                rows[number].append(np.stack([np.full_like(y, plane), y, x], axis=1))
        return [
            Places(round(sum(found) * area), np.concatenate(_thinned(parts, found, rng)))
            for found, parts in zip(counts, rows, strict=True)
        ]

    @property
    def occurring(self) -> list[int]:
        """Classes that have a pixel anywhere."""
        return [number for number in range(self.num_classes) if self.pixels[:, number].any()]


def _thinned(kept: Sequence[Int32s], counts: Sequence[int], rng: np.random.Generator) -> list[Int32s]:
    """Of each plane as many places for each of its pixels as of the plane that keeps the least of them.

    Else a place on a plane with many would be drawn as rarely as the plane was cut.

    Args:
        kept: places of each plane, some of its pixels.
        counts: all pixels of each plane.
        rng: chooses.
    """
    rate = min((len(places) / count for places, count in zip(kept, counts, strict=True) if count), default=1.0)
    if rate == 1.0:
        return list(kept)
    # A plane with few pixels keeps one of them by chance: as likely as its pixels are many.
    wanted = [int(rate * count + rng.random()) for count in counts]
    return [places[np.sort(rng.permutation(len(places))[:n])] for places, n in zip(kept, wanted, strict=True)]


def coarse_level(image: LabelledImage) -> int:
    """The level at which all of the target is looked at."""
    level = image.level
    while level + 1 < image.target.num_levels and np.prod(image.target.shape(level)[-2:]) > MAX_INDEX_PX:
        level += 1
    return level


def usable_cells(image: LabelledImage, cell_px: int) -> Int64s:
    """The cells of a grid of this size, anchored at the origin, with any usable pixel: (n, 3), plane, row, column."""
    level = coarse_level(image)
    shape = image.target.shape(level)[-2:]
    rows, columns = (
        np.minimum(np.arange(-(-n // cell_px)) * cell_px * step / 2 ** (level - image.level), coarse - 1).astype(int)
        for n, step, coarse in zip(image.shape_yx, image.step, shape, strict=True)
    )
    found = []
    for plane in range(image.num_planes):
        usable = image.read_classes(plane, level) != IGNORED
        cells = np.logical_or.reduceat(np.logical_or.reduceat(usable, rows, axis=0), columns, axis=1)
        found.append(np.insert(np.argwhere(cells), 0, plane, axis=1))
    return np.concatenate(found)
