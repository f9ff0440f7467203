"""Estimate: what predict would do, in tiles, shards, bytes, memory and time; nothing is written.

image --begin, without writing--> run --count--> tiles and bytes that are left --times the cost of each--> time
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from segcore.errors import StoreError, worded
from segcore.geometry import Ints, Tile, Window
from segcore.inference.adapt import sample_px
from segcore.inference.batch import Batches
from segcore.inference.begin import begin
from segcore.inference.contract import check_contract
from segcore.inference.crop import laid_out
from segcore.inference.footprint import memory_bytes
from segcore.inference.gaussian import GaussianUnit
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.inference.night import networks_of
from segcore.inference.objects import rule_of
from segcore.inference.plan import mask_spec
from segcore.inference.rehearsal import Cost, rehearse
from segcore.inference.run import MaskRun, share_of_all, shares
from segcore.inference.search import Reason, screen_name
from segcore.inference.tiling import Tiling
from segcore.instances.make import objects_spec
from segcore.measure import MIB, num_cores, tree_bytes
from segcore.results import STATED, ItemResult
from segcore.selection import is_of_earlier
from segcore.store import Staging, Workspace, instances_name


@dataclass
class _Left:
    """What is left to do of one image."""

    grid: ModelGrid
    tiling: Tiling
    cpu_s: float = 0.0
    """CPU time of finding out, which predict spends too."""
    shards: int = 0
    tiles: int = 0
    skipped: Counter[Reason] = field(default_factory=Counter)
    inferred_px: int = 0
    """Of the read windows of all tiles that are not skipped."""
    sample_px: int = 0
    """Of a network that is adapted to the image."""
    write_bytes: int = 0
    """Of mask and layers, all levels, before compression."""
    object_bytes: int = 0
    """Of the ids of objects, likewise."""


def estimate(
    ws: Workspace, job: Job, image_ids: tuple[str, ...], refused: Mapping[str | None, str], settled_s: float
) -> tuple[tuple[ItemResult, ...], dict[str, Any]]:
    """The items that predict would return, with what is left of each and what it costs, and the sums.

    Costs are those of a few tiles and a shard of the image with most to do. What is skipped is what coarse maps tell: a
    `valid` label, and a screen that has not run yet, may add to it. The ids of objects are counted, the time to make
    them is not.

    Args:
        ws: where the images are.
        job: what would be done to them.
        image_ids: which ones.
        refused: by id, why an image cannot be done.
        settled_s: CPU time of settling the job, which predict spends too.
    """
    networks = networks_of(job)
    batches = Batches(networks[0], job.package.contract)
    settled_bytes = tree_bytes()  # what is freed is kept (`allocator`): the most that it took
    found: dict[str, _Left | Exception] = {}
    for image_id in dict.fromkeys(image_ids):
        try:
            if image_id in refused:
                raise StoreError(refused[image_id])
            found[image_id] = _left(ws, job, image_id, batches)
        except Exception as error:  # noqa: BLE001 - one bad image never stops the others; it is reported
            found[image_id] = error
    cost = _cost(found, lambda grid: rehearse(job, grid, networks, batches))
    items = tuple(_item(job, cost, image_id, left) for image_id, left in found.items())
    details = [item.details for item in items]
    sums = {key: sum(each.get(key, 0) for each in details) for key in STATED}
    sums |= {key: round(sums[key] + settled_s, 2) for key in ("expected_cpu_s", "expected_s")}
    sums["memory_mib"] = max(round(settled_bytes / MIB), *(each.get("memory_mib", 0) for each in details))
    return items, {"dry_run": True, "precision": job.precision, **sums, **share_of_all(details)}


def _left(ws: Workspace, job: Job, image_id: str, batches: Batches) -> _Left:
    """What is left of an image.

    Raises:
        SegcoreError: if predict would refuse it.
    """
    began_s = time.process_time()
    grid = check_contract(job.package.contract, ws.image(image_id), job.config.spacing_tolerance).grid
    if job.config.screen is not None and not ws.is_complete(image_id, screen_name(job)):
        # Where it marks something is not known yet; and what stands was not made with it.
        job = replace(job, config=job.config.model_copy(update={"screen": None, "overwrite": True}))
    run = begin(ws, job, grid, batches, opened_by=Staging.peek)
    left = _Left(grid, job.tiling(grid) if run is None else run.tiling)
    if run is not None:
        left.write_bytes = sum(map(_left_bytes, run.stagings))
        for unit, pending in run.units:
            left.shards += len(pending)
            for tile, reason in (_in_strips if job.blend == "gaussian" else _in_rows)(run, unit, pending):
                left.tiles += 1
                if reason is None:
                    left.inferred_px += tile.read.num_px
                else:
                    left.skipped[reason] += 1
    left.object_bytes = _object_bytes(ws, job, grid, is_made=run is None)
    if job.adapts and left.inferred_px:
        contract = job.package.contract
        left.sample_px = sample_px(grid.shape, contract.strides, contract.tile_planes)
    left.cpu_s = time.process_time() - began_s
    return left


def _in_rows(run: MaskRun, unit: Window, pending: list[Ints]) -> Iterator[tuple[Tile, Reason | None]]:
    """`crop`: each tile of a work unit, and why it is not looked at."""
    for _, tiles, _ in laid_out(run, unit, pending):
        for tile in tiles:
            yield tile, run.search.why_not(tile.write)


def _in_strips(run: MaskRun, unit: Window, pending: list[Ints]) -> Iterator[tuple[Tile, Reason | None]]:
    """`gaussian`: the same; tiles of several units come in each of them."""
    strips = GaussianUnit(run, unit, pending)
    for tile in run.tiling.tiles(strips.model_window.expanded(run.tiling.halo)):
        if strips.wants(tile.read):
            is_needed = strips.looks_in(tile.read.intersected(strips.model_window))
            yield tile, None if is_needed else run.search.why_not(tile.write) or "nodata"


def _object_bytes(ws: Workspace, job: Job, grid: ModelGrid, is_made: bool) -> int:
    """Bytes, before compression, of the ids that are not written yet; of all, where any are missing."""
    rule, image_id, name = rule_of(job, grid), grid.image.image_id, instances_name(job.name)
    if rule is None:
        return 0
    is_there = is_made and name in ws.label_names(image_id)
    if is_there and not is_of_earlier(ws.label(image_id, name), ws.label(image_id, job.name)):
        return 0
    spec = objects_spec(mask_spec(job, grid), rule)
    return sum(map(math.prod, spec.levels)) * np.dtype(spec.dtype).itemsize


def _left_bytes(staging: Staging) -> int:
    """Bytes, before compression, of the shards of all levels that are not written yet."""
    spec = staging.spec
    if staging.finished:
        return 0
    px = (
        spec.grid(level).window(shard).num_px
        for level in range(len(spec.levels))
        for shard in spec.grid(level).indices()
        if not staging.is_done(level, shard)
    )
    return sum(px) * np.dtype(spec.dtype).itemsize


def _cost(found: dict[str, _Left | Exception], rehearsed: Callable[[ModelGrid], Cost]) -> Cost | None:
    """By the image with most to do; where that cannot be inferred it has failed, and the next one tells."""
    open_ones = {image_id: left for image_id, left in found.items() if isinstance(left, _Left) and left.shards}
    for image_id in sorted(open_ones, key=lambda image_id: open_ones[image_id].inferred_px, reverse=True):
        try:
            return rehearsed(open_ones[image_id].grid)
        except Exception as error:  # noqa: BLE001 - as above
            found[image_id] = error
    return None


def _item(job: Job, cost: Cost | None, image_id: str, left: _Left | Exception) -> ItemResult:
    """What predict would return for an image, and what it would cost."""
    if isinstance(left, Exception):
        return ItemResult(state="failed", image=image_id, error=worded(left, image_id))
    image, grid = left.grid.image, left.grid
    counted = {"tiles": left.tiles, "shards": left.shards, "write_bytes": left.write_bytes + left.object_bytes}
    if left.shards == 0:
        details: dict[str, Any] = {"complete": left.object_bytes == 0, **counted}
    else:
        assert cost is not None, f"image {image_id} has shards left, but none was rehearsed"
        details = {
            "level": grid.level,
            **({"step": list(grid.step)} if grid.is_resampled else {}),
            **counted,
            **shares(left.tiles, left.skipped),
            "read_bytes": left.inferred_px * image.dtype.itemsize * image.shape()[image.axes.index("c")],
            **_costs(job, cost, left),
            "memory_mib": round(memory_bytes(job, cost, grid, left.tiling) / MIB),
        }
    return ItemResult(state="skipped", source=image.source, image=image_id, details=details)


def _costs(job: Job, cost: Cost, left: _Left) -> dict[str, Any]:
    """Time and disk."""
    skipped = left.skipped.total() / max(1, left.tiles)
    network_px = left.inferred_px + left.sample_px
    tiles_s = network_px * cost.tile_cpu_s
    write_s = left.write_bytes * ((1 - skipped) * cost.write_cpu_s + skipped * cost.empty_cpu_s)
    cpu_s = left.cpu_s + tiles_s + write_s
    # On a CPU the tile workers keep the cores busy; elsewhere the device decides.
    cores = min(job.tile_workers, num_cores())
    wall_s = cpu_s / cores if job.device.type == "cpu" else left.cpu_s + max(network_px * cost.tile_s, write_s)
    return {
        "disk_bytes": round((1 - skipped) * (left.write_bytes + left.object_bytes) * cost.stored_share),
        "expected_cpu_s": round(cpu_s, 2),
        "expected_s": round(wall_s, 2),
    }
