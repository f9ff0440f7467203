"""Make: a finished mask and steps -> *the refined mask*, a label like any other, or the rest of it."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import segcore
from segcore.components.cells import MAX_THREADS, Cells
from segcore.components.label import Made, borders_prefix, inherited, mask_spec, write_cells
from segcore.measure import MIB, num_cores
from segcore.progress import SILENT, Progress
from segcore.refine.steps import Steps
from segcore.refine.work import KEPT_CELLS, Refining
from segcore.store import Image, Label, Staging, Workspace

ENGINE = 1
"""Goes up with every change of this code that can change a pixel."""
STALE_WITH = ("mask",)
"""A mask that was made anew is refined anew."""
BYTES_PER_PX = 28
"""Of a cell that is being worked on."""
ID_BYTES = 4
WRITTEN_AT_ONCE = 4
"""Cells of ids: one as it is made, as it is encoded, and as it goes into the coarser levels."""
LIBRARIES_MIB = 110
"""Of Python and what it has loaded."""


def make_refined(
    ws: Workspace,
    image_id: str,
    name: str,
    own: str,
    steps: Steps,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Made:
    """Write the refined mask, or go on with it.

    Args:
        ws: where the image and its mask are.
        image_id: of the image.
        name: of the mask.
        own: of the refined one.
        steps: what is done.
        overwrite: replace what was refined otherwise, and make lost shards again.
        progress: hears of cells.

    Raises:
        SegcoreError: if the mask is not finished, or one that was refined otherwise stands there.
    """
    image, mask = ws.image(image_id), ws.label(image_id, name)
    spec, plan = mask_spec(ws, image_id, name), plan_of(mask, steps)
    cells = Cells(mask, spec.shard_px)
    with Staging.begin(ws, image_id, own, plan, spec, overwrite=overwrite, supersede=STALE_WITH) as staging:
        prefix = borders_prefix(staging)
        refining = Refining(cells, steps, ws.objects, prefix)
        if staging.finished:
            ws.objects.delete_prefix(prefix)  # left by a kill right after the end
            progress.advance(steps.num_passes(cells.coder) * cells.grid.num_cells)
            return Made(0)
        with ThreadPoolExecutor(min(MAX_THREADS, num_cores()), thread_name_prefix="segcore-refine") as threads:
            try:
                refining.settle(threads, progress)
                written = write_cells(staging, cells, refining.ids, threads, progress)
            finally:
                threads.shutdown(cancel_futures=True)
        staging.finish(_attributes(image, mask, steps, plan), mask.classes)
        ws.objects.delete_prefix(prefix)
    return Made(written)


def plan_of(mask: Label, steps: Steps) -> dict[str, Any]:
    """What is frozen in `plan.json`."""
    made_of = {"name": mask.name, "digest": mask.digest}
    return {"stage": "refine", "engine": ENGINE, "mask": made_of, "steps": steps.model_dump(mode="json")}


def memory_mib(cells: Cells, steps: Steps, objects: bool) -> int:
    """What refining a mask takes at most, but for the components that reach faces (`joined`), and 8 bytes an object.

    Args:
        cells: of the mask.
        steps: what is done.
        objects: whether its objects are made too.
    """
    threads = min(MAX_THREADS, num_cores())
    cell = [min(side, n) for side, n in zip(cells.grid.cell, cells.shape, strict=True)]
    margin = steps.context(len(cell))
    read_px = math.prod(min(side + 2 * m, n) for side, m, n in zip(cell, margin, cells.shape, strict=True))
    waiting = (KEPT_CELLS + MAX_THREADS) * cells.coder.dtype.itemsize
    waiting += (MAX_THREADS + WRITTEN_AT_ONCE) * ID_BYTES if objects else 0
    return LIBRARIES_MIB - (-(BYTES_PER_PX * threads * read_px + waiting * math.prod(cell)) // MIB)


def _attributes(image: Image, mask: Label, steps: Steps, plan: dict[str, Any]) -> dict[str, Any]:
    """What the finished mask says of itself, under the key `segcore`."""
    return {
        **image.handed_on(plan),
        **inherited(mask),
        "mask": mask.name,
        "mask_digest": mask.digest,
        "refine": steps.model_dump(mode="json"),
        "code_version": segcore.__version__,
    }
