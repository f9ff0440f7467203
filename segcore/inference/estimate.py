"""Estimate: what predict would do, in tiles, shards, bytes, memory and time; nothing is written."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from segcore.errors import SegcoreError
from segcore.geometry import Window
from segcore.inference.contract import check_contract
from segcore.inference.crop import MIN_PIECE_PX
from segcore.inference.gaussian import planes_together
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.inference.numerics import Network
from segcore.inference.pipeline import SHARDS_WAITING
from segcore.inference.plan import mask_spec
from segcore.inference.precision import calibration_tiles, timed_ids
from segcore.inference.run import share_of_all, shares
from segcore.inference.search import Reason, Search, scope_of, screen_name
from segcore.inference.tiling import Tiling
from segcore.measure import MIB, Peak, tree_bytes
from segcore.results import ItemResult
from segcore.selection import is_stale
from segcore.store import Workspace


def estimate(ws: Workspace, job: Job, image_ids: tuple[str, ...]) -> tuple[tuple[ItemResult, ...], dict[str, Any]]:
    """The items that predict would return, with what each would cost, and the sums.

    The time is that of a few tiles of the first image. What is skipped is what coarse maps tell; a `valid` label, and a
    screen that has not run yet, may add to it.
    """
    cost: _Cost | None = None
    items = []
    for image_id in dict.fromkeys(image_ids):
        try:
            image = ws.image(image_id)
            grid = check_contract(job.package.contract, image, job.config.spacing_tolerance).grid
            tiling = job.tiling(grid)
            cost = cost or _Cost(job, grid, tiling)
            complete = job.name in ws.label_names(image_id) and not is_stale(image, ws.label(image_id, job.name))
            skipped = None if complete else _skipped(job, tiling, _search(ws, job, grid))
        except SegcoreError as error:
            items.append(ItemResult(state="failed", image=image_id, error=str(error)))
            continue
        details = _details(job, grid, tiling, cost, skipped)
        items.append(ItemResult(state="skipped", source=image.source, image=image_id, details=details))
    sums = {
        key: sum(item.details.get(key, 0) for item in items)
        for key in ("tiles", "shards", "read_bytes", "write_bytes", "expected_s")
    }
    sums |= share_of_all([item.details for item in items])
    memory_mib = max((item.details.get("memory_mib", 0) for item in items), default=0)
    return tuple(items), {"dry_run": True, "precision": job.precision, "memory_mib": memory_mib, **sums}


class _Cost:
    """Seconds and memory of one tile, found by running a few of them on one thread."""

    def __init__(self, job: Job, grid: ModelGrid, tiling: Tiling) -> None:
        tiles = calibration_tiles(grid, tiling, job.package.contract.stretch)
        network = Network(job.package, job.device, job.precision, batch=1)
        before = tree_bytes()
        with Peak(interval_s=0.02) as peak:
            _, seconds = timed_ids(network, tiles, grid.image.nodata)
        num_px = math.prod(tiling.read)
        self.base_bytes = before
        self.s_per_px = seconds / (len(tiles) * num_px)
        on_host = peak.mib * MIB - before if job.device.type == "cpu" else 0
        self.bytes_per_px = max(0.0, on_host / num_px)
        if job.device.type == "cuda":
            torch.cuda.synchronize()


def _search(ws: Workspace, job: Job, grid: ModelGrid) -> Search:
    """Where predict will look, as far as that is known: not by a screen that has not run."""
    if job.config.screen is not None and not ws.is_complete(grid.image.image_id, screen_name(job)):
        job = replace(job, config=job.config.model_copy(update={"screen": None}))
    return scope_of(ws, job, grid).search()


def _skipped(job: Job, tiling: Tiling, search: Search) -> Counter[Reason]:
    """The number of tiles that will not be inferred, by the reason."""
    found: Counter[Reason] = Counter()
    if not search.maps:
        return found
    for tile in tiling.tiles(Window.whole(tiling.shape)):
        reason = search.why_not(tile.write)
        if reason is not None and not (job.blend == "gaussian" and search.looks_in(tile.read, tiling)):
            found[reason] += 1
    return found


def _details(job: Job, grid: ModelGrid, tiling: Tiling, cost: _Cost, skipped: Counter[Reason] | None) -> dict[str, Any]:
    """What an image would cost; `skipped` is None where its mask is complete."""
    image, spec = grid.image, mask_spec(job, grid)
    if skipped is None:
        return {"complete": True, "tiles": 0, "shards": 0, "read_bytes": 0, "write_bytes": 0, "expected_s": 0.0}
    tiles = tiling.num_tiles
    inferred = tiles - skipped.total()
    tile_px = math.prod(tiling.read)
    item_bytes = image.dtype.itemsize * image.shape()[image.axes.index("c")]
    side = job.config.shard_px
    if job.blend == "gaussian":
        depth = min(planes_together(tiling, len(job.package.classes), 4 * side), math.prod(tiling.shape[:-2]))
        width, height = min(4 * side, tiling.shape[-1]), tiling.read[-2]
        sums = depth * height * width * 4 * len(job.package.classes)
    else:
        depth, width, sums = math.prod(tiling.core[:-2]), min(side, tiling.shape[-1]), 0
        height = max(tiling.core[-2], min(MIN_PIECE_PX, tiling.shape[-2])) + 2 * tiling.halo[-2]
    read = (depth + 2 * sum(tiling.halo[:-2])) * height * (width + 2 * tiling.halo[-1]) * item_bytes
    in_flight = (job.tile_workers + 2) * read + sums + (SHARDS_WAITING + 4) * depth * side * side
    memory = cost.base_bytes + in_flight + job.tile_workers * job.batch * tile_px * cost.bytes_per_px
    return {
        "level": grid.level,
        **({"step": list(grid.step)} if grid.is_resampled else {}),
        "tiles": tiles,
        **shares(tiles, skipped),
        "shards": spec.grid(0).num_cells,
        "read_bytes": inferred * tile_px * item_bytes,
        "write_bytes": sum(math.prod(shape) for shape in spec.levels) * (1 if job.dtype == "uint8" else 2),
        "memory_mib": round(memory / MIB),
        "expected_s": round(inferred * tile_px * cost.s_per_px / job.tile_workers, 1),
    }
