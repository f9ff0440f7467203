"""Adapt: which pixels of an image say what it is like, for models that are normalised by it; store -> *sample*.

The sample is the same however the work is cut: its windows lie on a grid of their own, and what of the image is looked
at tonight (AOI, screen) does not move them. They are drawn among those that have tissue, where the image is marked.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from segcore.geometry import Grid, Ints, Window, rounded_up
from segcore.inference.coarse import CoarseMap, map_of_label, map_of_usable
from segcore.inference.model_grid import ModelGrid, Pixels
from segcore.inference.search import Reason, Search, own_foreground
from segcore.inference.tiling import is_usable, read_reflected, read_validity
from segcore.models.info import InputContract
from segcore.store import Label
from segcore.stretch import Stretch

SIDE_PX = 256
MAX_SAMPLE_PX = 1 << 20
"""Of all windows together. A whole image of 1024 px: where half of one is blank, half of its windows say too little."""
MAX_READ = 1024
"""Windows whose pixels, or `valid`, are read to know whether they are usable."""
MAX_DRAWN = 1 << 20
SEED = 0
SAMPLE_VERSION = 2
"""Goes up with every change that can move a window; in the plan of what it decides."""


def sample_windows(grid: ModelGrid, foreground: Label | None, strides: Ints, planes: int) -> list[Window]:
    """A few windows of an image, spread over it; they may reach over its border.

    Args:
        grid: the image.
        foreground: its mark of where there is something to see; None = everywhere.
        strides: of the model, over the axes of a tile.
        planes: of z or t in a window, of a model that sees several.
    """
    sides = _sides(grid.shape, strides, planes)
    count = max(1, MAX_SAMPLE_PX // int(np.prod(sides)))
    return _drawn(grid, sides, _search(grid, foreground), count)


def sample_of(
    grid: ModelGrid, foreground: Label | None, strides: Ints, planes: int, stretch: Stretch | None = None
) -> Pixels:
    """The pixels of these windows (K, C, ...), in the image's own dtype; stretched where it is to be."""
    return np.stack([read_reflected(grid, each, stretch) for each in sample_windows(grid, foreground, strides, planes)])


def windows_for(contract: InputContract, grid: ModelGrid) -> list[Window]:
    """Those of an image for a model; the same whatever of the image is asked for tonight."""
    return sample_windows(grid, own_foreground(grid.image), contract.strides, contract.tile_planes)


def sample_for(contract: InputContract, grid: ModelGrid, stretch: Stretch | None) -> Pixels:
    """The sample of an image for a model; likewise."""
    return np.stack([read_reflected(grid, window, stretch) for window in windows_for(contract, grid)])


def sample_px(shape: Ints, strides: Ints, planes: int) -> int:
    """Pixels of the sample of an image of this shape (without c), at most."""
    sides = _sides(shape, strides, planes)
    return min(MAX_SAMPLE_PX, Grid(shape, sides).num_cells * int(np.prod(sides)))


def _sides(shape: Ints, strides: Ints, planes: int) -> Ints:
    """Of a window: about SIDE_PX, so that whole numbers of them fit the image well."""
    y, x = (rounded_up(-(-n // -(-n // SIDE_PX)), step) for n, step in zip(shape[-2:], strides[-2:], strict=True))
    leading = [1] * (len(shape) - 2)
    if len(strides) > 2:
        leading[-1] = rounded_up(min(planes, shape[-3]), strides[0])
    return (*leading, y, x)


def _search(grid: ModelGrid, foreground: Label | None) -> Search:
    """Where there is something to see, whatever is asked for tonight."""
    usable = map_of_usable(grid.image)
    maps: list[tuple[Reason, CoarseMap]] = [] if usable is None else [("nodata", usable)]
    if foreground is not None:
        label = foreground
        marked = map_of_label(label, grid.image, lambda ids: (ids != 0) & (ids != label.ignore))
        maps.append(("foreground", marked))
    return Search(grid, tuple(maps))


def _drawn(grid: ModelGrid, sides: Ints, search: Search, count: int) -> list[Window]:
    """So many windows with usable pixels, or as many as there are; if none is found, those that may have some."""
    cells = Grid(grid.shape, sides)
    order = np.random.default_rng(SEED).choice(cells.num_cells, min(cells.num_cells, MAX_DRAWN), replace=False)
    marked = (cells.window(index) for index in _indices(order, cells.counts))
    promising = list(islice((window for window in marked if search.why_not(window) is None), MAX_READ))
    usable = (window for window in promising if _is_usable(grid, window))
    found = list(islice(usable, count)) or promising[:count] or [cells.window((0,) * len(sides))]
    return [Window(window.start, sides) for window in found]


def _is_usable(grid: ModelGrid, window: Window) -> bool:
    write = grid.mask_window(window)
    return is_usable(read_validity(grid, write), write, write.start)


def _indices(order: npt.NDArray[np.int64], counts: Ints) -> Iterator[Ints]:
    for number in order.tolist():
        yield tuple(int(i) for i in np.unravel_index(number, counts))
