"""Crop: every tile writes only its centre, so the tiles of a shard may be inferred in any order.

    shard   +----+----+----+   one read: a few rows of tiles, and the halo around them
            |tile|tile|tile|
            +----+----+----+
            |tile|tile|tile|   one mask, written when its last tile is there
            +----+----+----+

A tile of several planes writes into as many shards that lie behind each other: a column. Tiles of a resampled image lie
across the columns too: then a row of tiles is as wide as the work unit, and writes into all that it touches.
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
        self._num_tiles = self._num_skipped = 0
        self.num_pieces = 0
        """Rows of tiles that are still to come."""

    def touches(self, window: Window) -> bool:
        return window.intersected(self.window).num_px > 0

    def counted(self, num_tiles: int, num_skipped: int) -> None:
        """For the ledger's records."""
        with self._lock:
            self._num_tiles += num_tiles
            self._num_skipped += num_skipped

    def fill(self, window: Window, index: int) -> None:
        """Give all pixels of a window inside the column one id."""
        self.answers[MASK][window.relative_to(self.window.start).slices] = index

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
            self.num_pieces -= 1
            if self.num_pieces > 0:
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
    """Rows of tiles in the pipeline. The constructor reads.

    Args:
        columns: those that the tiles touch.
        tiles: their write windows cover the columns' part of these rows.
        home: a tile is its own where it begins in here; elsewhere it is inferred once more.
    """

    in_order = False

    def __init__(self, columns: Sequence[Column], tiles: Sequence[Tile], home: Window) -> None:
        self.run, self._columns = columns[0].run, columns
        grid, search = self.run.grid, self.run.search
        reasons = [search.why_not(tile.write) for tile in tiles]
        writes = [grid.mask_window(tile.write) for tile in tiles]
        looked_at = [reason is None for reason in reasons]
        self._filled = [write for write, reason in zip(writes, reasons, strict=True) if self._is_filled(write, reason)]
        asked = [*compress(writes, looked_at), *(self._filled if grid.image.has_valid else ())]
        self._valid = None
        if asked:
            self._window = bounding(asked).intersected(bounding([column.window for column in columns]))
            self._valid = read_validity(grid, self._window)
        usable = [
            look and is_usable(self._valid, write, self._window.start)
            for look, write in zip(looked_at, writes, strict=True)
        ]
        self.tiles = list(compress(tiles, usable))
        repeated = sum(not home.contains(first(write)) for write in compress(writes, usable))
        skipped: list[Reason] = [reason for reason in reasons if reason is not None]
        skipped += ["nodata"] * (sum(looked_at) - len(self.tiles))
        self.run.count_tiles(len(tiles), skipped, repeated)
        for column in columns:
            own = [is_inferred for is_inferred, write in zip(usable, writes, strict=True) if column.touches(write)]
            column.counted(len(own), len(own) - sum(own))
        if self.tiles:
            region = bounding([tile.read for tile in self.tiles])
            self._origin = region.start
            self._pixels = read_reflected(self.run.grid, region, self.run.stretch)

    def _is_filled(self, write: Window, reason: Reason | None) -> bool:
        """Fill a tile that is skipped for this reason, if it becomes a class."""
        index = self.run.search.filled_with(reason)
        if index is not None:
            for column, inside in self._parts(write):
                column.fill(inside, index)
        return index is not None

    def _parts(self, window: Window) -> Iterator[tuple[Column, Window]]:
        """The columns that a window of the mask touches, each with its part of it."""
        for column in self._columns:
            if column.touches(window):
                yield column, window.intersected(column.window)

    def answer(self, network: Network, tiles: Sequence[Tile]) -> Answers:
        """Answers for the tiles' centres; by many threads at once."""
        batch = stacked(self._pixels, self._origin, tiles, self.run.batch)
        return self.run.adapted(network).answers(batch, self.run.tiling.halo, self.run.image.nodata, self.run.compiled)

    def add(self, tiles: Sequence[Tile], answers: Answers) -> None:
        """Put the centres in their places; no two tiles share a pixel."""
        grid = self.run.grid
        for i, tile in enumerate(tiles):
            for column, inside in self._parts(grid.mask_window(tile.write)):
                place = inside.relative_to(column.window.start).behind
                for name, whole in column.answers.items():
                    whole[place] = grid.on_mask(answers[name][i], tile.write, inside)

    def complete(self, network: Network) -> list[Answered]:
        """The shards of the columns of which this was the last piece."""
        if self._valid is not None and (self.tiles or self._filled):
            for column, inside in self._parts(self._window):
                place = inside.relative_to(column.window.start).behind
                unusable = ~self._valid[inside.relative_to(self._window.start).slices]
                blank(self.run, {name: whole[place] for name, whole in column.answers.items()}, unusable)
        batch = min(network.fits, self.run.batch)
        return [shard for column in self._columns for shard in column.piece_done(batch)]


Row = tuple[Sequence[Column], Sequence[Tile], Window]
"""What makes a piece: the columns that it touches, its tiles, and their home."""


def pieces(
    run: MaskRun, unit: Window, pending: Sequence[Ints], rows: int | None = None
) -> Iterator[Callable[[], Piece]]:
    """Readers of a work unit's rows of tiles, as they are laid out."""
    return (partial(Piece, *row) for row in laid_out(run, unit, pending, rows))


def laid_out(run: MaskRun, unit: Window, pending: Sequence[Ints], rows: int | None = None) -> Iterator[Row]:
    """A work unit's rows of tiles: column by column, or of all columns at once where tiles lie across them.

    Args:
        run: the image.
        unit: the work unit.
        pending: its shards that are left.
        rows: of tiles, read at once; None = as few as make a read worth its halo.
    """
    by_place: dict[Ints, list[Ints]] = {}
    for shard in pending:
        by_place.setdefault(shard[-2:], []).append(shard)
    columns = [Column(run, unit, shards) for shards in by_place.values()]
    if run.grid.is_resampled:
        yield from _rows_of(columns, unit, rows)
        return
    for column in columns:
        yield from _rows_of([column], column.window, rows)


def _rows_of(columns: Sequence[Column], home: Window, rows: int | None) -> list[Row]:
    run = columns[0].run
    together = rows or -(-MIN_PIECE_PX // run.tiling.core[-2])
    area = run.grid.model_window(bounding([column.window for column in columns]))
    tiles = sorted(run.tiling.tiles(area), key=lambda tile: tile.index[-2])
    found: list[Row] = []
    for _, row in groupby(tiles, key=lambda tile: tile.index[-2] // together):
        placed = [(tile, run.grid.mask_window(tile.write)) for tile in row]
        wanted = [tile for tile, write in placed if any(column.touches(write) for column in columns)]
        touched = [column for column in columns if any(column.touches(write) for _, write in placed)]
        if wanted:
            found.append((touched, wanted, home))
        for column in touched:
            column.num_pieces += 1
    return found
