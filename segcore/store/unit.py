"""Unit: the shards of one work unit, or of a part of it, being written, and the coarser shards that they complete.

put(shard) -> level 0; four children there -> their parent on level 1; four of those -> the one on level 2
a parent of which others write a child -> a Quarter, for the one who gathers them
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segcore.geometry import Ints, Window
from segcore.store.pyramid import Pixels, PyramidSpec

if TYPE_CHECKING:
    from segcore.store.staging import Staging


MAX_GATHERED_BYTES = 64 << 20
"""Of coarser shards under way in one writer that gathers; what is beyond waits for `Staging.finish`."""


@dataclass(frozen=True, slots=True)
class Quarter:
    """A finished shard at half its size: what it adds to its parent on the next level."""

    level: int
    """Of the finished shard."""
    shard: Ints
    pixels: Pixels


class ParentShard:
    """A shard of a coarser level while its children come in."""

    def __init__(self, spec: PyramidSpec, level: int, shard: Ints) -> None:
        self._spec, self._level, self._shard = spec, level, shard
        self._window = spec.grid(level).window(shard)
        self.pixels = spec.empty(self._window.shape)
        self.awaited = set(spec.children(level, shard))

    def place(self, child: Ints, reduced: Pixels) -> None:
        fine = self._spec.grid(self._level - 1).window(child)
        start = tuple(a // 2 if h else a for a, h in zip(fine.start, self._spec.halve, strict=True))
        self.pixels[Window(start, reduced.shape).relative_to(self._window.start).slices] = reduced
        self.awaited.discard(child)


class UnitWriter:
    """Writes the shards of one work unit, or of a group in it, and every coarser shard that lies wholly inside.

    At most one shard per level is under way when shards come in Z-order, one row of them otherwise.

    Args:
        staging: where they go.
        window: level-0 pixels of a work unit or of a group of shards; all of the image for one who gathers.
        gathers: others write the shards of level 0, and hand their quarters to `take`.
    """

    def __init__(self, staging: "Staging", window: Window, gathers: bool = False) -> None:
        self.quarters: list[Quarter] = []
        """For parents that are not all its own."""
        self._staging, self._gathers = staging, gathers
        self._parents: dict[tuple[int, Ints], ParentShard] = {}
        owned = staging.owned(window)
        self._coarser = {key for key in owned if key[0] > 0}
        self._done = {key for key in owned if staging.is_done(*key)}
        """What an earlier run wrote: not written again, even where a finer shard has to be."""
        if not gathers:
            self._resume(owned)

    def _resume(self, owned: list[tuple[int, Ints]]) -> None:
        """Feed finished shards whose parent is not: what a killed run had in memory."""
        left = self._coarser - self._done
        for level, shard in owned:
            if (level, shard) in self._done and (level + 1, self._staging.spec.parent(shard)) in left:
                self._feed(level, shard, self._staging.read_shard(level, shard))

    def put(self, shard: Ints, pixels: Pixels, note: Mapping[str, Any] | None = None) -> None:
        """Write a level-0 shard.

        Args:
            shard: its index.
            pixels: shape of `Staging.shard_window(shard)`.
            note: JSON kept in the ledger record.
        """
        self._staging.write_shard(0, shard, pixels, note)
        self._feed(0, shard, pixels)

    def _feed(self, level: int, shard: Ints, pixels: Pixels) -> None:
        if level + 1 < len(self._staging.spec.levels):
            self.take(Quarter(level, shard, self._staging.spec.reduced(pixels)))

    def take(self, quarter: Quarter) -> None:
        """Place a quarter in its parent, and write that when it is whole."""
        key = (quarter.level + 1, self._staging.spec.parent(quarter.shard))
        if key in self._done:
            return
        if key not in self._coarser:
            if not self._gathers:
                self.quarters.append(quarter)
            return
        if key not in self._parents:
            if self._gathers and sum(parent.pixels.nbytes for parent in self._parents.values()) >= MAX_GATHERED_BYTES:
                self._coarser.discard(key)
                return
            self._parents[key] = ParentShard(self._staging.spec, *key)
        parent = self._parents[key]
        parent.place(quarter.shard, quarter.pixels)
        if not parent.awaited:
            del self._parents[key]
            self._staging.write_shard(*key, parent.pixels)
            self._feed(*key, parent.pixels)
