"""Helper: a process that makes objects of an image which another one leads (`segcore.instances.lead`).

    part -> fragments of its shards, kept                                     (`find`)
    part -> its shards' pixels by id, and the coarser ones inside its units   (`write`)
    part -> both, where it is the whole image                                 (`whole`)

It holds no lease, and each of the three is safe to repeat: of two that do the same, both write the same.
"""

from dataclasses import dataclass

from segcore.components.cells import ahead
from segcore.errors import StoreError
from segcore.geometry import Ints, Window
from segcore.instances.passes import Passes, opened_threads
from segcore.instances.rule import Rule
from segcore.instances.shards import Shards, Source
from segcore.isolation import Beat
from segcore.progress import Silent
from segcore.store import Staging, Workspace, instances_name


@dataclass(frozen=True, slots=True)
class Part:
    """Some shards of a label of objects."""

    uri: str
    """Of the workspace."""
    image_id: str
    name: str
    """The mask's."""
    mask: str | None
    """Its digest."""
    rule: Rule
    plan: str
    """Digest of the frozen plan of the objects."""
    units: tuple[tuple[Window, tuple[Ints, ...]], ...]
    """Work units, and the shards of each that are left."""

    @property
    def shards(self) -> list[Ints]:
        return [shard for _, shards in self.units for shard in shards]

    def opened(self) -> Shards:
        """All shards of the label.

        Raises:
            StoreError: if the mask, or the plan of its objects, was replaced since.
        """
        workspace = Workspace.open(self.uri)
        source = Source(workspace, self.image_id, self.name, self.rule)
        found = Shards(source, Staging.attach(workspace, self.image_id, instances_name(self.name)))
        if (source.mask.digest, found.plan) != (self.mask, self.plan):
            raise StoreError(f"objects of mask {self.name} of {self.image_id}: it was replaced since they were begun")
        return found


def find(beat: Beat, part: Part) -> None:
    """The first pass of a part."""
    shards = part.opened()
    with opened_threads() as threads:
        for shard, (_, found) in zip(part.shards, ahead(threads, shards.make, part.shards), strict=True):
            shards.keep(shard, found)
            beat()


def write(beat: Beat, part: Part) -> None:
    """The second pass of a part."""
    shards = part.opened()
    staging = shards.staging
    with opened_threads() as threads:
        for unit, _ in part.units:
            left = staging.pending(unit)
            if not left:
                continue
            writer, ids = staging.writer(unit), shards.kept_ids(unit)
            for shard, (labels, _) in zip(left, ahead(threads, shards.make, left), strict=True):
                writer.put(shard, ids[shard][labels].reshape(staging.shard_window(shard).shape))
                beat()


def whole(beat: Beat, part: Part) -> tuple[int, int]:
    """Both passes: how many objects there are, and how many shards were written."""
    with opened_threads() as threads:
        return Passes(part.opened(), threads, _Beats(beat)).run()


class _Beats(Silent):
    """Each shard is a sign of life."""

    def __init__(self, beat: Beat) -> None:
        self._beat = beat

    def advance(self, amount: int = 1) -> None:
        self._beat()
