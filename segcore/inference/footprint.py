"""Footprint: the most memory that predict takes for an image: the model loaded, and all that is under way at once.

pieces that are read  +  tiles in the network  +  sums of a strip (gaussian)  +  shards under way, of all levels
"""

import math

import numpy as np

from segcore.inference.adapt import sample_px
from segcore.inference.crop import MIN_PIECE_PX
from segcore.inference.gaussian import summed_together
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.inference.night import rows_of, threads_of
from segcore.inference.objects import rule_of
from segcore.inference.pipeline import SHARDS_WAITING
from segcore.inference.plan import mask_spec
from segcore.inference.prepared import DTYPES
from segcore.inference.rehearsal import Cost
from segcore.inference.tiling import Tiling
from segcore.instances.make import working_bytes
from segcore.store import UNIT_SHARDS

WRITTEN_AT_ONCE = 4
"""Times its own size that a shard takes while it is written: compressed, halved, and the next that waits for it."""
SLACK_BYTES = 88 << 20
"""Of threads, of objects on their way to the store, of what two runs differ by: 60 MiB on a busy machine."""
PIECE_COPIES = 2
"""Of the pixels of a piece: as they are decoded, and mirrored at the border, resampled or stretched."""
FRAGMENTED = 1.15
"""Times what pieces and shards take: some of what was freed lies in holes too small for the next. What tiles take is
measured with theirs, but for the largest: glibc before 2.38 does not use the room of an aligned block for another of
its size, so that the logits of a tile count twice."""


def memory_bytes(job: Job, cost: Cost, grid: ModelGrid, tiling: Tiling) -> int:
    """An upper bound of the summed PSS of this process and its children.

    Args:
        job: what is done.
        cost: of the tiles.
        grid: the image.
        tiling: its tiles.
    """
    spec, threads, num_classes = mask_spec(job, grid), threads_of(job), job.package.num_logits
    side_px, planes, wide = spec.shard_px, tiling.core[0] if len(tiling.core) > 2 else 1, 1
    rows = max(tiling.core[-2], min(rows_of(job, grid) or MIN_PIECE_PX, tiling.shape[-2])) + 2 * tiling.halo[-2]
    sums = 0
    if grid.is_resampled:
        wide = UNIT_SHARDS  # rows of tiles lie across all shards of a work unit
    if job.blend == "gaussian":
        planes, wide = summed_together(tiling, num_classes, side_px)
        planes, rows = min(planes, math.prod(spec.shape[:-2])), tiling.read[-2]
        sums = 4 * num_classes * planes * rows * min(wide * side_px, tiling.shape[-1])
    columns = min(wide * side_px, tiling.shape[-1]) + 2 * tiling.halo[-1]
    image = grid.image
    pixel_bytes = image.shape()[image.axes.index("c")] * image.dtype.itemsize
    pieces = threads.slots * (planes + 2 * sum(tiling.halo[:-2])) * rows * columns * pixel_bytes
    sides = [[min(side_px, n) for n in shape[-2:]] for shape in spec.levels]
    coarser_px = sum(map(math.prod, sides[1:]))  # one shard of each level is being filled
    shards_px = (planes * (wide + 1 + SHARDS_WAITING) + WRITTEN_AT_ONCE) * math.prod(sides[0]) + coarser_px
    batch_px = math.prod(tiling.read) * job.batch
    logits = 4 * num_classes * batch_px
    tiles = round(cost.tiles_bytes * max(1.0, batch_px / cost.batch_px))  # another image may have had smaller ones
    on_cpu = threads.tile_workers * logits + sums if job.device.type == "cpu" else 0
    under_way = round(FRAGMENTED * (PIECE_COPIES * pieces + shards_px * _answer_bytes(job)))
    sample = round(max(0.0, _sample_batches(job, grid, batch_px) - 1) * tiles / threads.tile_workers)
    masks = tiles + sample + on_cpu + under_way + threads.slots * _weight_bytes(job)
    rule = rule_of(job, grid)
    objects = 0 if rule is None else working_bytes(spec.shape, side_px, rule)  # after the masks
    return cost.base_bytes + SLACK_BYTES + max(masks, objects)


def _sample_batches(job: Job, grid: ModelGrid, batch_px: int) -> float:
    """How many times as much as a batch of tiles the sample takes that models are adapted by: float32, all at once."""
    if not job.adapts:
        return 0.0
    contract = job.package.contract
    sample_bytes = sample_px(grid.shape, contract.strides, contract.tile_planes) * DTYPES["float32"].itemsize
    return sample_bytes / (batch_px * DTYPES[job.precision].itemsize)


def _weight_bytes(job: Job) -> int:
    """Of a copy of the models' weights for an image, where they are adapted to it."""
    return sum(len(package.weights) for package in (job.package, *job.recipe.ensemble) if package.adapts)


def _answer_bytes(job: Job) -> int:
    """Of a pixel of the mask, with its layers."""
    decision = job.recipe.decision
    channels = sum(map(decision.num_channels, decision.layers))
    return np.dtype(job.dtype).itemsize + channels * np.dtype(decision.layer_dtype).itemsize
