"""Gaussian: overlapping tiles, weighted towards their centres; smoother than crop, and dearer.

    row r      |<---- tile ---->|                    strips of one tile row each are summed in float32, in
                         |<---- tile ---->|          raster order, so that the sums do not depend on how
    row r + 1  |<---- tile ---->|                    the image was cut; rows that no further tile reaches
                                                     are divided by the true sum of weights and finished

Only one strip of sums is in memory: (K, tile's height, unit's width), with a unit's planes before y where tiles have
several. Tiles on a work unit's rim are inferred again by its neighbour.

A pixel is looked at if the tile is in whose write window it lies; then every tile that reaches it is inferred, so that
its sums are whole.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial, reduce
from itertools import groupby
from mmap import mmap

import numpy as np
import numpy.typing as npt
import torch

from segcore.geometry import Ints, Tile, Window
from segcore.inference.decision import MASK, Answers, Decision, on_host
from segcore.inference.numerics import Network
from segcore.inference.run import Answered, MaskRun, blank, empty_answers
from segcore.inference.tiling import Tiling, bounding, first, is_usable, read_reflected, read_validity, stacked
from segcore.store import UNIT_SHARDS

STRIP_BYTES = 128 << 20
"""Of the sums of one strip. Where they would be more, a work unit is done half by half, or shard by shard."""

BAND_PX = 512
"""Columns of pixels that are decided at once: what that takes beside the sums."""

SIGMA = 0.125
"""Standard deviation of the weights, in sides of a tile: the choice of nnU-Net and MONAI."""

Floats = npt.NDArray[np.float32]


def tile_weights(side: int) -> Floats:
    """Weights along one side of a tile; a tile's own are the outer product of two of these."""
    places = np.arange(side) - (side - 1) / 2
    weights: Floats = np.exp(-0.5 * (places / (SIGMA * side)) ** 2).astype(np.float32)
    return weights


@lru_cache(maxsize=32)
def _weights(sides: Ints, device: torch.device) -> torch.Tensor:
    """Of all pixels of a tile; on a GPU they stay there, for as large as the tile is."""
    return torch.from_numpy(reduce(np.multiply.outer, map(tile_weights, sides))).to(device)


