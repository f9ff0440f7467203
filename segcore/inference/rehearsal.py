"""Rehearsal: a few pieces of one image through the real pipeline, into a store in memory: what tiles and shards cost.

    rows of tiles around a few places --Pipeline-->  dropped           CPU time per inferred pixel; memory
    one tile's answers, repeated --run.write-->      shards in memory  CPU time per byte written; compression

Nothing of it reaches the workspace. Costs are per pixel and byte, so that they hold for images of other sizes.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from segcore.geometry import Grid, Tile, Window
from segcore.inference.allocator import give_back
from segcore.inference.batch import Batches
from segcore.inference.begin import begin
from segcore.inference.crop import Piece, laid_out
from segcore.inference.decision import MASK, Answers
from segcore.inference.gaussian import GaussianUnit, Strip
from segcore.inference.job import Job
from segcore.inference.model_grid import ModelGrid
from segcore.inference.night import rows_of, threads_of
from segcore.inference.numerics import Network
from segcore.inference.pipeline import Load, Pipeline, Work
from segcore.inference.precision import spread_tiles
from segcore.inference.run import Answered, MaskRun, empty_answers
from segcore.inference.tiling import bounding, first, read_reflected, stacked
from segcore.inference.trial import Diverted
from segcore.measure import MIB, Peak, tree_bytes
from segcore.store import Staging, Workspace

PIECES = 4
"""Rows of tiles that are inferred in one round..."""
DEAREST_S = 8.0
"""...fewer, but two, if so many single tiles took longer than this."""
ROUNDS, ENOUGH_S = 3, 3.0
"""Rounds after a first one that warms up; none after a round that takes longer."""


@dataclass(frozen=True)
class Cost:
    """What a job costs on this machine, as busy as it is now."""

    tile_cpu_s: float
    """CPU time per inferred pixel, halos counted: reading, the model, blending."""
    tile_s: float
    """The same on the clock, with all tile workers at work."""
    write_cpu_s: float
    """CPU time per byte, before compression, of mask and layers and all of their levels."""
    empty_cpu_s: float
    """The same where nothing was looked at."""
    stored_share: float
    """Bytes on disk per such byte."""
    base_bytes: int
    """Memory of this process and its children, with the model loaded."""
    tiles_bytes: int
    """What all tile workers take beside it..."""
    batch_px: int
    """...with so many pixels in each call of the network."""


def rehearse(job: Job, grid: ModelGrid, networks: Sequence[Network], batches: Batches) -> Cost:
    """What a job costs on an image, by a few of its tiles that have usable pixels.

    Args:
        job: what is done.
        grid: the image.
        networks: of the job.
        batches: of the job.

    Raises:
        SegcoreError: if the model cannot take such a tile, which would fail the image in earnest too.
    """
    ws = Workspace.open("memory://segcore-rehearsal", create=True)
    everywhere = {"foreground": "off", "aoi": None, "screen": None, "overwrite": True}
    try:
        run = begin(ws, replace(job, config=job.config.model_copy(update=everywhere)), grid, batches)
        assert run is not None, "a mask that was never begun is not finished"
        with closing(run):
            # Whole tiles first: one that is cut at the border takes less memory.
            tiles = sorted(spread_tiles(grid, run.tiling, PIECES), key=lambda tile: -tile.read.num_px)
            base_bytes, tile_bytes, tile_s = _alone(job, networks[0], run, tiles)
            cpu_s, wall_s = _inferred(job, networks, run, tiles, max(2, min(PIECES, int(DEAREST_S / tile_s))))
            # What is freed is kept (`allocator`): this is the most that there was.
            tiles_bytes = max(job.tile_workers * tile_bytes, tree_bytes() - base_bytes)
            # Of tiles smaller than a chunk several: one, repeated in each chunk, would compress too well.
            chunk_px = max(each.spec.chunk[-1] << each.spec.base_level - grid.level for each in run.stagings)
            seen = tiles if run.tiling.core[-1] < chunk_px else tiles[:1]
            full, share = _written(run, tiles[0], _square([_answered(networks[0], run, tile) for tile in seen]))
            empty, _ = _written(run, tiles[0], None)
        batch_px = run.batch * math.prod(run.tiling.read)
        return Cost(cpu_s, wall_s, full, empty, share, base_bytes, tiles_bytes, batch_px)
    finally:
        ws.objects.delete_prefix("")


def _alone(job: Job, network: Network, run: MaskRun, tiles: Sequence[Tile]) -> tuple[int, int, float]:
    """Memory before one batch and what it adds, and the seconds that it takes, without other tile workers."""
    work = next(_readers(job, run, tiles, 1))()
    with network.tile_worker():
        run.adapted(network)  # once for an image, not for each of its tiles
    give_back()  # what was freed and is kept would hide what a tile takes
    before, began_s = tree_bytes(), time.perf_counter()
    with Peak(interval_s=0.02) as peak, network.tile_worker():
        if work.tiles:
            work.answer(network, work.tiles[: run.batch])
        seconds = time.perf_counter() - began_s
    return before, max(0, round(peak.mib * MIB) - before), seconds


def _answered(network: Network, run: MaskRun, tile: Tile) -> Answers:
    """The answers for the centre of a tile."""
    pixels = stacked(read_reflected(run.grid, tile.read, run.stretch), tile.read.start, [tile], run.batch)
    with network.tile_worker():
        answers = run.adapted(network).answers(pixels, run.tiling.halo, run.image.nodata, run.compiled)
    return {name: values[0] for name, values in answers.items()}


def _square(answers: Sequence[Answers]) -> Answers:
    """The answers of up to four tiles as those of one, twice as high and wide."""
    if len(answers) == 1:
        return answers[0]
    common = Window.whole(tuple(map(min, zip(*(own[MASK].shape for own in answers), strict=True))))  # some are cut
    answers = [{name: values[common.behind] for name, values in own.items()} for own in answers]
    rows = [[answers[(2 * y + x) % len(answers)] for x in range(2)] for y in range(2)]
    return {
        name: np.concatenate([np.concatenate([own[name] for own in row], -1) for row in rows], -2)
        for name in answers[0]
    }


class _Dropped(Diverted):
    """Work whose shards go nowhere; its inferred pixels are told."""

    def __init__(self, read: Callable[[], Work], inferred: list[int]) -> None:
        super().__init__(read, _drop)
        inferred.append(sum(tile.read.num_px for tile in self.tiles))


def _drop(shard: Answered) -> None:
    pass


def _inferred(
    job: Job, networks: Sequence[Network], run: MaskRun, tiles: Sequence[Tile], count: int
) -> tuple[float, float]:
    """CPU and wall time per inferred pixel, of the cheapest round of `count` pieces."""
    rounds: list[tuple[float, float]] = []
    for _ in range(1 + ROUNDS):
        inferred: list[int] = []
        loads = [Load(run, partial(_Dropped, read, inferred)) for read in _readers(job, run, tiles, count)]
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        Pipeline(networks, threads_of(job), _nothing, _nothing).run(loads)
        cpu_s, wall_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
        if run.error is not None:
            raise run.error
        num_px = sum(inferred) or math.prod(run.tiling.read)  # no usable pixel: nothing will be inferred
        rounds.append((cpu_s / num_px, wall_s / num_px))
        if wall_s > ENOUGH_S:
            break
    return min(rounds[1:] or rounds)


def _nothing(run: MaskRun) -> None:
    pass


def _readers(job: Job, run: MaskRun, tiles: Sequence[Tile], count: int) -> Iterator[Callable[[], Work]]:
    """Of at most `count` pieces of the image."""
    return _strips(run, tiles[0], count) if job.blend == "gaussian" else _rows(job, run, tiles[:count])


def _rows(job: Job, run: MaskRun, tiles: Sequence[Tile]) -> Iterator[Callable[[], Work]]:
    """`crop`: readers of the rows of tiles of a column that are read together with each tile."""
    shards = run.staging.spec.grid(0)
    for tile in tiles:
        write = run.grid.mask_window(tile.write)
        side = shards.window(next(shards.touching(first(write))))
        unit = Window((*write.start[:-2], *side.start[-2:]), (*write.shape[:-2], *side.shape[-2:]))
        rows = laid_out(run, unit, list(shards.touching(unit)), rows_of(job, run.grid))
        yield partial(Piece, *next(row for row in rows if tile.index in [each.index for each in row[1]]))


def _strips(run: MaskRun, tile: Tile, count: int) -> Iterator[Callable[[], Work]]:
    """`gaussian`: readers of strips below each other, about as wide as a shard."""
    tiling = run.tiling
    cells, wide = Grid(tiling.shape, tiling.core), -(-run.staging.spec.shard_px // tiling.core[-1])
    y, x = (max(0, min(i, n - m)) for i, n, m in zip(tile.index[-2:], cells.counts[-2:], (count, wide), strict=True))
    corner = cells.window((*tile.index[:-2], y, x)).start
    sides = (*(1,) * (len(corner) - 2), count * tiling.core[-2], wide * tiling.core[-1])
    tiles = list(tiling.tiles(Window(corner, sides)))
    window = bounding([each.read for each in tiles]).intersected(Window.whole(tiling.shape))
    unit_window = run.grid.mask_window(window)
    unit = GaussianUnit(run, unit_window, list(run.staging.spec.grid(0).touching(unit_window)))
    low, high = unit.model_window.start[-2], unit.model_window.stop[-2]
    for row in range(y, min(y + count, cells.counts[-2])):
        own = [each for each in tiles if each.index[-2] == row]
        stop = own[0].read.start[-2] + tiling.core[-2]
        yield partial(Strip, unit, own, max(low, min(high, stop)))


def _written(run: MaskRun, tile: Tile, answers: Answers | None) -> tuple[float, float]:
    """CPU time per byte of mask and layers, and the share of it that is stored, of shards that are written for once.

    Args:
        run: into memory.
        tile: lies in the first of the shards.
        answers: of the tile, with which they are filled; None leaves them empty.
    """
    spec = run.staging.spec
    # A shard of a coarse layer takes several of the mask.
    spans = [layer.staging.spec.shard_px << layer.staging.spec.base_level - spec.base_level for layer in run.layers]
    groups = spec.groups(max(1, max(spans, default=0) // spec.shard_px))
    window = groups.window(next(groups.touching(first(run.grid.mask_window(tile.write)))))
    shards = {shard: spec.grid(0).window(shard) for shard in spec.grid(0).touching(window)}
    filled: dict[Window, Answers] = {}  # many shards hold the same
    for own in shards.values():
        at = _phase(answers, own)
        if at not in filled:
            filled[at] = empty_answers(run, own.shape) if answers is None else _repeated(answers, at)
    cpu_s, num_bytes, stored = 0.0, 0, 0
    for _ in range(2):  # the first time warms up
        began_s = time.process_time()
        for shard, own in shards.items():
            run.write(Answered(run, shard, own, filled[_phase(answers, own)], {}))
        cpu_s = time.process_time() - began_s
        num_bytes, stored = map(sum, zip(*map(_forgotten, run.stagings), strict=True))
    return cpu_s / num_bytes, stored / num_bytes


def _forgotten(staging: Staging) -> tuple[int, int]:
    """Bytes of all shards that were written, before and after compression; they count as left again."""
    num_bytes = stored = 0
    for (level, shard), record in staging.state.records().items():
        num_bytes += staging.spec.grid(level).window(shard).num_px * np.dtype(staging.spec.dtype).itemsize
        stored += sum(size for size, _ in record.objects.values())
        staging.forget(level, shard)
    return num_bytes, stored


def _phase(answers: Answers | None, window: Window) -> Window:
    """The window moved to where what repeats begins."""
    sides = (1,) * window.ndim if answers is None else answers[MASK].shape
    return Window(tuple(a % n for a, n in zip(window.start, sides, strict=True)), window.shape)


def _repeated(answers: Answers, window: Window) -> Answers:
    """A window of the answers (..., *sides) of a tile, over and over in all directions."""
    found: Answers = {}
    for name, values in answers.items():
        for axis, (start, stop) in enumerate(zip(window.start, window.stop, strict=True), -window.ndim):
            values = values.take(np.arange(start, stop) % values.shape[axis], axis=axis)
        found[name] = values
    return found
