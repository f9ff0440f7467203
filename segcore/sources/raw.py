"""Raw: arrays that lie in a file as plain numbers, as such or packed as one stream; read window by window.

file --(plain)--> RawArray.read(window)
file --(gzip, bzip2)--> unpacked once to a nameless temporary file --> RawArray.read(window)
"""

import bz2
import contextlib
import gzip
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Literal, cast

import numpy as np

from segcore.alive import alive
from segcore.errors import SourceError
from segcore.geometry import Ints, Window
from segcore.sources.base import Limits, Pixels
from segcore.sources.files import SourceFile

STRIDE_BYTES = 2**18
"""Runs of this size are read whole, though a window needs but a part of them: one request instead of many."""
READ_BYTES = 2**24

DEFLATE_RATIO = 1032
"""What deflate packs at best (zlib, technical details); a stream that should hold more cannot be whole."""

NARROWED = {"int64": "int32", "uint64": "uint32"}
"""Types that the store does not hold, and where they are read to, if their values fit."""

Codec = Literal["plain", "gzip", "bzip2"]


@dataclass(frozen=True)
class Layout:
    """How an array lies in its file."""

    axes: tuple[str, ...]
    """Slowest first."""
    shape: Ints
    dtype: np.dtype[Any]
    offset: int
    """Byte at which it begins; of a packed file, in the unpacked stream."""
    codec: Codec = "plain"
    packed_offset: int = 0
    """Byte at which the packed stream begins."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def check_size(uri: str, layout: Layout, file_bytes: int, limits: Limits) -> None:
    """Refuse an array that its file cannot hold, or whose unpacked copy would be too large.

    Raises:
        SourceError: with both sizes.
    """
    end = layout.offset + layout.num_bytes
    said = f"{uri}: its header asks for {end} bytes"
    if layout.codec == "plain" and end > file_bytes:
        raise SourceError(f"{said}, the file has {file_bytes}; it is cut off or damaged: copy it again")
    if layout.codec == "gzip" and end > (file_bytes - layout.packed_offset) * DEFLATE_RATIO:
        raise SourceError(f"{said}, which {file_bytes} packed bytes cannot hold; it is cut off or damaged")
    if layout.codec != "plain" and end > limits.max_download_bytes:
        limit = f"max_download_bytes = {limits.max_download_bytes}"
        raise SourceError(f"{said}, unpacked, over the limit {limit}; unpack it first")


class RawArray:
    """An array in a file, in native byte order and with its axes in the order that is wanted.

    The file is opened, and if need be unpacked, at the first read.
    """

    def __init__(self, file: SourceFile, layout: Layout, axes: tuple[str, ...]) -> None:
        assert sorted(axes) == sorted(layout.axes), f"{axes} are not {layout.axes}"
        self._open: Callable[[], IO[bytes]] = file.open
        self._offset = layout.offset
        if layout.codec != "plain":
            self._open, self._offset = (lambda: _unpacked(file, layout)), 0
        self._layout = layout
        self._order = tuple(layout.axes.index(axis) for axis in axes)
        self._opened: IO[bytes] | None = None
        # The first axis whose single step is short enough to be read whole.
        steps = [math.prod(layout.shape[i + 1 :]) * layout.dtype.itemsize for i in range(len(layout.shape))]
        self._split = next((i for i, step in enumerate(steps) if step <= STRIDE_BYTES), len(steps) - 1)
        self._step_px = math.prod(layout.shape[self._split + 1 :])

    def read(self, window: Window) -> Pixels:
        """Pixels of a window over `axes`.

        Raises:
            SourceError: if the file ends early.
        """
        start, shape = [0] * window.ndim, [0] * window.ndim
        for given, place in enumerate(self._order):
            start[place], shape[place] = window.start[given], window.shape[given]
        inside = Window(tuple(start), tuple(shape))
        pixels = np.empty(inside.shape, dtype=self._layout.dtype.newbyteorder("="))
        split = self._split
        for index in np.ndindex(inside.shape[:split]):
            outer = [a + i for a, i in zip(inside.start, index, strict=False)]
            self._read_run(pixels[index], outer, inside)
        return pixels.transpose(self._order)

    def _read_run(self, into: Pixels, outer: list[int], window: Window) -> None:
        """Fill all that lies at one index of the outer axes, some steps of the split axis at a time."""
        split, sides, itemsize = self._split, self._layout.shape, self._layout.dtype.itemsize
        inner = tuple(slice(a, b) for a, b in zip(window.start[split + 1 :], window.stop[split + 1 :], strict=True))
        many = max(1, READ_BYTES // (self._step_px * itemsize))
        first = 0
        for n, place in zip(sides[:split], outer, strict=True):
            first = first * n + place
        for begin in range(window.start[split], window.stop[split], many):
            end = min(begin + many, window.stop[split])
            at = (first * sides[split] + begin) * self._step_px * itemsize
            flat = np.frombuffer(self._bytes(at, (end - begin) * self._step_px * itemsize), dtype=self._layout.dtype)
            run = flat.reshape(end - begin, *sides[split + 1 :])
            into[begin - window.start[split] : end - window.start[split]] = run[(slice(None), *inner)]

    def _bytes(self, at: int, count: int) -> bytes:
        if self._opened is None:
            self._opened = self._open()
        self._opened.seek(self._offset + at)
        found = self._opened.read(count)
        if len(found) != count:
            raise EOFError(f"expected {count} bytes at {self._offset + at}, got {len(found)}")
        return found

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


def _unpacked(file: SourceFile, layout: Layout) -> IO[bytes]:
    """The array alone, in a temporary file without a name: it is gone with the process, however that ends."""
    with file.open() as opened, contextlib.ExitStack() as failed:
        opened.seek(layout.packed_offset)
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=opened) if layout.codec == "gzip" else bz2.BZ2File(opened))
        copy = failed.enter_context(tempfile.TemporaryFile(prefix="segcore-source-"))
        try:
            for wanted, kept in ((layout.offset, False), (layout.num_bytes, True)):
                _pass(stream, copy if kept else None, wanted)
            stream.read(1)  # at the end of a gzip stream its checksum is compared
        except EOFError as error:
            end = layout.offset + layout.num_bytes
            said = f"{file.uri}: the packed file ends early, expected {end} bytes of it"
            raise SourceError(f"{said}; it is cut off: copy it again") from error
        failed.pop_all()
    return copy


def _pass(stream: IO[bytes], copy: IO[bytes] | None, wanted: int) -> None:
    """Take so many bytes from a stream, and no more; copied, or dropped."""
    while wanted > 0:
        block = stream.read(min(READ_BYTES, wanted))
        if not block:
            raise EOFError
        if copy is not None:
            copy.write(block)
        alive()
        wanted -= len(block)


def narrowed(pixels: Pixels, dtype: str) -> Pixels:
    """Whole numbers of 64 bits in 32.

    Raises:
        ValueError: if one does not fit.
    """
    bounds = np.iinfo(dtype)
    wrong = pixels[(pixels < bounds.min) | (pixels > bounds.max)]
    if wrong.size:
        raise ValueError(f"{pixels.dtype} is read as {dtype}, and {wrong.flat[0]} does not fit; convert the file")
    return pixels.astype(dtype)
