"""Make: a finished mask and its layer `depth` -> *the label of its objects*, in two passes over its shards.

    1  every shard with its context -> its fragments, kept beside the plan until the label is complete
       all fragments -> which of them are one object, and its id
    2  every shard again -> its pixels by id -> store

Both passes go on where a killed call was, and no pixel depends on shards, threads or their order.
"""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import segcore
from segcore.components.cells import MAX_THREADS, ahead
from segcore.components.label import inherited
from segcore.geometry import Ints, Window
from segcore.instances.grow import Fragments, Int64s, Labels
from segcore.instances.helper import Part, opened_threads
from segcore.instances.rule import Rule
from segcore.instances.shards import Shards, Source
from segcore.instances.stitch import Numbering, stitched
from segcore.isolation import Beat, ByName, Crew, Task
from segcore.measure import num_cores
from segcore.progress import SILENT, Progress, Silent
from segcore.store import PyramidSpec, Staging, Workspace, instances_name, latest_plan, plan_digest

FIND, WRITE = (ByName("segcore.instances.helper", name) for name in ("find", "write"))
ENGINE = 1
"""Goes up with every change of this code that can change a pixel."""
STALE_WITH = ("mask",)
"""Objects of a mask that was made anew are made anew too."""
BYTES_PER_PX = 40
"""Of a window that is being worked on."""
WRITTEN_AT_ONCE = 4
"""Shards of ids: one as it is made, as it is encoded, and as it goes into the coarser levels."""
KEPT_SHARDS = 8
"""The first shards, whose pixels of the first pass wait for the second one: all of a small image."""


@dataclass(frozen=True)
class Made:
    """What became of one image."""

    count: int
    """Objects."""
    shards_written: int


def make_objects(
    ws: Workspace,
    image_id: str,
    name: str,
    rule: Rule,
    overwrite: bool = False,
    progress: Progress = SILENT,
    crew: Crew | None = None,
) -> Made:
    """Write the label `<name>_instances` of a finished mask, or go on with it.

    Args:
        ws: where the image, its mask and the mask's depth are.
        image_id: of the image.
        name: the mask's.
        rule: what decides, in pixels of the mask.
        overwrite: replace what was made by another rule, and make lost shards again.
        progress: hears of shards, each twice.
        crew: processes that do both passes, a work unit at a time; by default threads of this one do.

    Raises:
        SegcoreError: if mask or depth are not finished, or objects of another rule stand there.
    """
    source = Source(ws, image_id, name, rule)
    plan = {
        "stage": "instances",
        "engine": ENGINE,
        "mask": {
            "name": name,
            "digest": source.mask.digest,
            "depth": {"digest": plan_digest(source.layer.attributes["predict"]), "dtype": source.layer.dtype.name},
        },
        **rule.frozen(),
    }
    own, spec = instances_name(name), objects_spec(label_spec(ws, image_id, name), rule)
    with Staging.begin(ws, image_id, own, plan, spec, overwrite=overwrite, supersede=STALE_WITH) as staging:
        if staging.finished:
            Shards(source, staging).forget()  # left by a kill right after the end
            progress.advance(2 * spec.num_shards)
            return Made(int(ws.label(image_id, own).attributes["objects"]), 0)
        with opened_threads() as threads:
            return _Work(Shards(source, staging), threads, progress, crew).run()


def working_bytes(shape: Ints, shard_px: int, rule: Rule) -> int:
    """What making the objects of a mask takes at most, but for what each object takes (`stitch.Numbering`)."""
    threads = min(MAX_THREADS, num_cores())
    sides = [min(shard_px, n) for n in shape[-2:]]
    read_px = math.prod(min(n, side + 2 * rule.context_px) for n, side in zip(shape[-2:], sides, strict=True))
    waiting = KEPT_SHARDS + MAX_THREADS + WRITTEN_AT_ONCE
    return BYTES_PER_PX * threads * read_px + waiting * 4 * math.prod(sides)


class _Beats(Silent):
    """Each shard is a sign of life."""

    def __init__(self, beat: Beat) -> None:
        self._beat = beat

    def advance(self, amount: int = 1) -> None:
        self._beat()


def make_whole(beat: Beat, uri: str, image_id: str, name: str, rule: Rule, overwrite: bool) -> Made:
    """`make_objects` in a process that helps, of a workspace at `uri`; safe to repeat."""
    return make_objects(Workspace.open(uri), image_id, name, rule, overwrite, _Beats(beat))


def label_spec(ws: Workspace, image_id: str, name: str) -> PyramidSpec:
    """How a mask is stored."""
    state = latest_plan(ws.objects, image_id, name)
    assert state is not None, f"mask {name} of image {image_id} has no plan"
    return PyramidSpec.model_validate(state.load()["storage"])


