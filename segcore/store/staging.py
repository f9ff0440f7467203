"""Staging: one image or label while it is written, shard by shard, so that a killed run goes on exactly.

    put(shard) -> level 0 object -> ledger record -> reduced into its parent -> (4 children there) parent ...

A work unit builds the levels that lie wholly inside it; `finish` builds those above from their ledgered
children, writes the metadata, and last of all the group's attributes (`ngff.MARKS`): with them the image is complete.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from segcore.classes import ClassInfo
from segcore.errors import IncompleteError, StoreError
from segcore.geometry import Ints, Window, z_order
from segcore.store import ngff
from segcore.store.arrays import Reader, encode_objects, object_keys, open_array
from segcore.store.lease import Lease
from segcore.store.ledger import Ledger
from segcore.store.linked import LinkedLevel, located
from segcore.store.metadata import Group, array_documents
from segcore.store.places import array_prefix, is_label
from segcore.store.plan import (
    Ending,
    PlanState,
    ShardRecord,
    create_plan,
    digest_of,
    latest_plan,
    plan_difference,
    refuse_other_plan,
    state_prefix,
)
from segcore.store.pyramid import UNIT_SHARDS, Pixels, PyramidSpec
from segcore.store.unit import ParentShard, UnitWriter
from segcore.store.withdraw import unmark, withdraw
from segcore.store.workspace import Workspace, listed_labels, rebuild_label_list

WRITE_THREADS = 8
"""Objects of one shard that are put at a time."""


class Staging:
    """A pyramid being written; made by `begin`, or by `attach` in a child process."""

    def __init__(
        self, workspace: Workspace, image_id: str, name: str, state: PlanState, spec: PyramidSpec, lease: Lease | None
    ) -> None:
        self.workspace, self.image_id, self.name = workspace, image_id, name
        self.spec, self.state = spec, state
        self.prefix = array_prefix(image_id, name)
        self._objects = workspace.objects
        self._lease = lease
        self._link: dict[str, Any] | None = None
        self._ledger = Ledger(self._objects, self.prefix, state)
        self.finished = False

    @classmethod
    def begin(
        cls,
        workspace: Workspace,
        image_id: str,
        name: str,
        plan: dict[str, Any],
        spec: PyramidSpec,
        overwrite: bool = False,
        supersede: Sequence[str] = (),
    ) -> "Staging":
        """Begin, or go on with, an image (`name` = "image") or a label.

        Args:
            workspace: where it is written.
            image_id: the image it belongs to.
            name: "image" or the label's name.
            plan: JSON; all that decides the pixels, frozen in `plan.json`.
            spec: layout of the pyramid.
            overwrite: replace what was made under another plan, or a damaged one, and make lost shards again.
            supersede: keys of `plan` whose change makes the old result stale, so that it is replaced without
                `overwrite`, whatever else differs (the digest of a source that has changed).

        Raises:
            PlanMismatchError: if another plan stands under this name; the difference is named.
            DamagedError: if the plan that stands is damaged, and `overwrite` is not set.
            LeaseHeldError: if another process is writing it.
        """
        objects = workspace.objects
        frozen = {"plan": plan, "storage": spec.frozen}
        state = latest_plan(objects, image_id, name)
        if state is not None and state.finished() and not plan_difference(state.load(or_empty=overwrite), frozen):
            done = cls(workspace, image_id, name, state, spec, None)
            done.finished = workspace.is_complete(image_id, name)
            if done.finished and not (overwrite and done._lacks_shards()):
                done._make_up_for_a_kill()
                return done
        lease = Lease(objects, f"{state_prefix(image_id, name)}/lease")
        try:
            state = cls._agreed_plan(workspace, image_id, name, frozen, overwrite, supersede)
            staging = cls(workspace, image_id, name, state, spec, lease)
            objects.sweep(staging.prefix)
            objects.sweep(state_prefix(image_id, name))
            staging._put_array_metadata()
            staging._ledger.load()
        except BaseException:
            lease.release()
            raise
        return staging

    @classmethod
    def peek(
        cls,
        workspace: Workspace,
        image_id: str,
        name: str,
        plan: dict[str, Any],
        spec: PyramidSpec,
        overwrite: bool = False,
        supersede: Sequence[str] = (),
    ) -> "Staging":
        """What `begin` would find, for a look ahead: takes the same, writes nothing, and is not to be written to.

        Raises:
            PlanMismatchError, DamagedError: as `begin` does.
        """
        objects, frozen = workspace.objects, {"plan": plan, "storage": spec.frozen}
        state = latest_plan(objects, image_id, name)
        old = None if state is None else state.load(or_empty=overwrite)
        if state is not None and not plan_difference(old, frozen):
            found = cls(workspace, image_id, name, state, spec, None)
            found._ledger.keep(found._ledger.look())
            is_complete = state.finished() is not None and workspace.is_complete(image_id, name)
            found.finished = is_complete and not (overwrite and found._lacks_shards())
            return found
        if old is not None and not overwrite and not _is_stale(old, frozen, supersede):
            refuse_other_plan(old, frozen, f"{image_id}/{name}")
        number = 0 if state is None else state.number + 1
        new = cls(workspace, image_id, name, PlanState(objects, state_prefix(image_id, name), number), spec, None)
        new._ledger.keep({})
        return new

    def _lacks_shards(self) -> bool:
        """True if an object or a record of any level is gone; a look at the store's listing, nothing is read."""
        if self.spec.linked:
            is_copy = self.state.load()["plan"].get("kept") == "copy"
            return is_copy and next(self._objects.list(f"sources/{self.image_id}"), None) is None
        records = self._ledger.look()
        shards = ((level, at) for level in range(len(self.spec.levels)) for at in self.spec.grid(level).indices())
        return any(shard not in records for shard in shards)

    def _make_up_for_a_kill(self) -> None:
        """Do what comes after the mark of completeness, where a kill prevented it."""
        if is_label(self.name) and self.name not in listed_labels(self.workspace, self.image_id):
            rebuild_label_list(self.workspace, self.image_id)

    @staticmethod
    def _agreed_plan(
        workspace: Workspace,
        image_id: str,
        name: str,
        frozen: dict[str, Any],
        overwrite: bool,
        supersede: Sequence[str],
    ) -> PlanState:
        objects = workspace.objects
        state = latest_plan(objects, image_id, name)
        if state is None:
            return create_plan(objects, image_id, name, 0, frozen)
        old = state.load(or_empty=overwrite)
        for number in range(state.number):  # left by a kill between a new plan and the end of the old one
            objects.delete_prefix(f"{state_prefix(image_id, name)}/{number}")
        if not plan_difference(old, frozen):
            unmark(workspace, image_id, name)  # if it is marked, shards of it are lost
            return state
        if not overwrite and not _is_stale(old, frozen, supersede):
            refuse_other_plan(old, frozen, f"{image_id}/{name}")
        withdraw(workspace, image_id, name)
        replacement = create_plan(objects, image_id, name, state.number + 1, frozen)
        objects.delete_prefix(state.prefix)
        return replacement

    @classmethod
    def attach(cls, workspace: Workspace, image_id: str, name: str) -> "Staging":
        """The plan that is being worked on, for a child process; the lease stays with the parent."""
        state = latest_plan(workspace.objects, image_id, name)
        if state is None:
            raise StoreError(f"{image_id}/{name}: no plan in {workspace.uri}")
        return cls(workspace, image_id, name, state, PyramidSpec.model_validate(state.load()["storage"]), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the lease back; unfinished work stays for the next run."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    # Work that is left

    def link(self, link: dict[str, Any]) -> None:
        """Say where a linked image's pixels are read: before any level of it is asked for."""
        assert self.spec.linked, f"{self.image_id} holds its pixels itself"
        self._link = link

    def windows(self, side: int = UNIT_SHARDS, depth: int = 1) -> list[Window]:
        """Aligned groups of shards in which one is left, on any level that they build; in raster order.

        Args:
            side: shards in y and in x, a power of 2; a work unit's by default.
            depth: planes of z and t.

        Returns:
            Level-0 pixels, all axes.
        """
        grid = self.spec.groups(side, depth)
        return [window for window in map(grid.window, grid.indices()) if self._is_left(window)]

    def _is_left(self, window: Window) -> bool:
        if self.spec.linked:
            return False
        records = self._ledger.records
        return any(shard not in records for shard in self.owned(window))

    def owned(self, window: Window) -> list[tuple[int, Ints]]:
        """Level and index of every shard that is wholly inside an aligned group of shards; finest level first."""
        shards = list(self.spec.grid(0).touching(window))
        owned = [(0, shard) for shard in shards]
        for level in range(1, len(self.spec.levels)):
            inside = set(shards)
            parents = sorted({self.spec.parent(shard) for shard in shards})
            shards = [parent for parent in parents if inside.issuperset(self.spec.children(level, parent))]
            owned += [(level, shard) for shard in shards]
        return owned

    def pending(self, window: Window) -> list[Ints]:
        """Level-0 shards of a window without a ledger record, in Z-order."""
        if self.spec.linked:
            return []
        return z_order([shard for shard in self.spec.grid(0).touching(window) if not self.is_done(0, shard)])

    def shard_window(self, shard: Ints) -> Window:
        """Level-0 pixels of a shard, all axes, clipped to the array."""
        return self.spec.grid(0).window(shard)

    def is_done(self, level: int, shard: Ints) -> bool:
        """True if the ledger has a record of the shard (and, in the parent, its object has the right size)."""
        return self._ledger.has(level, shard)

    def forget(self, level: int, shard: Ints) -> None:
        """Withdraw a shard's ledger record: it is damaged, and counts as left."""
        self._ledger.forget(level, shard)

    def writer(self, window: Window) -> "UnitWriter":
        """A writer for one work unit, or a group of shards in it; it belongs to one thread."""
        return UnitWriter(self, window)

    def gatherer(self) -> "UnitWriter":
        """A writer of the coarser shards whose children several others write; it belongs to one thread at a time."""
        return UnitWriter(self, Window.whole(self.spec.shape), gathers=True)

    def notes(self) -> Iterator[dict[str, Any]]:
        """What the ledger's records of level 0 carry beside the pixels, whoever wrote them."""
        return (record.note for (level, _), record in sorted(self.state.records().items()) if level == 0)

    # Writing

    def put_all(self, pixels: Pixels) -> None:
        """Write what is left of an array that is in memory."""
        for window in self.windows():
            writer = self.writer(window)
            for shard in self.pending(window):
                writer.put(shard, pixels[self.shard_window(shard).slices])

    def write_shard(self, level: int, shard: Ints, pixels: Pixels, note: Mapping[str, Any] | None = None) -> None:
        """Put a whole shard, then its ledger record.

        Raises:
            StoreError: if the plan was replaced, or removed, meanwhile: what one process still makes by the old plan
                must not lie under the records of the new one.
        """
        window = self.spec.grid(level).window(shard)
        assert pixels.shape == window.shape, f"shard {shard} of level {level} needs {window.shape}, got {pixels.shape}"
        pixels = pixels.astype(self.spec.dtype, copy=False)
        objects = encode_objects(self.spec, level, shard, pixels)
        if not self.state.stands():
            raise StoreError(
                f"{self.image_id}/{self.name}: its plan was replaced, or removed, by another run meanwhile; this one "
                "writes nothing more"
            )

        def put(key: str) -> None:
            if key in objects:
                self._objects.put(f"{self.prefix}/{level}/{key}", objects[key])
            else:
                self._objects.delete(f"{self.prefix}/{level}/{key}")

        keys = object_keys(self.spec, level, shard)
        if len(keys) == 1:
            put(keys[0])
        else:
            with ThreadPoolExecutor(min(len(keys), WRITE_THREADS)) as threads:
                deque(threads.map(put, keys), maxlen=0)  # raises what a put raised
        record = ShardRecord(
            pixels=digest_of(self.spec.stored(pixels)),
            objects={key: (len(data), digest_of(data)) for key, data in objects.items()},
            note=dict(note or {}),
        )
        self._ledger.put(level, shard, record)

    def read_shard(self, level: int, shard: Ints) -> Pixels:
        """Read back a finished shard."""
        reader = open_array(self._objects, f"{self.prefix}/{level}", self.spec.ngff)
        return reader.read(self.spec.grid(level).window(shard))

    def read_level(self, level: int, channel: int | None = None) -> Pixels:
        """All pixels of a finished level, or those of one channel (the first axis)."""
        if self._link is not None:
            reader: Reader = LinkedLevel(located(self._link, self._objects), self.spec, level)
        else:
            reader = open_array(self._objects, f"{self.prefix}/{level}", self.spec.ngff)
        if channel is None:
            return reader.read(Window.whole(reader.shape))
        return reader.read(Window((channel, *(0 for _ in reader.shape[1:])), (1, *reader.shape[1:])))

    def build_levels(self) -> None:
        """Build what no work unit could: the levels above them, and shards whose children several tasks wrote.

        Raises:
            IncompleteError: if shards of level 0 are missing.
        """
        if self.finished or self.spec.linked:
            return
        self._ledger.load()
        missing = self.pending(Window.whole(self.spec.shape))
        if missing:
            raise IncompleteError(
                f"{self.image_id}/{self.name}: {len(missing)} shards are not finished, or are lost; "
                "run it again with --overwrite"
            )
        for level in range(1, len(self.spec.levels)):
            for shard in self.spec.grid(level).indices():
                if not self.is_done(level, shard):
                    self.write_shard(level, shard, self._from_children(level, shard))

    def finish(
        self,
        attributes: dict[str, Any],
        classes: Sequence[ClassInfo] = (),
        channels: Sequence[str] = (),
    ) -> None:
        """Build what is left of the levels, write the metadata, and mark it complete.

        Args:
            attributes: JSON for the key `segcore`; `spacing`, `georef` and `affine` in it are those of the image's
                level 0, and are stored as they are at the finest level of this array, in NGFF and GeoZarr too.
            classes: of a label.
            channels: names of an image's channels.

        Raises:
            IncompleteError: if shards are missing.
        """
        self.build_levels()
        group = Group(self.name, self.prefix, self.spec, self.state.number, self._link)
        self._end(self.ending(group.documents(attributes, self._objects, classes, channels)))

    def finish_as(self, ending: Ending) -> None:
        """Build what is left of the levels, and mark it complete with the metadata that it had before.

        Raises:
            IncompleteError: if shards are missing.
        """
        self.build_levels()
        self._end(ending)

    def ending(self, documents: Mapping[str, bytes]) -> Ending:
        """What `finished.json` says where these are the group's own metadata."""
        digests = {
            key: digest_of(data) for key, data in {**array_documents(self.prefix, self.spec), **documents}.items()
        }
        texts = {key: data.decode() for key, data in documents.items()}
        return Ending(metadata=digests, documents=texts, frozen=self.state.load())

    def _end(self, ending: Ending) -> None:
        self.state.put_finished(ending)
        for key, text in ending.documents.items():
            self._objects.put(key, text.encode())
        if is_label(self.name) or (self.name == "image" and self._objects.folders(f"{self.prefix}/labels")):
            rebuild_label_list(self.workspace, self.image_id)
        self.finished = True
        self._ledger.keep(None)  # a night of many images must not keep all their ledgers
        self.close()

    def _from_children(self, level: int, shard: Ints) -> Pixels:
        parent = ParentShard(self.spec, level, shard)
        for child in self.spec.children(level, shard):
            parent.place(child, self.spec.reduced(self.read_shard(level - 1, child)))
        return parent.pixels

    def _put_array_metadata(self) -> None:
        """The arrays' own, and of the group what is not the mark of completeness."""
        groups = {f"{self.prefix}/{name}": data for name, data in ngff.group(self.spec.ngff, {}).items()}
        del groups[f"{self.prefix}/{ngff.MARKS[self.spec.ngff]}"]
        for key, data in {**groups, **array_documents(self.prefix, self.spec)}.items():
            if self._objects.get(key) != data:
                self._objects.put(key, data)


def _is_stale(old: dict[str, Any], new: dict[str, Any], keys: Sequence[str]) -> bool:
    """True if one of these keys of the plan differs: what was made from the old value is worth nothing now."""
    return any(plan_difference(old["plan"].get(key), new["plan"].get(key)) for key in keys)
