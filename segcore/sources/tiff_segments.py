"""TIFF segments: a window of one page from its tiles or strips, reading and decoding only those that it touches."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, Any, Self

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Grid, Window
from segcore.sources.base import Limits, Pixels

CACHE_BYTES = 2**27
"""Decoded segments kept: strips run over the whole width, so neighbouring windows share them."""

JPEG_COMPRESSIONS = (6, 7, 34892, 33007)
SEPARATE_PLANES = 2


@dataclass(frozen=True)
class Layout:
    """How a page is cut into segments; the same for all pages of a series."""

    uri: str
    page: Any
    """tifffile's page that decodes for all."""
    grid: Grid
    """Segments over (y, x)."""
    samples: int
    separate: bool
    """One plane of segments per sample, instead of samples side by side."""
    raw: bool
    """Strips of plain bytes: rows can be read out of them."""

    @classmethod
    def of(cls, uri: str, page: Any, limits: Limits) -> Self:
        """The layout of a page.

        Raises:
            SourceError: if a segment is too large to decode, or the page is cut in a way that is not read.
        """
        if page.imagedepth != 1 or getattr(page, "tiledepth", 1) not in (0, 1):
            raise SourceError(f"{uri}: volumetric TIFF pages are not read; save it as OME-TIFF")
        height, width = int(page.imagelength), int(page.imagewidth)
        cell = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip or height, height), width)
        if min(cell) < 1:
            raise SourceError(f"{uri}: damaged header: tiles or strips of {cell[0]} x {cell[1]} px")
        separate = page.planarconfig == SEPARATE_PLANES and page.samplesperpixel > 1
        plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and not page.is_subsampled
        raw = plain and not page.is_tiled and page.bitspersample in (8, 16, 32, 64) and page.dtype is not None
        contiguous = 1 if separate else int(page.samplesperpixel)
        size = int(cell[0]) * int(cell[1]) * contiguous * (page.dtype.itemsize if page.dtype is not None else 8)
        if size > limits.max_tile_bytes and not raw:
            raise SourceError(
                f"{uri}: a {'tile' if page.is_tiled else 'strip'} of {cell[0]} x {cell[1]} px takes {size} bytes, over "
                f"the limit max_tile_bytes = {limits.max_tile_bytes}; save it tiled"
            )
        return cls(uri, page, Grid((height, width), (int(cell[0]), int(cell[1]))), contiguous, separate, raw)

    def index(self, cell: tuple[int, ...], sample: int) -> int:
        """Linear index of a segment."""
        in_plane = cell[0] * self.grid.counts[1] + cell[1]
        return in_plane + (sample * self.grid.num_cells if self.separate else 0)


@dataclass(frozen=True)
class Storage:
    """Where the segments of each page lie."""

    pages: Any
    """tifffile's series, by page index."""
    start: int | None
    """First byte of a series of plain planes, one behind the other: ImageJ's large stacks have a directory for the
    first plane only."""

    @classmethod
    def of(cls, series: Any, layout: Layout) -> Self:
        """The storage of a series that is cut as `layout` says."""
        return cls(series, series.dataoffset if layout.raw else None)


