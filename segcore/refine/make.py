"""Make: a finished mask and steps -> *the refined mask*, a label like any other, or the rest of it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import segcore
from segcore.components.cells import CELL_PX, CELL_SIDE_PX, MAX_THREADS, Cells
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
BYTES_PER_PX = 24
"""Of a cell that is being worked on."""


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


def memory_mib(steps: Steps, ndim: int) -> int:
    """What refining a mask takes at most, but for the components that reach faces."""
    threads, margin = min(MAX_THREADS, num_cores()), steps.context(ndim)
    read_px = (CELL_SIDE_PX + 2 * max(margin[-2:])) ** 2 if margin else CELL_PX
    return -(-(BYTES_PER_PX * threads * read_px + (KEPT_CELLS + MAX_THREADS) * CELL_PX) // MIB)


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