def weight_sums(tiling: Tiling, axis: int, start: int, stop: int) -> Floats:
    """Sum of the weights of all tiles over the pixels `start .. stop` of one axis.

    The sum over all axes is the product of theirs.
    """
    core, side, halo = tiling.core[axis], tiling.read[axis], tiling.halo[axis]
    weights = tile_weights(side).astype(np.float64)
    sums = np.zeros(stop - start)
    for i in range(-(-tiling.shape[axis] // core)):
        low = i * core - halo
        a, b = max(start, low), min(stop, low + side)
        if a < b:
            sums[a - start : b - start] += weights[a - low : b - low]
    return sums.astype(np.float32)


def summed_together(tiling: Tiling, num_classes: int, shard_px: int) -> tuple[int, int]:
    """Planes, and shards side by side, that are summed together; tiles across their rim are inferred twice.

    As many as STRIP_BYTES allows; never less than a shard, and one layer of tiles.
    """
    column_bytes = 4 * num_classes * tiling.read[-2]
    planes, shards = tiling.core[0] if len(tiling.core) > 2 else 1, UNIT_SHARDS

    def bytes_of(shards: int) -> int:
        return column_bytes * min(shards * shard_px, tiling.shape[-1])

    while shards > 1 and planes * bytes_of(shards) > STRIP_BYTES:
        shards //= 2
    has_planes = tiling.read[:-2] not in ((), (1,))
    return max(planes, STRIP_BYTES // bytes_of(shards)) if has_planes else 1, shards


def _zeros(shape: Ints, device: torch.device) -> torch.Tensor:
    """Sums of nothing yet; on the host in memory of their own, since on the heap they would leave holes."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=torch.float32, device=device)
    return torch.frombuffer(mmap(-1, 4 * math.prod(shape)), dtype=torch.float32).reshape(shape)


class GaussianUnit:
    """A work unit: the sums of its current strip, and the shards that are coming out of them."""

    def __init__(self, run: MaskRun, unit: Window, pending: Sequence[Ints]) -> None:
        self.run, self.window = run, unit
        self.model_window = run.grid.model_window(unit)
        self._shards = {shard: run.staging.shard_window(shard) for shard in pending}
        self._seen = [run.grid.model_window(shard) for shard in self._shards.values()]
        self._answers: dict[Ints, Answers] = {}
        self._sums: torch.Tensor | None = None

    def strips(self) -> Iterator[Callable[[], "Strip"]]:
        """Readers of the unit's strips, from top to bottom."""
        tiling, window = self.run.tiling, self.model_window
        tiles = sorted(tiling.tiles(window.expanded(tiling.halo)), key=lambda tile: tile.index[-2])
        rows = [list(row) for _, row in groupby(tiles, key=lambda tile: tile.index[-2])]
        # Two tile rows can reach the unit's first row of pixels: then the upper one finishes none.
        stops = [max(row[0].read.start[-2], window.start[-2]) for row in rows[1:]] + [window.stop[-2]]
        for row, stop in zip(rows, stops, strict=True):
            yield partial(Strip, self, row, stop)

    def wants(self, window: Window) -> bool:
        """True if a pending shard takes a pixel from the window."""
        return any(window.intersected(seen).num_px for seen in self._seen)

    def looks_in(self, window: Window) -> bool:
        """True if a pixel of the window is looked at."""
        return self.run.search.looks_in(window, self.run.tiling)

    def fill(self, answers: Answers, band: Window, finished: Window) -> None:
        """Overwrite what is not looked at in a band of finished rows, in place.

        Args:
            answers: of `finished`.
            band: in model pixels.
            finished: the pixels of the mask that take their classes from it.
        """
        run = self.run
        for tile in run.tiling.tiles(band):
            reason = run.search.why_not(tile.write)
            if reason is not None:
                inside = run.grid.mask_window(tile.write).intersected(finished).relative_to(finished.start)
                index = run.search.filled_with(reason)
                for name, values in answers.items():
                    empty = run.decision.unknown if name != MASK else run.ignore if index is None else index
                    values[inside.behind] = empty

    def weighted(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits times the weights, in place: of many classes a copy would be large."""
        weights = _weights(self.run.tiling.read, logits.device)
        if weights.is_cuda:  # made on another worker's stream, which may not have it back before this one is done
            weights.record_stream(torch.cuda.current_stream(weights.device))
        return logits.mul_(weights[tuple(slice(n) for n in logits.shape[2:])])  # a tile at the border may be cut

    def add(self, tile: Tile, weighted: torch.Tensor, top: int) -> None:
        """Add a tile (K, ...) to the strip whose first row is `top`; in the order of the tiles."""
        *planes, width = (*self.model_window.shape[:-2], self.model_window.shape[-1])
        if self._sums is None:
            shape = (weighted.shape[0], *planes, self.run.tiling.read[-2], width)
            self._sums = _zeros(shape, weighted.device)
        inside = tile.read.intersected(self.model_window)
        source = (slice(None), *inside.relative_to(tile.read.start).slices)
        target = (slice(None), *inside.relative_to(self._from(top)).slices)
        self._sums[target] += weighted[source].to(self._sums.device)

    def _from(self, top: int) -> Ints:
        """Where the strip begins whose first row is `top`."""
        return (*self.model_window.start[:-2], top, self.model_window.start[-1])

    def band(self, top: int, stop: int) -> Window:
        """The rows `top .. stop`."""
        return Window(self._from(top), (*self.model_window.shape[:-2], stop - top, self.model_window.shape[-1]))

    def finish_rows(self, top: int, stop: int, decision: Decision) -> Answers | None:
        """Answers for the rows `top .. stop`, and the sums moved up by as many; None if no tile reached them."""
        count, band = stop - top, self.band(top, stop)
        if self._sums is None or count == 0:
            return None
        sides = [
            weight_sums(self.run.tiling, axis, a, b)
            for axis, (a, b) in enumerate(zip(band.start, band.stop, strict=True))
        ]
        weights = torch.from_numpy(reduce(np.multiply.outer, sides)).to(self._sums.device)
        places = [slice(left, left + BAND_PX) for left in range(0, band.shape[-1], BAND_PX)]
        parts = [on_host(decision((self._sums[..., :count, at] / weights[..., at])[None])) for at in places]
        if stop == self.model_window.stop[-2]:
            self._sums = None
        else:
            for sums in self._sums:  # one by one: a copy of all classes would be half as large as they are
                sums[..., :-count, :] = sums[..., count:, :].clone()
            self._sums[..., -count:, :] = 0
        return {name: np.concatenate([part[name][0] for part in parts], axis=-1) for name in parts[0]}

    def place(self, answers: Answers, band: Window) -> list[tuple[Ints, Answers]]:
        """Put a finished window of the mask, as wide as the unit, into the shards; those that are full come out."""
        full = []
        for shard, window in self._shards.items():
            inside = window.intersected(band)
            if inside.num_px == 0:
                continue
            if shard not in self._answers:
                self._answers[shard] = empty_answers(self.run, window.shape)
            target, source = inside.relative_to(window.start).behind, inside.relative_to(band.start).behind
            for name, whole in self._answers[shard].items():
                whole[target] = answers[name][source]
            if inside.stop[-2] == window.stop[-2]:
                full.append((shard, self._answers.pop(shard)))
        return full

    def shard(self, shard: Ints, answers: Answers, batch: int) -> Answered:
        return Answered(self.run, shard, self._shards[shard], answers, {"batch": batch})


class Strip:
    """One tile row of a work unit in the pipeline. The constructor reads.

    Args:
        unit: the work unit.
        row: its tiles, from left to right.
        stop: the first row of pixels that the next tile row can still change.
    """

    in_order = True

    def __init__(self, unit: GaussianUnit, row: Sequence[Tile], stop: int) -> None:
        self.run, self._unit, self._stop = unit.run, unit, stop
        grid, reach = self.run.grid, bounding([tile.read for tile in row]).intersected(unit.model_window)
        self._top = reach.start[-2]
        wanted = [tile for tile in row if unit.wants(tile.read)]
        reads = {tile.index: tile.read.intersected(unit.model_window) for tile in wanted}
        inside = {index: grid.mask_window(read) for index, read in reads.items()}
        needed = [tile for tile in wanted if unit.looks_in(reads[tile.index])]
        self._read_validity(grid.mask_window(reach).intersected(unit.window), [inside[tile.index] for tile in needed])
        self.tiles = [tile for tile in needed if is_usable(self._valid, inside[tile.index], self._window.start)]
        # A tile is its own unit's where its write window begins; elsewhere it is inferred once more.
        repeated = sum(not unit.window.contains(first(grid.mask_window(tile.write))) for tile in self.tiles)
        inferred = {tile.index for tile in self.tiles}
        skipped = [tile for tile in wanted if tile.index not in inferred]
        reasons = [self.run.search.why_not(tile.write) or "nodata" for tile in skipped]
        self.run.count_tiles(len(wanted), reasons, repeated)
        if self.tiles:
            region = bounding([tile.read for tile in self.tiles])
            self._pixels_origin = region.start
            self._pixels = read_reflected(self.run.grid, region, self.run.stretch)

    def _read_validity(self, reach: Window, inside: Sequence[Window]) -> None:
        """Read which pixels are usable where that decides anything: of what the needed tiles reach, if of no more."""
        run = self.run
        is_whole = run.image.has_valid and (inside or run.search.skipped_id is not None)
        self._window = reach if is_whole or not inside else bounding(inside)
        self._valid = read_validity(run.grid, self._window) if is_whole or inside else None

    def answer(self, network: Network, tiles: Sequence[Tile]) -> torch.Tensor:
        """Weighted logits (N, K, ...), float32, on the device; by many threads at once."""
        batch = stacked(self._pixels, self._pixels_origin, tiles, self.run.batch)
        return self._unit.weighted(self.run.adapted(network).logits(batch, self.run.image.nodata, self.run.compiled))

    def add(self, tiles: Sequence[Tile], weighted: torch.Tensor) -> None:
        """Add tiles to the sums; the pipeline calls it in the order of the tiles."""
        for tile, of_tile in zip(tiles, weighted, strict=False):  # a batch may be filled up
            self._unit.add(tile, of_tile, self._top)

    def complete(self, network: Network) -> list[Answered]:
        """The shards that this strip has finished."""
        unit, grid = self._unit, self.run.grid
        band = unit.band(self._top, self._stop)
        finished = grid.mask_window(band).intersected(unit.window)
        found = unit.finish_rows(self._top, self._stop, network.decision)
        if found is None:
            answers = empty_answers(self.run, finished.shape)
        else:
            answers = {name: grid.on_mask(values, band, finished) for name, values in found.items()}
        unit.fill(answers, band, finished)
        if self._valid is not None:
            known = self._window.intersected(finished)
            unusable = ~self._valid[known.relative_to(self._window.start).slices]
            inside = known.relative_to(finished.start).behind
            blank(self.run, {name: values[inside] for name, values in answers.items()}, unusable)
        return [
            unit.shard(shard, own, min(network.fits, self.run.batch)) for shard, own in unit.place(answers, finished)
        ]
