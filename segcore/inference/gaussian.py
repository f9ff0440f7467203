"""Gaussian: overlapping tiles, weighted towards their centres; smoother than crop, and dearer.

    row r      |<---- tile ---->|                    strips of one tile row each are summed in float32, in
                         |<---- tile ---->|          raster order, so that the sums do not depend on how
    row r + 1  |<---- tile ---->|                    the image was cut; rows that no further tile reaches
                                                     are divided by the true sum of weights and finished

Only one strip of sums is in memory: (K, tile's side, unit's width). Tiles on a work unit's rim are inferred
again by its neighbour.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import compress, groupby

import numpy as np
import numpy.typing as npt
import torch

from segcore.geometry import Ints, Tile, Window
from segcore.inference.numerics import Network, best_class
from segcore.inference.run import MaskRun, MaskShard, is_usable
from segcore.inference.tiling import Pixels, Tiling, bounding, read_reflected, read_validity, stacked

SIGMA = 0.125
"""Standard deviation of the weights, in sides of a tile: the choice of nnU-Net and MONAI."""

Floats = npt.NDArray[np.float32]


def tile_weights(side: int) -> Floats:
    """Weights along one side of a tile; a tile's own are the outer product of two of these."""
    places = np.arange(side) - (side - 1) / 2
    weights: Floats = np.exp(-0.5 * (places / (SIGMA * side)) ** 2).astype(np.float32)
    return weights


