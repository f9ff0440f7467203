"""Shards: a shard of a finished mask and its layer `depth` -> *its fragments*; what of them is kept between two passes.

Beside the plan of the objects, until their label is complete:

    fragments/<plan>/<shard>       of the first pass, by the index of the shard
    fragments/<plan>/<unit>.ids    the ids of a work unit's fragments, by its first pixel; for a process that helps
"""

import io
from collections.abc import Mapping

import numpy as np

from segcore.errors import StoreError
from segcore.geometry import Ints, Window
from segcore.instances.grow import Bools, Bytes, Fragments, Labels, fragments_of
from segcore.instances.rule import Rule
from segcore.instances.stitch import Ids, packed, unpacked, unzipped
from segcore.scoring.counts import foreground_rows
from segcore.store import Staging, Workspace, plan_digest


class Source:
    """A mask and its depth, window by window."""

    def __init__(self, ws: Workspace, image_id: str, name: str, rule: Rule) -> None:
        self.image, self.rule = ws.image(image_id), rule
        self.mask, self.layer = ws.label(image_id, name), ws.layer(image_id, name, "depth")
        self.shape = self.mask.shape(0)
        self._channel = self.layer.axes.index("c")
        ids = [self.mask.classes[row].id for row in foreground_rows(self.mask.classes)]
        self._is_foreground = np.zeros(np.iinfo(self.mask.dtype).max + 1, np.bool_)
        self._is_foreground[ids] = True

    def fragments(self, window: Window) -> tuple[Labels, Fragments]:
        """Numbers of a window of one plane (Y, X), and the fragments that they are of."""
        context = (*(0,) * (window.ndim - 2), self.rule.context_px, self.rule.context_px)
        read = window.expanded(context).intersected(Window.whole(self.shape))
        y, x = window.relative_to(read.start).slices[-2:]
        corner = int(np.ravel_multi_index(window.start, self.shape))
        rows = corner + self.shape[-1] * np.arange(window.shape[-2], dtype=np.int64)
        foreground, depth = self._read(read)
        plane = read.shape[-2:]
        return fragments_of(foreground.reshape(plane), depth.reshape(plane), self.rule, (y, x), rows)

    def _read(self, window: Window) -> tuple[Bools, Bytes]:
        foreground = self._is_foreground[self.mask.read(window)]
        depth = self.layer.read(window.with_axis(self._channel, 1))
        if depth.dtype != np.uint8:  # float16, without a value where no pixel was usable
            depth = np.rint(np.nan_to_num(depth.astype(np.float32)) * 255).astype(np.uint8)
        return foreground, depth


class Shards:
    """Those of a label of objects that is being made."""

    def __init__(self, source: Source, staging: Staging) -> None:
        self.source, self.staging = source, staging
        self.plan = plan_digest(staging.state.load())
        self._objects = staging.workspace.objects
        self._kept = f"{staging.state.prefix}/fragments"
        self._own = f"{self._kept}/{self.plan[:12]}"  # what a late helper keeps is never taken for another plan's

    def make(self, shard: Ints) -> tuple[Labels, Fragments]:
        """Numbers of a shard's fragments (Y, X), and the fragments."""
        return self.source.fragments(self.staging.shard_window(shard))

    def known(self, shard: Ints) -> Fragments | None:
        """What an earlier call, or another process, kept; None if that is nothing, or damaged."""
        return unpacked(self._objects.get(f"{self._own}/{_named(shard)}"))

    def known_or_made(self, shard: Ints) -> tuple[Labels | None, Fragments]:
        """What was kept, or else new ones, kept now, with the numbers that they have."""
        found = self.known(shard)
        if found is not None:
            return None, found
        labels, found = self.make(shard)
        self.keep(shard, found)
        return labels, found

    def keep(self, shard: Ints, fragments: Fragments) -> None:
        """For the second pass, and for a call after a kill."""
        self._objects.put(f"{self._own}/{_named(shard)}", packed(fragments))

    def unknown(self) -> set[Ints]:
        """Those of which nothing is kept."""
        names = {key.rsplit("/", 1)[-1] for key, _ in self._objects.list(self._own)}
        return {shard for shard in self.staging.spec.grid(0).indices() if _named(shard) not in names}

    def keep_ids(self, unit: Window, ids: Mapping[Ints, Ids]) -> None:
        """Of shards of a work unit: the id of each fragment by its number, that of 0 (none) first."""
        out, named = io.BytesIO(), {_named(shard): own for shard, own in ids.items()}
        np.savez_compressed(out, **named)  # type: ignore[arg-type]
        self._objects.put(self._ids_key(unit), out.getvalue())

    def kept_ids(self, unit: Window) -> dict[Ints, Ids]:
        """What `keep_ids` kept.

        Raises:
            StoreError: if it is gone, or damaged.
        """
        found = unzipped(self._objects.get(self._ids_key(unit)))
        if found is None:
            raise StoreError(f"{self._objects.describe(self._ids_key(unit))}: gone, or damaged; run the same again")
        return {tuple(map(int, name.split("."))): own for name, own in found.items()}

    def _ids_key(self, unit: Window) -> str:
        return f"{self._own}/{_named(unit.start)}.ids"

    def forget(self) -> None:
        """The label is complete."""
        self._objects.delete_prefix(self._kept)


def _named(shard: Ints) -> str:
    return ".".join(map(str, shard))
