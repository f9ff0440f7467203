"""Ledger: which shards of an image or label are finished; as it stands in the store, or kept in the parent's memory."""

from segcore.geometry import Ints
from segcore.store.objects import Objects
from segcore.store.plan import PlanState, ShardRecord

Records = dict[tuple[int, Ints], ShardRecord]
"""By level and index of the shard."""


class Ledger:
    """The records of one plan.

    Args:
        objects: the workspace's.
        prefix: of the arrays' keys.
        state: the plan.
    """

    def __init__(self, objects: Objects, prefix: str, state: PlanState) -> None:
        self._objects, self._prefix, self._state = objects, prefix, state
        self._kept: Records | None = None

    @property
    def records(self) -> Records:
        """All of them, read at the first use and kept."""
        if self._kept is None:
            self._kept = self.load()
        return self._kept

    def load(self) -> Records:
        """Read all records, and keep them; one whose object is missing or has another size is withdrawn."""
        self._kept, lost = self._sound_and_lost()
        for level, shard in lost:
            self._state.delete_record(level, shard)
        return self._kept

    def look(self) -> Records:
        """Those whose objects are there; nothing is withdrawn."""
        return self._sound_and_lost()[0]

    def keep(self, records: Records | None) -> None:
        """Go by these from now on; None = by those in the store."""
        self._kept = records

    def has(self, level: int, shard: Ints) -> bool:
        """True if a shard has a record (and, where they are kept, its object has the right size)."""
        if self._kept is not None:
            return (level, shard) in self._kept
        return self._state.record(level, shard) is not None

    def put(self, level: int, shard: Ints, record: ShardRecord) -> None:
        """Write a record."""
        self._state.put_record(level, shard, record)
        if self._kept is not None:
            self._kept[level, shard] = record

    def forget(self, level: int, shard: Ints) -> None:
        """Withdraw a record: the shard is damaged, and counts as left."""
        self.records.pop((level, shard), None)
        self._state.delete_record(level, shard)

    def _sound_and_lost(self) -> tuple[Records, list[tuple[int, Ints]]]:
        """All records whose objects are there, and the places of the others."""
        records = self._state.records()
        sizes = {} if not records else dict(self._objects.list(self._prefix))
        lost = [
            (level, shard)
            for (level, shard), record in records.items()
            if any(sizes.get(f"{self._prefix}/{level}/{key}") != size for key, (size, _) in record.objects.items())
        ]
        return {key: record for key, record in records.items() if key not in set(lost)}, lost