def weight_sums(tiling: Tiling, axis: int, start: int, stop: int) -> Floats:
    """Sum of the weights of all tiles over the pixels `start .. stop` of one axis.

    The sum over the plane is the product of those of its axes.
    """
    core, side = tiling.core[axis], tiling.read[axis]
    weights = tile_weights(side).astype(np.float64)
    sums = np.zeros(stop - start)
    for i in range(-(-tiling.shape[axis] // core)):
        low = i * core - tiling.halo
        a, b = max(start, low), min(stop, low + side)
        if a < b:
            sums[a - start : b - start] += weights[a - low : b - low]
    return sums.astype(np.float32)


class GaussianUnit:
    """A work unit: the sums of its current strip, and the shards that are coming out of them."""

    def __init__(self, run: MaskRun, unit: Ints, pending: Sequence[Ints]) -> None:
        self.run, self._unit = run, unit
        self.window: Window = run.staging.unit_window(unit)
        self._shards = {shard: run.staging.shard_window(shard) for shard in pending}
        self._masks: dict[Ints, Pixels] = {}
        self._sums: torch.Tensor | None = None
        weights = (torch.from_numpy(tile_weights(side)) for side in run.tiling.read)
        rows, columns = weights
        self._weights = rows[:, None] * columns[None, :]

    def strips(self) -> Iterator[Callable[[], "Strip"]]:
        """Readers of the unit's strips, from top to bottom."""
        tiling = self.run.tiling
        reach = self.window.expanded((tiling.halo, tiling.halo))
        rows = [list(tiles) for _, tiles in groupby(tiling.tiles(reach), key=lambda tile: tile.index[0])]
        # Two tile rows can reach the unit's first row of pixels: then the upper one finishes none.
        stops = [max(row[0].read.start[0], self.window.start[0]) for row in rows[1:]] + [self.window.stop[0]]
        for row, stop in zip(rows, stops, strict=True):
            yield partial(Strip, self, row, stop)

    def wants(self, window: Window) -> bool:
        """True if a pending shard has a pixel in the window."""
        return any(window.intersected(shard).num_px for shard in self._shards.values())

    def weighted(self, logits_nkyx: torch.Tensor) -> torch.Tensor:
        return logits_nkyx * self._weights.to(logits_nkyx.device)

    def add(self, tile: Tile, weighted_kyx: torch.Tensor, top: int) -> None:
        """Add a tile to the strip whose first row is `top`; in raster order."""
        if self._sums is None:
            shape = (weighted_kyx.shape[0], self.run.tiling.read[0], self.window.shape[1])
            self._sums = torch.zeros(shape, dtype=torch.float32, device=weighted_kyx.device)
        inside = tile.read.intersected(self.window)
        source = (slice(None), *inside.relative_to(tile.read.start).slices)
        target = (slice(None), *inside.relative_to((top, self.window.start[1])).slices)
        self._sums[target] += weighted_kyx[source]

    def finish_rows(self, top: int, stop: int) -> Pixels | None:
        """Class ids of the rows `top .. stop`, and the sums moved up by as many; None if no tile reached them."""
        count = stop - top
        if self._sums is None or count == 0:
            return None
        rows = weight_sums(self.run.tiling, 0, top, stop)
        columns = weight_sums(self.run.tiling, 1, self.window.start[1], self.window.stop[1])
        weights = torch.from_numpy(rows[:, None] * columns[None, :]).to(self._sums.device)
        ids: Pixels = best_class((self._sums[:, :count] / weights)[None])[0].cpu().numpy()
        if stop == self.window.stop[0]:
            self._sums = None
        else:
            self._sums[:, :-count] = self._sums[:, count:].clone()
            self._sums[:, -count:] = 0
        return ids

    def place(self, ids: Pixels, top: int) -> list[tuple[Ints, Pixels]]:
        """Put finished rows, from `top` on, into the shards; those that are full come out."""
        band = Window((top, self.window.start[1]), (ids.shape[0], self.window.shape[1]))
        full = []
        for shard, window in self._shards.items():
            inside = window.intersected(band)
            if inside.num_px == 0:
                continue
            if shard not in self._masks:
                self._masks[shard] = np.empty(window.shape, dtype=self.run.dtype)
            self._masks[shard][inside.relative_to(window.start).slices] = ids[inside.relative_to(band.start).slices]
            if inside.stop[0] == window.stop[0]:
                full.append((shard, self._masks.pop(shard)))
        return full

    def shard(self, shard: Ints, mask: Pixels, batch: int) -> MaskShard:
        return MaskShard(self.run, self._unit, shard, mask, {"batch": batch})


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
        reach = bounding([tile.read for tile in row]).intersected(unit.window)
        self._top = reach.start[0]
        self._valid = read_validity(self.run.image, reach)
        self._origin = reach.start
        wanted = [tile for tile in row if unit.wants(tile.read)]
        inside = [tile.read.intersected(unit.window) for tile in wanted]
        usable = [is_usable(self._valid, window, reach.start) for window in inside]
        self.tiles = list(compress(wanted, usable))
        # A tile is its own unit's where its write window begins; elsewhere it is inferred once more.
        repeated = sum(not unit.window.contains(Window(tile.write.start, (1, 1))) for tile in self.tiles)
        self.run.count_tiles(len(wanted), len(wanted) - len(self.tiles), repeated)
        if self.tiles:
            region = bounding([tile.read for tile in self.tiles])
            self._pixels_origin = region.start
            self._pixels = read_reflected(self.run.image, region, self.run.stretch)

    def answer(self, network: Network, tiles: Sequence[Tile]) -> torch.Tensor:
        """Weighted logits (N, K, Y, X), float32, on the device; by many threads at once."""
        batch = stacked(self._pixels, self._pixels_origin, tiles, network.batch)
        return self._unit.weighted(network.logits(batch, self.run.image.nodata))

    def add(self, tiles: Sequence[Tile], weighted_nkyx: torch.Tensor) -> None:
        """Add tiles to the sums; the pipeline calls it in raster order."""
        for tile, weighted_kyx in zip(tiles, weighted_nkyx, strict=False):  # a batch may be filled up
            self._unit.add(tile, weighted_kyx, self._top)

    def complete(self, network: Network) -> list[MaskShard]:
        """The shards that this strip has finished."""
        shape = (self._stop - self._top, self._unit.window.shape[1])
        ids = self._unit.finish_rows(self._top, self._stop)
        if ids is None:
            ids = np.full(shape, self.run.ignore, dtype=self.run.dtype)
        if self._valid is not None:
            ids = np.where(self._valid[: shape[0]], ids, np.asarray(self.run.ignore, dtype=self.run.dtype))
        return [self._unit.shard(shard, mask, network.fits) for shard, mask in self._unit.place(ids, self._top)]
