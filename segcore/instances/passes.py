"""Passes: the shards of a label of objects -> *its pixels*, by threads of one process.

    1  every shard with its context -> its fragments, kept beside the plan until the label is complete
       all fragments -> which of them are one object, and its id
    2  every shard again -> its pixels by id -> store

Both passes go on where a killed call was, and no pixel depends on shards, threads or their order.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from segcore.components.cells import MAX_THREADS, ahead
from segcore.geometry import Ints, Window
from segcore.instances.grow import Fragments, Int64s, Labels
from segcore.instances.shards import Shards
from segcore.instances.stitch import Numbering, stitched
from segcore.measure import num_cores
from segcore.progress import Progress

KEPT_SHARDS = 8
"""The first shards, whose pixels of the first pass wait for the second one: all of a small image."""


@contextmanager
def opened_threads() -> Iterator[ThreadPoolExecutor]:
    """As many as cores; what they have not begun is dropped where one fails."""
    with ThreadPoolExecutor(min(MAX_THREADS, num_cores()), thread_name_prefix="segcore-objects") as threads:
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)


class Passes:
    """Both, of one label."""

    def __init__(self, shards: Shards, threads: ThreadPoolExecutor, progress: Progress) -> None:
        self._shards, self._threads, self._progress = shards, threads, progress
        self._early: dict[Ints, tuple[Labels, Int64s]] = {}

    def run(self) -> tuple[int, int]:
        """How many objects there are, and how many shards were written."""
        staging, shards = self._shards.staging, list(self._shards.staging.spec.grid(0).indices())
        fragments = ahead(self._threads, partial(self._fragments, early=frozenset(shards[:KEPT_SHARDS])), shards)
        found = stitched(zip(shards, self._told(fragments), strict=True), self._shards.source.rule.min_px)
        self._progress.advance(len(shards) - len(staging.pending(Window.whole(staging.spec.shape))))
        return found.count, self._write(found)

    def _fragments(self, shard: Ints, early: frozenset[Ints]) -> Fragments:
        labels, found = self._shards.known_or_made(shard)
        if shard in early and labels is not None:
            self._early[shard] = labels, found.first
        return found

    def _told(self, fragments: Iterable[Fragments]) -> Iterator[Fragments]:
        for found in fragments:
            self._progress.advance()
            yield found

    def _write(self, found: Numbering) -> int:
        staging, num_written = self._shards.staging, 0
        for window in staging.windows():
            writer, pending = staging.writer(window), staging.pending(window)
            for shard, (labels, first) in zip(pending, ahead(self._threads, self._labels, pending), strict=True):
                ids = found.ids(first, staging.spec.dtype)[labels]
                writer.put(shard, ids.reshape(staging.shard_window(shard).shape))
                self._progress.advance()
                num_written += 1
        return num_written

    def _labels(self, shard: Ints) -> tuple[Labels, Int64s]:
        early = self._early.pop(shard, None)
        if early is not None:
            return early
        labels, found = self._shards.make(shard)
        return labels, found.first
