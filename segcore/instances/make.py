"""Make: a finished mask and its layer `depth` -> *the label of its objects*, in two passes over its shards.

    1  every shard with its context -> its fragments, kept beside the plan until the label is complete
       all fragments -> which of them are one object, and its id
    2  every shard again -> its pixels by id -> store

Both passes go on where a killed call was, and no pixel depends on shards, threads or their order.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import segcore
from segcore.components.cells import MAX_THREADS, ahead
from segcore.components.label import inherited
from segcore.geometry import Ints, Window
from segcore.instances.grow import Bools, Bytes, Fragments, Int64s, Labels, fragments_of
from segcore.instances.rule import Rule
from segcore.instances.stitch import packed, stitched, unpacked
from segcore.measure import num_cores
from segcore.progress import SILENT, Progress
from segcore.scoring.counts import foreground_rows
from segcore.store import PyramidSpec, Staging, Workspace, instances_name, latest_plan, plan_digest

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
) -> Made:
    """Write the label `<name>_instances` of a finished mask, or go on with it.

    Args:
        ws: where the image, its mask and the mask's depth are.
        image_id: of the image.
        name: the mask's.
        rule: what decides, in pixels of the mask.
        overwrite: replace what was made by another rule, and make lost shards again.
        progress: hears of shards, each twice.

    Raises:
        SegcoreError: if mask or depth are not finished, or objects of another rule stand there.
    """
    source = _Source(ws, image_id, name, rule)
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
    own, spec = instances_name(name), _spec(ws, image_id, name, rule)
    with Staging.begin(ws, image_id, own, plan, spec, overwrite=overwrite, supersede=STALE_WITH) as staging:
        if staging.finished:
            ws.objects.delete_prefix(_kept(staging))  # left by a kill right after the end
            progress.advance(2 * spec.num_shards)
            return Made(int(ws.label(image_id, own).attributes["objects"]), 0)
        with ThreadPoolExecutor(min(MAX_THREADS, num_cores()), thread_name_prefix="segcore-objects") as threads:
            try:
                return _Work(source, staging, threads, progress).run()
            finally:
                threads.shutdown(cancel_futures=True)


def working_bytes(shape: Ints, shard_px: int, rule: Rule) -> int:
    """What making the objects of a mask takes at most, but for what each object takes (`stitch.Numbering`)."""
    threads = min(MAX_THREADS, num_cores())
    sides = [min(shard_px, n) for n in shape[-2:]]
    read_px = math.prod(min(n, side + 2 * rule.context_px) for n, side in zip(shape[-2:], sides, strict=True))
    waiting = KEPT_SHARDS + MAX_THREADS + WRITTEN_AT_ONCE
    return BYTES_PER_PX * threads * read_px + waiting * 4 * math.prod(sides)


def _spec(ws: Workspace, image_id: str, name: str, rule: Rule) -> PyramidSpec:
    state = latest_plan(ws.objects, image_id, name)
    assert state is not None, f"mask {name} of image {image_id} has no plan"
    return objects_spec(PyramidSpec.model_validate(state.load()["storage"]), rule)


def objects_spec(mask: PyramidSpec, rule: Rule) -> PyramidSpec:
    """Stored as the mask is; uint32 where there cannot be more objects than it counts."""
    dtype = object_dtype(Window.whole(mask.shape).num_px, rule.min_px)
    return mask.model_copy(update={"kind": "instances", "dtype": dtype, "fill": 0.0})


def object_dtype(num_px: int, min_px: int) -> str:
    """The type of ids that suffices for an array of so many pixels, whose objects have `min_px` or more."""
    return "uint32" if num_px // min_px < 2**32 else "uint64"


def _kept(staging: Staging) -> str:
    """Where the fragments of a plan lie until its label is complete."""
    return f"{staging.state.prefix}/fragments"


class _Source:
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


class _Work:
    """One call for one image."""

    def __init__(self, source: _Source, staging: Staging, threads: ThreadPoolExecutor, progress: Progress) -> None:
        self._source, self._staging, self._threads, self._progress = source, staging, threads, progress
        self._objects = staging.workspace.objects
        self._kept = _kept(staging)
        self._early: dict[Ints, tuple[Labels, Int64s]] = {}

    def run(self) -> Made:
        staging, shards = self._staging, list(self._staging.spec.grid(0).indices())
        fragments = ahead(self._threads, partial(self._fragments, early=frozenset(shards[:KEPT_SHARDS])), shards)
        found = stitched(zip(shards, fragments, strict=True), self._source.rule.min_px)
        self._progress.advance(len(shards) - len(staging.pending(Window.whole(staging.spec.shape))))
        num_written = 0
        for window in staging.windows():
            writer, pending = staging.writer(window), staging.pending(window)
            for shard, (labels, first) in zip(pending, ahead(self._threads, self._labels, pending), strict=True):
                ids = found.ids(labels, first, staging.spec.dtype)
                writer.put(shard, ids.reshape(staging.shard_window(shard).shape))
                self._progress.advance()
                num_written += 1
        staging.finish(_attributes(self._source, found.count, staging.state.load()["plan"]))
        self._objects.delete_prefix(self._kept)
        return Made(found.count, num_written)

    def _make(self, shard: Ints) -> tuple[Labels, Fragments]:
        return self._source.fragments(self._staging.shard_window(shard))

    def _labels(self, shard: Ints) -> tuple[Labels, Int64s]:
        early = self._early.pop(shard, None)
        if early is not None:
            return early
        labels, found = self._make(shard)
        return labels, found.first

    def _fragments(self, shard: Ints, early: frozenset[Ints]) -> Fragments:
        """Those that an earlier call kept, or else new ones."""
        key = f"{self._kept}/{'.'.join(map(str, shard))}"
        found = unpacked(self._objects.get(key))
        if found is None:
            labels, found = self._make(shard)
            if shard in early:
                self._early[shard] = labels, found.first
            self._objects.put(key, packed(found))
        self._progress.advance()
        return found


def _attributes(source: _Source, count: int, plan: dict[str, Any]) -> dict[str, Any]:
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
