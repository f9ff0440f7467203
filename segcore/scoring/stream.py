"""Stream: one image with its labels -> *counts, worst tiles, boundaries and objects*, a window at a time.

Memory does not grow with the image: a window is a few million pixels with its halo, and the next one is read meanwhile.
"""

import heapq
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.geometry import Grid, Ints, Window
from segcore.scoring.boundary import Boundaries, Ruler
from segcore.scoring.counts import Counter, Counts
from segcore.scoring.document import WORST_TILES
from segcore.scoring.instances import InstanceCounts, Objects, Overlaps
from segcore.scoring.summary import BoundaryScores
from segcore.store import Image, Label

WINDOW_PX = 2048
"""Side of what is read at once of a plane: the shards' side by default."""
VOLUME_WINDOW = (32, 512, 512)
"""Planes, height and width of what is read at once of a volume."""
TILE_PX = 512
"""Side of the tiles that are ranked by their share of wrong pixels."""
LEAST_COUNTED = 0.25
"""Share of a full tile (or of a smaller image) that must be counted for the tile to be ranked."""

Ids = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pixels of one window of the mask; None where the image has no such label."""

    window: Window
    mask: Ids
    valid: npt.NDArray[np.bool_]
    target: Ids | None
    mask_objects: Ids | None
    target_objects: Ids | None

    def cut(self, window: Window) -> "Pieces":
        """A part, in pixels of the image."""
        at = window.relative_to(self.window.start).slices
        labels = (self.target, self.mask_objects, self.target_objects)
        parts = (None if label is None else label[at] for label in labels)
        return Pieces(window, self.mask[at], self.valid[at], *parts)


@dataclass(frozen=True, slots=True)
class Subject:
    """The labels of one image that are held against each other."""

    image: Image
    mask: Label
    target: Label | None
    mask_objects: Label | None = None
    target_objects: Label | None = None

    @property
    def has_target(self) -> bool:
        return self.target is not None

    @property
    def has_objects(self) -> bool:
        """True if objects can be held against objects."""
        return self.has_target and self.mask_objects is not None and self.target_objects is not None

    @property
    def labels(self) -> tuple[Label, ...]:
        """All that the counts are made of."""
        found = (self.mask, self.target, self.mask_objects, self.target_objects)
        return tuple(label for label in found if label is not None)

    def read(self, window: Window, level: int | None = None) -> Pieces:
        """The pixels of a window of a level of the image, of objects that of the mask; None = the mask's finest."""
        level = self.mask.base_level if level is None else level
        mask = self.mask.read(window, level - self.mask.base_level)
        target = None if self.target is None else self.target.read(window, level)
        objects = None if self.target_objects is None else self.target_objects.read(window, level)
        valid = self.image.read_valid(window, level)
        if target is not None and self.target is not None:
            target = _same_ignore(target, self.target.ignore, self.mask.ignore)
        mask_objects = None if self.mask_objects is None else self.mask_objects.read(window)
        return Pieces(window, mask, valid, target, mask_objects, objects)


def _same_ignore(pixels: Ids, ignore: int, wanted: int) -> Ids:
    """A uint8 target beside a uint16 mask (or the reverse): the one's ignore becomes the other's."""
    if ignore == wanted:
        return pixels
    return np.where(pixels == ignore, np.uint16(wanted), pixels.astype(np.uint16))


@dataclass(frozen=True, slots=True)
class Streamed:
    """What one pass over an image gave."""

    counts: Counts
    worst_tiles: list[dict[str, Any]]
    boundary: BoundaryScores | None
    instances: InstanceCounts | None