def objects_spec(mask: PyramidSpec, rule: Rule) -> PyramidSpec:
    """Stored as the mask is; uint32 where there cannot be more objects than it counts."""
    dtype = object_dtype(Window.whole(mask.shape).num_px, rule.min_px)
    return mask.model_copy(update={"kind": "instances", "dtype": dtype, "fill": 0.0})


def object_dtype(num_px: int, min_px: int) -> str:
    """The type of ids that suffices for an array of so many pixels, whose objects have `min_px` or more."""
    return "uint32" if num_px // min_px < 2**32 else "uint64"


class _Work:
    """One call for one image."""

    def __init__(self, shards: Shards, threads: ThreadPoolExecutor, progress: Progress, crew: Crew | None) -> None:
        self._shards, self._threads, self._progress, self._crew = shards, threads, progress, crew
        self._staging, self._source = shards.staging, shards.source
        self._early: dict[Ints, tuple[Labels, Int64s]] = {}

    def run(self) -> Made:
        staging, shards = self._staging, list(self._staging.spec.grid(0).indices())
        if self._crew is None:
            fragments = ahead(self._threads, partial(self._told, early=frozenset(shards[:KEPT_SHARDS])), shards)
        else:
            self._find(self._crew, len(shards))
            fragments = ahead(self._threads, self._fragments, shards)
        found = stitched(zip(shards, fragments, strict=True), self._source.rule.min_px)
        self._progress.advance(len(shards) - len(staging.pending(Window.whole(staging.spec.shape))))
        num_written = self._write(found) if self._crew is None else self._have_written(self._crew, found)
        staging.finish(_attributes(self._source, found.count, staging.state.load()["plan"]))
        self._shards.forget()
        return Made(found.count, num_written)

    def _write(self, found: Numbering) -> int:
        """The second pass in this process; how many shards."""
        staging, num_written = self._staging, 0
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

    def _told(self, shard: Ints, early: frozenset[Ints]) -> Fragments:
        found = self._fragments(shard, early)
        self._progress.advance()
        return found

    def _fragments(self, shard: Ints, early: frozenset[Ints] = frozenset()) -> Fragments:
        """Those that an earlier call kept, or else new ones."""
        found = self._shards.known(shard)
        if found is None:
            labels, found = self._shards.make(shard)
            if shard in early:
                self._early[shard] = labels, found.first
            self._shards.keep(shard, found)
        return found

    def _find(self, crew: Crew, num_shards: int) -> None:
        """The first pass, by others."""
        unknown = self._shards.unknown()
        self._progress.advance(num_shards - len(unknown))
        spec = self._staging.spec
        units = map(spec.units.window, spec.units.indices())
        parts = ((unit, unknown.intersection(spec.grid(0).touching(unit))) for unit in units)
        self._have_done(
            crew, (Task(FIND, (self._part(unit, shards),), self._label) for unit, shards in parts if shards)
        )

    def _have_written(self, crew: Crew, found: Numbering) -> int:
        """The second pass, by others; how many shards."""
        staging = self._staging

        def tasks() -> Iterator[Task]:
            for unit in staging.windows():
                shards = staging.pending(unit)
                firsts = {shard: self._fragments(shard).first for shard in shards}
                ids = {shard: found.ids(first, staging.spec.dtype) for shard, first in firsts.items()}
                if shards:
                    self._shards.keep_ids(unit, ids)
                    yield Task(WRITE, (self._part(unit, shards),), self._label)

        return self._have_done(crew, tasks())

    def _have_done(self, crew: Crew, tasks: Iterable[Task]) -> int:
        """How many shards.

        Raises:
            SegcoreError: what failed.
        """
        count = 0
        for outcome in crew.run(tasks):
            if outcome.error is not None:
                raise outcome.error
            (part,) = outcome.task.args
            self._progress.advance(len(part.shards))
            count += len(part.shards)
        return count

    @property
    def _label(self) -> str:
        return f"image {self._source.image.image_id}"

    def _part(self, unit: Window, shards: Iterable[Ints]) -> Part:
        state, source = self._staging.state, self._source
        where = self._staging.workspace.uri, source.image.image_id, source.mask.name
        return Part(*where, source.rule, plan_digest(state.load()), unit, tuple(sorted(shards)))


def _attributes(source: Source, count: int, plan: dict[str, Any]) -> dict[str, Any]:
    """What the finished label says of itself, under the key `segcore`."""
    image, mask = source.image, source.mask
    return {
        **image.handed_on(plan),
        **inherited(mask),
        "mask": mask.name,
        "mask_digest": mask.digest,
        "objects": count,
        "rule": source.rule.model_dump(),
        "code_version": segcore.__version__,
    }
