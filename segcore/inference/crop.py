"""Crop: every tile writes only its centre, so the tiles of a shard may be inferred in any order.

shard   +----+----+----+     one read: the tiles' write windows and the halo around them
|tile|tile|tile|
+----+----+----+     one mask, written when its last tile is there
|tile|tile|tile|
+----+----+----+
"""

from collections.abc import Sequence

import numpy as np

from segcore.geometry import Ints, Tile, Window
from segcore.inference.numerics import Network
from segcore.inference.run import MaskRun, MaskShard, is_usable
from segcore.inference.tiling import Pixels, bounding, read_reflected, read_validity, stacked


class CropShard:
    """One shard in the pipeline: its pixels and its mask. The constructor reads.

    Args:
        run: the image.
        unit: the work unit that the shard belongs to.
        shard: its index.
    """

    in_order = False

    def __init__(self, run: MaskRun, unit: Ints, shard: Ints) -> None:
        self.run, self._unit, self._shard = run, unit, shard
        self._window: Window = run.staging.shard_window(shard)
        self._valid = read_validity(run.image, self._window)
        tiles = list(run.tiling.tiles(self._window))
        origin = self._window.start
        self.tiles = [tile for tile in tiles if is_usable(self._valid, tile.write, origin)]
        run.count_tiles(len(tiles), len(tiles) - len(self.tiles))
        self._note = {"tiles": len(tiles), "skipped": len(tiles) - len(self.tiles)}
        self._mask: Pixels = np.full(self._window.shape, run.ignore, dtype=run.dtype)
        if self.tiles:
            region = bounding([tile.read for tile in self.tiles])
            self._origin = region.start
            self._pixels = read_reflected(run.image, region, run.stretch)

    def answer(self, network: Network, tiles: Sequence[Tile]) -> Pixels:
        """Class ids (N, Y, X) of the tiles' centres; by many threads at once."""
        batch = stacked(self._pixels, self._origin, tiles, network.batch)
        return network.ids(batch, self.run.tiling.halo, self.run.image.nodata)

    def add(self, tiles: Sequence[Tile], ids_nyx: Pixels) -> None:
        """Put the centres into the mask; no two tiles share a pixel."""
        for tile, ids in zip(tiles, ids_nyx, strict=False):  # a batch may be filled up
            height, width = tile.write.shape
            self._mask[tile.write.relative_to(self._window.start).slices] = ids[:height, :width]

    def complete(self, network: Network) -> list[MaskShard]:
        """The finished shard, once every tile is in."""
        if self._valid is not None:
            self._mask[~self._valid] = self.run.ignore
        note = {**self._note, "batch": network.fits}
        return [MaskShard(self.run, self._unit, self._shard, self._mask, note)]