def stream(subject: Subject, ruler: Ruler | None) -> Streamed:
    """Count an image at the mask's own level.

    Args:
        subject: the labels.
        ruler: of the mask's pixels; None = no boundaries.

    Raises:
        StoreError: a pixel holds a value that is neither a class nor `ignore`.
    """
    counter = Counter([info.id for info in subject.mask.classes], subject.mask.ignore)
    ruler = ruler if subject.has_target else None
    boundaries = Boundaries(counter.num_classes, ruler) if ruler else None
    overlaps = Overlaps(counter.num_classes) if subject.has_objects else None
    ranking = _Ranking(subject.mask.shape())
    total = Counts.zeros(counter.num_classes)
    for core, pieces in _windows(subject, ruler):
        own = pieces.cut(core)
        total += ranking.count(counter, own, core)
        if pieces.target is None or (boundaries is None and overlaps is None):
            continue
        target, mask = counter.numbers(pieces.target, pieces.mask, pieces.valid)
        inside = core.relative_to(pieces.window.start)
        if boundaries is not None:
            boundaries.add(target, mask, inside)
        if overlaps is not None and own.target_objects is not None and own.mask_objects is not None:
            overlaps.add(
                Objects(own.target_objects, target[inside.slices]), Objects(own.mask_objects, mask[inside.slices])
            )
    measured = BoundaryScores(ruler, tuple(boundaries.scores())) if boundaries and ruler else None
    return Streamed(total, ranking.worst(), measured, overlaps.counts() if overlaps else None)


def _windows(subject: Subject, ruler: Ruler | None) -> Iterator[tuple[Window, Pieces]]:
    """The image's windows, and the pixels of each with a halo where there is a ruler; the next one is read ahead."""
    axes, shape = subject.mask.axes, subject.mask.shape()
    yx = (WINDOW_PX, WINDOW_PX)
    planes, *yx_of_volume = VOLUME_WINDOW
    cell = tuple(planes if axis == "z" else 1 for axis in axes[:-2]) + (tuple(yx_of_volume) if "z" in axes else yx)
    grid, whole = Grid(shape, cell), Window.whole(shape)
    halo: Ints = (0,) * len(shape) if ruler is None else ruler.halo
    cores = [grid.window(index) for index in grid.indices()]
    reads = [core.expanded(halo).intersected(whole) for core in cores]
    with ThreadPoolExecutor(1, thread_name_prefix="segcore-score-read") as reader:
        ahead = reader.submit(subject.read, reads[0])
        for core, following in zip(cores, [*reads[1:], None], strict=True):
            pieces = ahead.result()
            if following is not None:
                ahead = reader.submit(subject.read, following)
            yield core, pieces


class _Ranking:
    """Counts windows tile by tile, and keeps the tiles with the largest share of wrong pixels."""

    def __init__(self, shape: Ints) -> None:
        self._least_px = LEAST_COUNTED * min(TILE_PX, shape[-2]) * min(TILE_PX, shape[-1])
        self._heap: list[tuple[float, Ints, dict[str, Any]]] = []

    def count(self, counter: Counter, pieces: Pieces, core: Window) -> Counts:
        """Counts of one window's core; a value without a class is a StoreError."""
        total = Counts.zeros(counter.num_classes)
        grid = Grid(core.shape, (*(1,) * (core.ndim - 2), TILE_PX, TILE_PX))
        for tile in map(grid.window, grid.indices()):
            at = tile.slices
            target = None if pieces.target is None else pieces.target[at]
            counts = counter.count(target, pieces.mask[at], pieces.valid[at])
            total += counts
            if counts.counted_px >= self._least_px and counts.wrong_px > 0:
                self._keep(tuple(a + b for a, b in zip(core.start, tile.start, strict=True)), tile.shape, counts)
        return total

    def _keep(self, start: Ints, shape: Ints, counts: Counts) -> None:
        share = counts.wrong_px / counts.counted_px
        entry = {"start": list(start), "shape": list(shape), "wrong_share": share, "counted_px": counts.counted_px}
        # The negated start breaks ties in favour of the first in raster order.
        heapq.heappush(self._heap, (share, tuple(-a for a in start), entry))
        if len(self._heap) > WORST_TILES:
            heapq.heappop(self._heap)

    def worst(self) -> list[dict[str, Any]]:
        """The tiles, worst first."""
        return [tile for _, _, tile in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]
