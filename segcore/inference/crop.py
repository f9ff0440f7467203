"""Crop: every tile writes only its centre, so the tiles of a shard may be inferred in any order.

    shard   +----+----+----+   one read: a few rows of tiles, and the halo around them
            |tile|tile|tile|
            +----+----+----+
            |tile|tile|tile|   one mask, written when its last tile is there
            +----+----+----+

A tile of several planes writes into as many shards that lie behind each other: a column.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import compress, groupby

from segcore.geometry import Ints, Tile, Window
from segcore.inference.decision import MASK, Answers
from segcore.inference.numerics import Network
from segcore.inference.run import Answered, MaskRun, blank, empty_answers
from segcore.inference.search import Reason
from segcore.inference.tiling import bounding, first, is_usable, read_reflected, read_validity, stacked

MIN_PIECE_PX = 512
"""Height of one read, without halo: less would decode the chunks of its halo too often."""


class Column:
    """Shards of a work unit that lie behind each other, one per plane: their answers, and what is still to come.

    Args:
        run: the image.
        unit: the work unit, or as many planes of it as a tile has.
        shards: those of the column that are left.
    """

    def __init__(self, run: MaskRun, unit: Window, shards: Sequence[Ints]) -> None:
        self.run, self._shards = run, shards
        side = run.staging.shard_window(shards[0])
        # Whole planes, though only some may be left: a tile has them all.
        self.window = Window((*unit.start[:-2], *side.start[-2:]), (*unit.shape[:-2], *side.shape[-2:]))
        self._lock = threading.Lock()
        self._answers: Answers | None = None
        self._num_tiles = self._num_skipped = self._num_pieces = 0

    def pieces(self, rows: int | None = None) -> list[Callable[[], "Piece"]]:
        """Readers of the column's rows of tiles; `rows` at once, or as few as make a read worth its halo."""
        tiling = self.run.tiling
        together = rows or -(-MIN_PIECE_PX // tiling.core[-2])
        tiles = sorted(tiling.tiles(self.run.grid.model_window(self.window)), key=lambda tile: tile.index[-2])
        pieces = [list(row) for _, row in groupby(tiles, key=lambda tile: tile.index[-2] // together)]
        self._num_pieces = len(pieces)
        return [partial(Piece, self, piece) for piece in pieces]

    def counted(self, num_tiles: int, skipped: Sequence[Reason], num_repeated: int) -> None:
        with self._lock:
            self._num_tiles += num_tiles
            self._num_skipped += len(skipped)
        self.run.count_tiles(num_tiles, skipped, num_repeated)

    def fill(self, window: Window, index: int) -> None:
        """Give all pixels of a tile that is not looked at one id."""
        inside = window.intersected(self.window)
        self.answers[MASK][inside.relative_to(self.window.start).slices] = index

    @property
    def answers(self) -> Answers:
        """Of the whole column, unusable until tiles come; made when the first one does."""
        with self._lock:
            if self._answers is None:
                self._answers = empty_answers(self.run, self.window.shape)
            return self._answers

    def piece_done(self, batch: int) -> list[Answered]:
        """The shards, after the last piece."""
        with self._lock:
            self._num_pieces -= 1
            if self._num_pieces > 0:
                return []
        note = {"tiles": self._num_tiles, "skipped": self._num_skipped, "batch": batch}
        answers, self._answers = self.answers, None
        found = []
        for shard in self._shards:
            window = self.run.staging.shard_window(shard)
            inside = window.relative_to(self.window.start).behind
            own = {name: values[inside] for name, values in answers.items()}
            found.append(Answered(self.run, shard, window, own, note))
        return found


class Piece:
    """Rows of tiles of a column in the pipeline. The constructor reads."""

    in_order = False

    def __init__(self, column: Column, tiles: Sequence[Tile]) -> None:
        self.run, self._column = column.run, column
        grid, search = self.run.grid, self.run.search
        reasons = [search.why_not(tile.write) for tile in tiles]
        writes = [grid.mask_window(tile.write) for tile in tiles]
        looked_at = [reason is None for reason in reasons]
        self._filled = [write for write, reason in zip(writes, reasons, strict=True) if self._is_filled(write, reason)]
        asked = [*compress(writes, looked_at), *(self._filled if grid.image.has_valid else ())]
        self._valid = None
        if asked:
            self._window = bounding(asked).intersected(column.window)
            self._valid = read_validity(grid, self._window)
        usable = [
            look and is_usable(self._valid, write, self._window.start)
            for look, write in zip(looked_at, writes, strict=True)
        ]
        self.tiles = list(compress(tiles, usable))
        # Tiles of a resampled image lie across the shards of its mask: each is its own where it begins.
        repeated = sum(not column.window.contains(first(write)) for write in compress(writes, usable))
        skipped: list[Reason] = [reason for reason in reasons if reason is not None]
        skipped += ["nodata"] * (sum(looked_at) - len(self.tiles))
        column.counted(len(tiles), skipped, repeated)
        if self.tiles:
            region = bounding([tile.read for tile in self.tiles])
            self._origin = region.start
            self._pixels = read_reflected(self.run.grid, region, self.run.stretch)

    def _is_filled(self, write: Window, reason: Reason | None) -> bool:
        """Fill a tile that is skipped for this reason, if it becomes a class."""
        index = self.run.search.filled_with(reason)
        if index is not None:
            self._column.fill(write, index)
        return index is not None

    def answer(self, network: Network, tiles: Sequence[Tile]) -> Answers:
        """Answers for the tiles' centres; by many threads at once."""
        batch = stacked(self._pixels, self._origin, tiles, self.run.batch)
        return network.answers(batch, self.run.tiling.halo, self.run.image.nodata)

    def add(self, tiles: Sequence[Tile], answers: Answers) -> None:
        """Put the centres in their places; no two tiles share a pixel."""
        grid, window = self.run.grid, self._column.window
        for name, whole in self._column.answers.items():
            for tile, centre in zip(tiles, answers[name], strict=False):  # a batch may be filled up
                inside = grid.mask_window(tile.write).intersected(window)
                whole[inside.relative_to(window.start).behind] = grid.on_mask(centre, tile.write, inside)

    def complete(self, network: Network) -> list[Answered]:
        """The column's shards, if this was its last piece."""
        if self._valid is not None and (self.tiles or self._filled):
            rows = self._window.relative_to(self._column.window.start).behind
            blank(self.run, {name: whole[rows] for name, whole in self._column.answers.items()}, ~self._valid)
        return self._column.piece_done(min(network.fits, self.run.batch))


def columns(run: MaskRun, unit: Window, pending: Sequence[Ints]) -> Iterator[Column]:
    """The columns of a work unit in which a shard is left."""
    by_place: dict[Ints, list[Ints]] = {}
    for shard in pending:
        by_place.setdefault(shard[-2:], []).append(shard)
    for shards in by_place.values():
        yield Column(run, unit, shards)
