"""Cells: the parts of its array that a mask is worked on in, and its pixels as *codes*: classes, and two more.

0 .. K-1   classes, in the order of the table
K          ignore: nobody knows
K + 1      undecided: taken from its class, and not yet given to another
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from segcore.errors import StoreError
from segcore.geometry import Grid, Ints, Window, z_order
from segcore.store import UNIT_SHARDS, Label, Staging

CELL_SIDE_PX = 2048
CELL_PX = 1 << 22
"""Of a cell: a volume's has as many planes as that makes, one at least."""
MAX_THREADS = 4

Codes = npt.NDArray[np.integer[Any]]
"""uint8, or uint16 where there are many classes."""
Ids = npt.NDArray[np.integer[Any]]
ItemT = TypeVar("ItemT")
FoundT = TypeVar("FoundT")


class Coder:
    """Class ids of a mask <-> codes."""

    def __init__(self, mask: Label) -> None:
        self.num_classes = len(mask.classes)
        self.ignore, self.undecided = self.num_classes, self.num_classes + 1
        self._mask = mask
        self.dtype = np.dtype(np.uint8 if self.num_classes < 250 else np.uint16)
        unknown = self.num_classes + 2
        self._code_of = np.full(np.iinfo(mask.dtype).max + 1, unknown, self.dtype)
        self._code_of[mask.ignore] = self.ignore
        self._id_of = np.array([*(info.id for info in mask.classes), mask.ignore], mask.dtype)
        self._code_of[self._id_of[: self.num_classes]] = np.arange(self.num_classes)

    def read(self, window: Window) -> Codes:
        """The codes of a window of the mask.

        Raises:
            StoreError: if a pixel holds a value that is neither a class nor `ignore`.
        """
        ids = self._mask.read(window)
        codes = self._code_of[ids]
        if codes.max(initial=0) > self.undecided:
            value = int(ids[codes > self.undecided][0])
            raise StoreError(
                f"image {self._mask.image_id}: mask {self._mask.name} holds the value {value}, which its class table "
                "does not have; predict it again with --overwrite"
            )
        return codes

    def ids(self, codes: Codes) -> Ids:
        """Class ids, of the mask's dtype."""
        return self._id_of[codes]


class Cells:
    """The cells of a mask: `CELL_SIDE_PX` wide and high, or one shard; several planes of z, one of t.

    Args:
        mask: whose pixels are worked on.
        shard_px: the side of its shards.
    """

    def __init__(self, mask: Label, shard_px: int) -> None:
        self.coder, self.shape = Coder(mask), mask.shape()
        self.shards_per_side = 1 << max(0, (CELL_SIDE_PX // shard_px).bit_length() - 1)
        """A power of 2."""
        side_px = shard_px * self.shards_per_side
        plane_px = math.prod(min(side_px, n) for n in self.shape[-2:])
        self.depth = max(1, CELL_PX // plane_px) if "z" in mask.axes else 1
        sides = {"t": 1, "z": self.depth, "y": side_px, "x": side_px}
        self.grid = Grid(self.shape, tuple(sides[axis] for axis in mask.axes))
        self.axes = tuple(at for at, axis in enumerate(mask.axes) if axis != "t")
        """Those that pixels are connected along: in a sequence each plane stands for itself."""

    @property
    def faces(self) -> list[tuple[int, int]]:
        """Of a cell: axis, and 0 for its first layer, -1 for its last one."""
        return [(axis, side) for axis in self.axes for side in (0, -1)]

    def window(self, cell: Ints) -> Window:
        """The pixels of a cell."""
        return self.grid.window(cell)

    def around(self, window: Window, margin: Ints) -> Window:
        """A window with what lies around it, as far as there is an array."""
        return window.expanded(margin).intersected(Window.whole(self.shape))

    def places(self, cell: Ints) -> npt.NDArray[np.int64]:
        """(num_px,): raster index in the whole array of every pixel of a cell, in raster order."""
        window = self.window(cell)
        places = np.zeros(1, np.int64)
        for start, length, n in zip(window.start, window.shape, self.shape, strict=True):
            places = (places[:, None] * n + np.arange(start, start + length)).reshape(-1)
        return places

    def left(self, staging: Staging, window: Window) -> list[Ints]:
        """The cells of a window in which shards are left, in Z-order."""
        cells = z_order(list(self.grid.touching(window)))
        return [cell for cell in cells if staging.pending(self.window(cell))]

    def windows(self, staging: Staging) -> list[Window]:
        """What one writer writes: whole work units, and whole cells."""
        return staging.windows(max(UNIT_SHARDS, self.shards_per_side), self.depth)


def ahead(threads: ThreadPoolExecutor, function: Callable[[ItemT], FoundT], items: Iterable[ItemT]) -> Iterator[FoundT]:
    """What a function makes of each, in order; a few are made ahead, and no more are in memory."""
    waiting: deque[Future[FoundT]] = deque()
    for item in items:
        waiting.append(threads.submit(function, item))
        if len(waiting) > MAX_THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
