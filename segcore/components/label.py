"""Label: the connected pixels of each class of a finished mask -> *the label of its objects*, in two passes.

    1  every cell -> its components, kept beside the plan -> added up over the faces
    2  every cell again -> its pixels by id -> store

Ids are 1, 2, 3... in the order of the objects' first pixels. Both passes go on where a killed call was.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

import segcore
from segcore.components.cells import MAX_THREADS, Cells, Codes, Ids, ahead
from segcore.components.joined import Joined, joined
from segcore.components.parts import Borders, Int64s, Parts, kept
from segcore.errors import ConfigError
from segcore.geometry import Ints
from segcore.measure import num_cores
from segcore.progress import SILENT, Progress
from segcore.scoring.counts import foreground_rows
from segcore.store import (
    Image,
    Label,
    Objects,
    PyramidSpec,
    Staging,
    Workspace,
    instances_name,
    is_instances,
    latest_plan,
)

STAGE = "components"
ENGINE = 1
"""Goes up with every change of this code that can change a pixel."""
STALE_WITH = ("mask",)
"""Objects of a mask that was made anew are made anew too."""


@dataclass(frozen=True)
class Made:
    """What became of one image."""

    shards_written: int
    count: int = 0
    """Objects."""


def make_components(
    ws: Workspace, image_id: str, name: str, overwrite: bool = False, progress: Progress = SILENT
) -> Made:
    """Write the label `<name>_instances` of a finished mask, or go on with it.

    Args:
        ws: where the image and its mask are.
        image_id: of the image.
        name: the mask's.
        overwrite: replace objects that were made otherwise, and make lost shards again.
        progress: hears of cells, each twice.

    Raises:
        SegcoreError: if the mask is not finished, or objects of another kind stand there.
    """
    if is_instances(name):
        raise ConfigError(f"{name}: these are objects already")
    image, mask = ws.image(image_id), ws.label(image_id, name)
    spec = object_spec(mask_spec(ws, image_id, name))
    cells = Cells(mask, spec.shard_px)
    plan = {"stage": STAGE, "engine": ENGINE, "mask": {"name": name, "digest": mask.digest}}
    own = instances_name(name)
    with Staging.begin(ws, image_id, own, plan, spec, overwrite=overwrite, supersede=STALE_WITH) as staging:
        prefix = borders_prefix(staging)
        if staging.finished:
            ws.objects.delete_prefix(prefix)  # left by a kill right after the end
            progress.advance(2 * cells.grid.num_cells)
            return Made(0, int(ws.label(image_id, own).attributes["objects"]))
        with ThreadPoolExecutor(min(MAX_THREADS, num_cores()), thread_name_prefix="segcore-objects") as threads:
            try:
                numbering = _Numbering(mask, cells, spec.dtype, ws.objects, prefix)
                numbering.find(threads, progress)
                written = write_cells(staging, cells, numbering.ids, threads, progress)
            finally:
                threads.shutdown(cancel_futures=True)
        staging.finish(_attributes(image, mask, numbering.count, plan))
        ws.objects.delete_prefix(prefix)
    return Made(written, numbering.count)


class _Numbering:
    """The objects of one mask; 8 bytes for each of them are in memory, and some 60 for each part at a face."""

    def __init__(self, mask: Label, cells: Cells, dtype: str, objects: Objects, prefix: str) -> None:
        self._dtype, self._cells, self._objects, self._prefix = dtype, cells, objects, prefix
        self._classes = foreground_rows(mask.classes)
        self._joined: Joined
        self._firsts: Int64s

    @property
    def count(self) -> int:
        return len(self._firsts)

    def find(self, threads: ThreadPoolExecutor, progress: Progress) -> None:
        """Look at all cells."""

        def borders(cell: Ints) -> Borders:
            key = f"{self._prefix}/0/{'.'.join(map(str, cell))}"
            found = kept(self._objects, key, lambda: self._borders(cell))
            progress.advance()
            return found

        grid = self._cells.grid
        self._joined = joined(grid, ahead(threads, borders, grid.indices()), self._cells.axes)
        self._firsts = np.sort(np.concatenate([self._joined.first, self._joined.whole]))

    def ids(self, cell: Ints) -> Ids:
        """The pixels of a cell by object."""
        _, parts, first = self._parts(cell)
        at = np.flatnonzero(parts.on_face)
        first[at] = self._joined.first[self._joined.owners(cell, len(at))]
        ids = np.zeros(len(first) + 1, self._dtype)
        ids[1:] = 1 + np.searchsorted(self._firsts, first)
        return ids[parts.labels]

    def _parts(self, cell: Ints) -> tuple[Codes, Parts, Int64s]:
        codes = self._cells.coder.read(self._cells.window(cell))
        parts = Parts.find(codes, self._classes, self._cells.axes)
        return codes, parts, parts.firsts(self._cells.places(cell))

    def _borders(self, cell: Ints) -> Borders:
        codes, parts, first = self._parts(cell)
        return parts.borders(codes, first, np.zeros((len(first), 0), np.int64), first[~parts.on_face])


def write_cells(
    staging: Staging, cells: Cells, ids_of: Callable[[Ints], Ids], threads: ThreadPoolExecutor, progress: Progress
) -> int:
    """Write the shards that are left; how many.

    Args:
        staging: where they go.
        cells: of the array.
        ids_of: gives the pixels of a cell, from any thread.
        threads: in which it is asked.
        progress: hears of every cell.
    """
    num_written = num_cells = 0
    for window in cells.windows(staging):
        writer, left = staging.writer(window), cells.left(staging, window)
        for cell, ids in zip(left, ahead(threads, ids_of, left), strict=True):
            place = cells.window(cell)
            for shard in staging.pending(place):
                writer.put(shard, ids[staging.shard_window(shard).relative_to(place.start).slices])
                num_written += 1
            num_cells += 1
            progress.advance()
    progress.advance(cells.grid.num_cells - num_cells)
    return num_written


def borders_prefix(staging: Staging) -> str:
    """Where the borders of cells are kept until the label is complete."""
    return f"{staging.state.prefix}/fragments"


def mask_spec(ws: Workspace, image_id: str, name: str) -> PyramidSpec:
    """How a finished mask is stored."""
    state = latest_plan(ws.objects, image_id, name)
    assert state is not None, f"mask {name} of image {image_id} has no plan"
    return PyramidSpec.model_validate(state.load()["storage"])


def object_spec(mask: PyramidSpec) -> PyramidSpec:
    """Stored as the mask is; uint32 where there cannot be more objects than it counts."""
    num_px = int(np.prod(mask.shape, dtype=np.int64))
    return mask.model_copy(update={"kind": "instances", "dtype": "uint32" if num_px < 2**32 else "uint64", "fill": 0.0})


def _attributes(image: Image, mask: Label, count: int, plan: dict[str, Any]) -> dict[str, Any]:
    """What the finished label says of itself, under the key `segcore`."""
    return {
        **image.handed_on(plan),
        **inherited(mask),
        "mask": mask.name,
        "mask_digest": mask.digest,
        "objects": count,
        "code_version": segcore.__version__,
    }


def inherited(mask: Label) -> dict[str, Any]:
    """What a label that is made of a mask takes over from it: who made that, and what it saw."""
    return {key: mask.attributes[key] for key in ("model", "ensemble", "predict", "config") if key in mask.attributes}
