"""Places: where a class is looked at; mask, tile grid -> *a few tiles for each class*."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segcore.geometry import Grid, Ints, Tile, Window
from segcore.inference.model_grid import ModelGrid
from segcore.inference.tiling import Tiling
from segcore.store import Label

MAX_SCAN_PX = 1 << 24
"""A plane of the mask is looked at on the finest level that has no more; for what is not there, one level finer."""
LEAST_SHARE = 0.1
"""A tile has at least this much of what the fullest one has of the class."""


def chosen_tiles(
    mask: Label, grid: ModelGrid, tiling: Tiling, class_ids: Sequence[int], num_tiles: int
) -> dict[int, list[Tile]]:
    """By class, up to so many tiles, spread evenly over those that have enough of it in the mask.

    Args:
        mask: of the image.
        grid: the image as the model sees it.
        tiling: tiles on that grid.
        class_ids: the classes.
        num_tiles: for each class.
    """
    cells, level = Grid(tiling.shape, tiling.core), _scanned(mask)
    counts = class_px(mask, grid, tiling, max(class_ids) + 1, level)
    missing = [k for k in class_ids if not counts[:, k].any()]
    if missing and level > 0:  # small objects are outvoted where levels are coarse
        counts[:, missing] = class_px(mask, grid, tiling, max(class_ids) + 1, level - 1)[:, missing]
    found = {}
    for k in class_ids:
        having = np.flatnonzero(counts[:, k] >= max(1, LEAST_SHARE * counts[:, k].max(initial=0)))
        spread = np.unique(np.linspace(0, len(having) - 1, min(num_tiles, len(having))).round().astype(int))
        starts = [cells.window(_index(int(having[i]), cells)).start for i in spread]
        found[k] = [next(tiling.tiles(Window(start, (1,) * len(start)))) for start in starts]
    return found


def finest_scanned(mask: Label) -> int:
    """The level on which `chosen_tiles` has looked for a class before it gives up."""
    return max(0, _scanned(mask) - 1)


def _scanned(mask: Label) -> int:
    sizes = [math.prod(mask.shape(level)[-2:]) for level in range(mask.num_levels)]
    return next((n for n, size in enumerate(sizes) if size <= MAX_SCAN_PX), len(sizes) - 1)


def class_px(mask: Label, grid: ModelGrid, tiling: Tiling, num_classes: int, level: int) -> npt.NDArray[np.int64]:
    """Pixels (tiles, classes) of a level of the mask in each tile, in raster order."""
    cells = Grid(tiling.shape, tiling.core)
    counts = np.zeros((cells.num_cells, num_classes), np.int64)
    sides = mask.shape(level)[-2:]
    for plane in np.ndindex(mask.shape(level)[:-2]):
        ids = mask.read(Window((*plane, 0, 0), (*(1,) * len(plane), *sides)), level).reshape(sides)
        for tile in tiling.tiles(Window((*plane, 0, 0), (*(1,) * len(plane), *tiling.shape[-2:]))):
            window = grid.mask_window(tile.write)
            rows, columns = (
                slice(a >> level, (max(a + 1, b) - 1 >> level) + 1)
                for a, b in zip(window.start[-2:], window.stop[-2:], strict=True)
            )
            part = ids[rows, columns]
            number = np.ravel_multi_index(tile.index, cells.counts)
            counts[number] += np.bincount(part[part < num_classes], minlength=num_classes)
    return counts


def _index(number: int, cells: Grid) -> Ints:
    return tuple(int(i) for i in np.unravel_index(number, cells.counts))
