"""Make: a finished mask and its layer `depth` -> *the label of its objects*.

Here is what it is and how it is begun and ended; the work on its shards is that of `passes`, by this process, or of
`lead`, by others.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import segcore
from segcore.components.cells import MAX_THREADS
from segcore.components.label import inherited
from segcore.geometry import Ints, Window
from segcore.instances.passes import KEPT_SHARDS, Passes, opened_threads
from segcore.instances.rule import Rule
from segcore.instances.shards import Shards, Source
from segcore.measure import num_cores
from segcore.progress import SILENT, Progress
from segcore.store import PyramidSpec, Staging, Workspace, instances_name, latest_plan, plan_digest

ENGINE = 1
"""Goes up with every change of this code that can change a pixel."""
STALE_WITH = ("mask",)
"""Objects of a mask that was made anew are made anew too."""
BYTES_PER_PX = 40
"""Of a window that is being worked on."""
WRITTEN_AT_ONCE = 4
"""Shards of ids: one as it is made, as it is encoded, and as it goes into the coarser levels."""


@dataclass(frozen=True)
class Made:
    """What became of one image."""

    count: int
    """Objects."""
    shards_written: int


class Begun:
    """The objects of one mask, begun under their plan and lease; to be closed, finished or not.

    Args:
        ws: where the image, its mask and the mask's depth are.
        image_id: of the image.
        name: the mask's.
        rule: what decides, in pixels of the mask.
        overwrite: replace what was made by another rule, and make lost shards again.

    Raises:
        SegcoreError: if mask or depth are not finished, or objects of another rule stand there.
    """

    def __init__(self, ws: Workspace, image_id: str, name: str, rule: Rule, overwrite: bool = False) -> None:
        self.image_id, source, own = image_id, Source(ws, image_id, name, rule), instances_name(name)
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
        state = latest_plan(ws.objects, image_id, name)
        assert state is not None, f"mask {name} of image {image_id} has no plan"
        spec = objects_spec(PyramidSpec.model_validate(state.load()["storage"]), rule)
        self.staging = Staging.begin(ws, image_id, own, plan, spec, overwrite=overwrite, supersede=STALE_WITH)
        self.num_shards = spec.num_shards
        self.made: Made | None = None
        """What there is, where nothing is left to do."""
        try:
            self.shards = Shards(source, self.staging)
            if self.staging.finished:
                self.shards.forget()  # left by a kill right after the end
                self.made = Made(int(ws.label(image_id, own).attributes["objects"]), 0)
        except BaseException:
            self.close()  # nobody else can
            raise

    def finish(self, count: int, shards_written: int) -> Made:
        """All shards of level 0 are written."""
        self.staging.finish(_attributes(self.shards.source, count, self.staging.state.load()["plan"]))
        self.shards.forget()
        return Made(count, shards_written)

    def close(self) -> None:
        """Give the lease back."""
        self.staging.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_objects(
    ws: Workspace, image_id: str, name: str, rule: Rule, overwrite: bool = False, progress: Progress = SILENT
) -> Made:
    """Write the label `<name>_instances` of a finished mask, or go on with it, by threads of this process.

    Args:
        ws: as of `Begun`, and so are the others.
        image_id: likewise.
        name: likewise.
        rule: likewise.
        overwrite: likewise.
        progress: hears of shards, each twice.

    Raises:
        SegcoreError: if mask or depth are not finished, or objects of another rule stand there.
    """
    with Begun(ws, image_id, name, rule, overwrite) as begun:
        return finished(begun, progress)


def finished(begun: Begun, progress: Progress) -> Made:
    """Make what is left, by threads of this process."""
    if begun.made is not None:
        progress.advance(2 * begun.num_shards)
        return begun.made
    with opened_threads() as threads:
        return begun.finish(*Passes(begun.shards, threads, progress).run())


def working_bytes(shape: Ints, shard_px: int, rule: Rule) -> int:
    """What making the objects of a mask takes at most, but for what each object takes (`stitch.Numbering`)."""
    threads = min(MAX_THREADS, num_cores())
    sides = [min(shard_px, n) for n in shape[-2:]]
    read_px = math.prod(min(n, side + 2 * rule.context_px) for n, side in zip(shape[-2:], sides, strict=True))
    waiting = KEPT_SHARDS + MAX_THREADS + WRITTEN_AT_ONCE
    return BYTES_PER_PX * threads * read_px + waiting * 4 * math.prod(sides)


def objects_spec(mask: PyramidSpec, rule: Rule) -> PyramidSpec:
    """Stored as the mask is; uint32 where there cannot be more objects than it counts."""
    dtype = object_dtype(Window.whole(mask.shape).num_px, rule.min_px)
    return mask.model_copy(update={"kind": "instances", "dtype": dtype, "fill": 0.0})


def object_dtype(num_px: int, min_px: int) -> str:
    """The type of ids that suffices for an array of so many pixels, whose objects have `min_px` or more."""
    return "uint32" if num_px // min_px < 2**32 else "uint64"


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
