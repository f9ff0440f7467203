"""Helper: a process that does a part of the objects of an image which another one leads, in two passes.

leader:  a part for each work unit -> crew; all fragments -> ids, kept -> a part for each unit -> crew; finish
helper:  part -> fragments of its shards, kept                                   (`find`)
         part -> its shards' pixels by id, and the coarser ones inside the unit  (`write`)
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from segcore.components.cells import MAX_THREADS, ahead
from segcore.errors import StoreError
from segcore.geometry import Ints, Window
from segcore.instances.rule import Rule
from segcore.instances.shards import Shards, Source
from segcore.isolation import Beat
from segcore.measure import num_cores
from segcore.store import Staging, Workspace, instances_name, plan_digest


@dataclass(frozen=True, slots=True)
class Part:
    """Some shards of a work unit."""

    uri: str
    """Of the workspace."""
    image_id: str
    name: str
    """The mask's."""
    rule: Rule
    plan: str
    """Digest of the frozen plan of the objects."""
    unit: Window
    shards: tuple[Ints, ...]
    """Those that are left."""

    def opened(self) -> Shards:
        """All shards of the label.

        Raises:
            StoreError: if its plan was replaced since.
        """
        workspace = Workspace.open(self.uri)
        staging = Staging.attach(workspace, self.image_id, instances_name(self.name))
        if plan_digest(staging.state.load()) != self.plan:
            raise StoreError(
                f"objects of mask {self.name} of {self.image_id}: the plan was replaced since the work was handed out"
            )
        return Shards(Source(workspace, self.image_id, self.name, self.rule), staging)


def find(beat: Beat, part: Part) -> None:
    """The first pass of a part; safe to repeat."""
    shards = part.opened()
    with opened_threads() as threads:
        for shard, (_, found) in zip(part.shards, ahead(threads, shards.make, part.shards), strict=True):
            shards.keep(shard, found)
            beat()


def write(beat: Beat, part: Part) -> None:
    """The second pass of a part; safe to repeat."""
    shards = part.opened()
    staging, ids = shards.staging, shards.kept_ids(part.unit)
    writer, left = staging.writer(part.unit), [shard for shard in staging.pending(part.unit) if shard in part.shards]
    with opened_threads() as threads:
        for shard, (labels, _) in zip(left, ahead(threads, shards.make, left), strict=True):
            writer.put(shard, ids[shard][labels].reshape(staging.shard_window(shard).shape))
            beat()


@contextmanager
def opened_threads() -> Iterator[ThreadPoolExecutor]:
    """As many as cores; what they have not begun is dropped where one fails."""
    with ThreadPoolExecutor(min(MAX_THREADS, num_cores()), thread_name_prefix="segcore-objects") as threads:
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)
