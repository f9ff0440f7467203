"""Run: one image on its way through the pipeline; its mask in the store, its counts, and how it ended."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segcore.classes import ClassInfo
from segcore.errors import SegcoreError
from segcore.geometry import Ints, Tile, Window
from segcore.inference.numerics import NotFiniteError
from segcore.inference.tiling import Pixels, Tiling, Valid
from segcore.store import Image, Staging, UnitWriter
from segcore.stretch import Stretch


@dataclass
class Counts:
    """What was done in this run; what an earlier one finished counts as resumed."""

    tiles: int = 0
    """Tiles that the pending shards need, with those that were skipped."""
    skipped: int = 0
    """Tiles without a usable pixel to write: not inferred."""
    repeated: int = 0
    """Tiles of `gaussian` that a neighbouring work unit infers too."""
    shards_written: int = 0
    shards_resumed: int = 0
    px_written: int = 0


@dataclass
class MaskRun:
    """One image and the mask that is made of it. Methods may be called from any thread of the pipeline."""

    image: Image
    staging: Staging
    tiling: Tiling
    dtype: np.dtype[Any]
    """Of the mask."""
    ignore: int
    """Id of unusable pixels in the mask."""
    stretch: Stretch | None = None
    """What is done to the image's intensities before the model sees them."""
    remaining: int = 0
    """Shards that are not written yet."""
    counts: Counts = field(default_factory=Counts)
    error: BaseException | None = None
    """Why the image failed; the first error counts."""
    finished: bool = False
    began_s: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _writers: dict[Window, UnitWriter] = field(default_factory=dict)
    _left: dict[Window, int] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return self.error is not None

    def fail(self, error: BaseException) -> None:
        """The image is given up; what is in the pipeline for it is dropped, and its lease let go."""
        with self._lock:
            first = self.error is None
            self.error = self.error or error
        if first:
            self.seconds = time.monotonic() - self.began_s
            self.staging.close()

    def count_tiles(self, tiles: int, skipped: int, repeated: int = 0) -> None:
        with self._lock:
            self.counts.tiles += tiles
            self.counts.skipped += skipped
            self.counts.repeated += repeated

    def begin_unit(self, unit: Window) -> list[Ints]:
        """The unit's shards that are left, before any of them is computed."""
        pending = self.staging.pending(unit)
        self._left[unit] = len(pending)
        return pending

    def write(self, shard: "MaskShard") -> None:
        """Write a finished shard, and the pyramid shards that it completes; by the writer's thread only."""
        if shard.unit not in self._writers:
            self._writers[shard.unit] = self.staging.writer(shard.unit)
        self._writers[shard.unit].put(shard.shard, shard.pixels, note=shard.note)
        self._left[shard.unit] -= 1
        if self._left[shard.unit] == 0:
            del self._writers[shard.unit]
        self.counts.shards_written += 1
        self.counts.px_written += shard.pixels.size
        self.remaining -= 1

    def finish(self, attributes: dict[str, Any], classes: Sequence[ClassInfo]) -> None:
        """Build the upper levels and mark the mask complete."""
        self.staging.finish(attributes, classes)
        self.seconds = time.monotonic() - self.began_s
        self.finished = True

    def details(self) -> dict[str, Any]:
        """Numbers for the image's result."""
        counts = self.counts
        seconds = self.seconds or time.monotonic() - self.began_s
        return {
            "tiles": counts.tiles,
            "skipped_share": round(counts.skipped / counts.tiles, 6) if counts.tiles else 0.0,
            "repeated_share": round(counts.repeated / counts.tiles, 6) if counts.tiles else 0.0,
            "shards_written": counts.shards_written,
            "shards_resumed": counts.shards_resumed,
            "mpx_per_s": round(counts.px_written / 1e6 / seconds, 4) if seconds else 0.0,
            "seconds": round(seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class MaskShard:
    """A finished level-0 shard of a mask, on its way to the writer."""

    run: MaskRun
    unit: Window
    """The work unit, or as many planes of it as a tile has."""
    shard: Ints
    pixels: Pixels
    note: dict[str, Any]


def named(error: BaseException, run: MaskRun, tiles: Sequence[Tile]) -> BaseException:
    """The error, with image and tile named where the network could not know them."""
    if not isinstance(error, NotFiniteError):
        return error
    tile = tiles[min(error.tile, len(tiles) - 1)]
    axes = ", ".join(axis for axis in run.image.axes if axis != "c")
    return SegcoreError(f"image {run.image.image_id}: tile at {tile.write.start} ({axes}) of level 0: {error}")


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