class SegmentReader:
    """Reads windows of pages; keeps decoded segments up to `CACHE_BYTES`.

    Args:
        opened: the file.
        num_bytes: its size.
        layout: how each page is cut.
        storage: where the segments lie.
    """

    def __init__(self, opened: IO[bytes], num_bytes: int, layout: Layout, storage: Storage) -> None:
        self._opened = opened
        self._num_bytes = num_bytes
        self._layout = layout
        self._storage = storage
        self._cache: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._cached_bytes = 0
        page = layout.page
        self._stored = np.dtype(page.dtype).newbyteorder(page.parent.byteorder) if page.dtype is not None else None

    def clear(self) -> None:
        """Forget all decoded segments."""
        self._cache.clear()
        self._cached_bytes = 0

    def read(self, page: int, window: Window, samples: tuple[int, ...]) -> Pixels:
        """(Y, X, samples) of a window over (y, x) of one page, in the stored type."""
        layout = self._layout
        out = np.empty((*window.shape, len(samples)), dtype=layout.page.dtype)
        chosen = slice(None) if samples == tuple(range(layout.samples)) else list(samples)  # a list copies once more
        for cell in layout.grid.touching(window):
            box = layout.grid.window(cell)
            part = box.intersected(window)
            target = out[part.relative_to(window.start).slices]
            if not layout.separate:
                target[...] = self._part(page, cell, 0, part.relative_to(box.start))[..., chosen]
                continue
            for at, sample in enumerate(samples):
                target[..., at] = self._part(page, cell, sample, part.relative_to(box.start))[..., 0]
        return out

    def _part(self, page: int, cell: tuple[int, ...], sample: int, part: Window) -> Pixels:
        """(Y, X, samples) of a part of one segment; `part` counts from the segment's corner."""
        index = self._layout.index(cell, sample)
        if self._layout.raw:
            return self._raw_rows(page, cell, index, part)
        segment = self._cache.get((page, index))
        if segment is None:
            segment = self._decoded(page, cell, index)
            if part.shape != self._layout.grid.window(cell).shape:  # a window next to this one wants the rest
                self._keep((page, index), segment)
        return segment[part.slices]

    def _keep(self, key: tuple[int, int], segment: Pixels) -> None:
        """Cache a segment; the oldest go when the room is used up, but never the one just decoded."""
        self._cache[key] = segment
        self._cached_bytes += segment.nbytes
        while len(self._cache) > 1 and self._cached_bytes > CACHE_BYTES:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes

    def _raw_rows(self, page: int, cell: tuple[int, ...], index: int, part: Window) -> Pixels:
        """The wanted rows of a strip of plain bytes."""
        layout = self._layout
        width = layout.grid.shape[1]
        assert self._stored is not None
        row_bytes = width * layout.samples * self._stored.itemsize
        offset, count = self._place(page, index)
        if self._storage.start is None and count < part.stop[0] * row_bytes:
            raise SourceError(f"{layout.uri}: strip {index} of page {page} holds {count} bytes, too few for its rows")
        data = self._bytes(offset + part.start[0] * row_bytes, part.shape[0] * row_bytes)
        rows = np.frombuffer(data, dtype=self._stored).reshape(part.shape[0], width, layout.samples)
        return rows[:, part.start[1] : part.stop[1]]

    def _decoded(self, page: int, cell: tuple[int, ...], index: int) -> Pixels:
        """(Y, X, samples) of a whole segment."""
        layout = self._layout
        offset, count = self._place(page, index)
        if count == 0:
            raise SourceError(f"{layout.uri}: tile or strip {index} of page {page} is missing in the file")
        options: dict[str, Any] = {}
        if layout.page.compression in JPEG_COMPRESSIONS:
            options = {"jpegtables": self._storage.pages[page].jpegtables, "jpegheader": layout.page.jpegheader}
        data = layout.page.decode(self._bytes(offset, count), index, **options)[0]
        segment: Pixels = np.asarray(data)[0]
        needed = layout.grid.window(cell).shape
        if segment.shape[0] < needed[0] or segment.shape[1] < needed[1] or segment.shape[2] < layout.samples:
            raise SourceError(
                f"{layout.uri}: tile or strip {index} of page {page} decodes to {segment.shape}, too small"
            )
        return segment

    def _place(self, page: int, index: int) -> tuple[int, int]:
        """Offset and length of a segment in the file."""
        layout = self._layout
        if self._storage.start is not None:
            return self._virtual_place(page, index)
        stored = self._storage.pages[page]
        if index >= len(stored.dataoffsets) or index >= len(stored.databytecounts):
            raise SourceError(
                f"{layout.uri}: damaged header: page {page} lists {len(stored.dataoffsets)} tiles or strips, "
                f"expected at least {index + 1}"
            )
        return int(stored.dataoffsets[index]), int(stored.databytecounts[index])

    def _virtual_place(self, page: int, index: int) -> tuple[int, int]:
        """The same in a stack of plain planes, one behind the other, strips in raster order."""
        layout = self._layout
        assert layout.raw, "only plain bytes lie without a directory"
        assert self._stored is not None
        assert self._storage.start is not None
        height, width = layout.grid.shape
        row_bytes = width * layout.samples * self._stored.itemsize
        planes = index // layout.grid.num_cells
        rows = planes * height + (index % layout.grid.num_cells) * layout.grid.cell[0]
        per_page = height * row_bytes * (layout.page.samplesperpixel if layout.separate else 1)
        return self._storage.start + page * per_page + rows * row_bytes, layout.grid.cell[0] * row_bytes

    def _bytes(self, offset: int, count: int) -> bytes:
        """Bytes of the file, all of them or an error."""
        if offset + count > self._num_bytes:
            raise SourceError(
                f"{self._layout.uri}: the file is cut off: pixels lie at bytes {offset}..{offset + count}, "
                f"but it has only {self._num_bytes}; copy it again from where it came"
            )
        self._opened.seek(offset)
        data = self._opened.read(count)
        if len(data) != count:
            raise SourceError(f"{self._layout.uri}: {len(data)} of {count} bytes could be read at {offset}")
        return data
