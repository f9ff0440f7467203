"""Run: one image on its way through the pipeline; its mask in the store, its counts, and how it ended."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segcore.classes import ClassInfo
from segcore.errors import SegcoreError
from segcore.geometry import Grid, Ints, Tile, Window, z_order
from segcore.inference.decision import MASK, Answers, Decision
from segcore.inference.layers import Layer
from segcore.inference.model_grid import ModelGrid, Pixels, Valid
from segcore.inference.numerics import Network, NotFiniteError
from segcore.inference.search import Reason, Search
from segcore.inference.tiling import Tiling
from segcore.pace import Pace, now
from segcore.store import UNIT_SHARDS, Image, Staging, UnitWriter
from segcore.stretch import Stretch


@dataclass
class Counts:
    """What was done in this run; what an earlier one finished counts as resumed."""

    tiles: int = 0
    """Tiles that the pending shards need, with those that were skipped."""
    skipped: Counter[Reason] = field(default_factory=Counter)
    """Tiles that were not inferred, by the reason; `nodata` = without a usable pixel to write."""
    repeated: int = 0
    """Tiles that the work unit beside infers too, in `gaussian` or where the image is resampled."""
    shards_written: int = 0
    shards_resumed: int = 0
    px_written: int = 0

    def add(self, other: "Counts") -> None:
        """What another process did of the same image."""
        for name in ("tiles", "repeated", "shards_written", "px_written"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.skipped.update(other.skipped)


@dataclass
class MaskRun:
    """One image and the mask that is made of it. Methods may be called from any thread of the pipeline."""

    grid: ModelGrid
    staging: Staging
    tiling: Tiling
    dtype: np.dtype[Any]
    """Of the mask."""
    ignore: int
    """Id of unusable pixels in the mask."""
    search: Search
    """Where to look."""
    decision: Decision
    """What becomes of the model's answers."""
    batch: int = 1
    """Tiles that are inferred together."""
    stretch: Stretch | None = None
    """What is done to the image's intensities before the model sees them."""
    layers: tuple[Layer, ...] = ()
    compiled: bool = False
    """Whether its tiles go through compiled code."""
    plan: dict[str, Any] = field(default_factory=dict)
    """Of the mask, as it is frozen."""
    units: deque[tuple[Window, list[Ints]]] = field(default_factory=deque)
    """Work units that are not begun yet, each with its shards that are left, of the mask's grid."""
    remaining: int = 0
    """Shards that are not computed yet."""
    counts: Counts = field(default_factory=Counts)
    sample: Callable[[], Pixels] | None = None
    """Reads what the network is adapted by."""
    error: BaseException | None = None
    """Why the image failed; the first error counts."""
    finished: bool = False
    began_s: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _writer: UnitWriter | None = None

    @property
    def image(self) -> Image:
        return self.grid.image

    @property
    def failed(self) -> bool:
        return self.error is not None

    def adapted(self, network: Network) -> Network:
        """The network for this image: itself, or what its image norms make of it; the first call infers the sample."""
        if not network.adapts or self.sample is None:
            return network
        with network.adapting:  # of all images: a sample takes memory
            found = network.of_image(self.image.image_id)
            if found is None:
                found = network.adapted(self.sample(), self.image.nodata)
                network.keep(self.image.image_id, found)
            return found

    def fail(self, error: BaseException) -> None:
        """The image is given up; what is in the pipeline for it is dropped, and its lease let go."""
        with self._lock:
            first = self.error is None
            self.error = self.error or error
        if first:
            self.seconds = time.monotonic() - self.began_s
            self.close()

    def count_tiles(self, tiles: int, skipped: Iterable[Reason], repeated: int = 0) -> None:
        with self._lock:
            self.counts.tiles += tiles
            self.counts.skipped.update(skipped)
            self.counts.repeated += repeated

    @property
    def stagings(self) -> tuple[Staging, ...]:
        """Of the layers, and of the mask."""
        return (*(layer.staging for layer in self.layers), self.staging)

    def look_for_work(self, depth: int, width: int = UNIT_SHARDS) -> None:
        """Find the work units in which a shard is left, and count what an earlier call did.

        Args:
            depth: planes of a unit.
            width: shards side by side, of all that a unit has: fewer where their sums would take too much memory.
        """
        spec = self.staging.spec
        sides = (*(depth,) * (len(spec.shape) - 2), UNIT_SHARDS * spec.shard_px, width * spec.shard_px)
        units = Grid(spec.shape, sides)
        left = ((unit, self._pending(unit)) for unit in map(units.window, units.indices()))
        self.units = deque((unit, shards) for unit, shards in left if shards)
        self.remaining = sum(len(shards) for _, shards in self.units)
        self.counts.shards_resumed = spec.num_shards - self.remaining

    def help_with(self, unit: Window, parts: Iterable[Window]) -> None:
        """Take one work unit from the process that leads, and write its coarser shards too; the rest is the leader's.

        Args:
            unit: an aligned group of the mask's shards.
            parts: of it, each computed for itself; a shard that is finished by now is not computed again.
        """
        left = ((part, self._pending(part)) for part in parts)
        self.counts, self.units = Counts(), deque((part, shards) for part, shards in left if shards)
        self.remaining = sum(len(shards) for _, shards in self.units)
        self._writer = None if self.staging.finished else self.staging.writer(unit)
        for layer in self.layers:
            layer.help_with(unit)

    def helped(self, counts: Counts, num_shards: int) -> None:
        """Another process has finished so many shards, some of them in an attempt that did not live to tell."""
        self.counts.add(counts)
        self.remaining -= num_shards

    def _pending(self, unit: Window) -> list[Ints]:
        """The shards of a work unit that are left, of the mask or of a layer, in Z-order."""
        grid, mask = self.staging.spec.grid(0), self.staging
        return z_order(
            [
                shard
                for shard in grid.touching(unit)
                if not (mask.finished or mask.is_done(0, shard))
                or any(layer.lacks(grid.window(shard)) for layer in self.layers)
            ]
        )

    def write(self, shard: "Answered") -> None:
        """Write a shard, and the coarser ones that it completes; by the writer's thread only."""
        for layer in self.layers:
            layer.put(shard.window, shard.answers[layer.kind])
        if not self.staging.finished and not self.staging.is_done(0, shard.shard):
            self._writer = self._writer or self.staging.gatherer()
            self._writer.put(shard.shard, shard.answers[MASK], note=shard.note)
        self.counts.shards_written += 1
        self.counts.px_written += shard.window.num_px
        self.remaining -= 1

    def finish(self, attributes: dict[str, Any], classes: Sequence[ClassInfo]) -> None:
        """Build the levels that are left and mark all complete, the mask last."""
        for layer in self.layers:
            if not layer.staging.finished:
                names = [classes[k].name for k in self.decision.layer_classes]
                channels = names if layer.kind == "probs" else [layer.kind]
                made = {"layer": layer.kind, "predict": layer.plan}
                layer.staging.finish({**attributes, **made}, channels=channels)
        if not self.staging.finished:
            self.staging.finish(attributes, classes)
        self.seconds = time.monotonic() - self.began_s
        self.finished = True

    def close(self) -> None:
        """Give the leases back; unfinished work stays for the next run."""
        for staging in self.stagings:
            staging.close()

    def details(self) -> dict[str, Any]:
        """Numbers for the image's result."""
        counts = self.counts
        seconds = self.seconds or time.monotonic() - self.began_s
        return {
            "level": self.grid.level,
            **({"step": list(self.grid.step)} if self.grid.is_resampled else {}),
            "tiles": counts.tiles,
            **shares(counts.tiles, counts.skipped),
            "repeated_share": round(counts.repeated / counts.tiles, 6) if counts.tiles else 0.0,
            "shards_written": counts.shards_written,
            "shards_resumed": counts.shards_resumed,
            "mpx_per_s": round(counts.px_written / 1e6 / seconds, 4) if seconds else 0.0,
            "seconds": round(seconds, 3),
        }

    def pace(self, digest: str, device: str) -> Pace:
        """What a report says of how the mask was made.

        Args:
            digest: of the mask's plan.
            device: kind of it.
        """
        counts = self.counts
        return Pace(
            digest=digest,
            ended=now(),
            device=device,
            tiles=counts.tiles,
            px=counts.px_written,
            seconds=round(time.monotonic() - self.began_s, 3),
            **shares(counts.tiles, counts.skipped),
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """A shard of the mask's finest level that is computed, on its way to the writer."""

    run: MaskRun
    shard: Ints
    window: Window
    """Its pixels, over the axes without c."""
    answers: Answers
    note: dict[str, Any]


def shares(tiles: int, skipped: Counter[Reason]) -> dict[str, Any]:
    """The share of tiles that are skipped, and by which reason, for results."""
    found = {reason: round(count / tiles, 6) for reason, count in sorted(skipped.items())}
    return {
        "skipped_share": round(skipped.total() / tiles, 6) if tiles else 0.0,
        **({"skipped_by": found} if found else {}),
    }


def share_of_all(details: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of the tiles of several images that are skipped, by their details; nothing without tiles."""
    tiles = sum(found.get("tiles", 0) for found in details)
    skipped = sum(found["tiles"] * found["skipped_share"] for found in details if "skipped_share" in found)
    return {"skipped_share": round(skipped / tiles, 6)} if tiles else {}


def empty_answers(run: MaskRun, shape: Ints) -> Answers:
    """Answers for a window of this shape in which no pixel is usable."""
    decision = run.decision
    answers: Answers = {MASK: np.full(shape, run.ignore, dtype=run.dtype)}
    for layer in decision.layers:
        answers[layer] = np.full((decision.num_channels(layer), *shape), decision.unknown, decision.layer_dtype)
    return answers


def blank(run: MaskRun, answers: Answers, unusable: Valid) -> None:
    """Mark pixels as unusable, in place."""
    for name, values in answers.items():
        values[..., unusable] = run.ignore if name == MASK else run.decision.unknown


def named(error: BaseException, run: MaskRun, tiles: Sequence[Tile]) -> BaseException:
    """The error, with image and tile named where the network could not know them."""
    if not isinstance(error, NotFiniteError):
        return error
    tile = tiles[min(error.tile, len(tiles) - 1)]
    axes, start = ", ".join(run.grid.axes), run.grid.mask_window(tile.write).start
    where = f"image {run.image.image_id}: tile at {start} ({axes}) of level {run.grid.level}"
    return SegcoreError(f"{where}: {error}")
