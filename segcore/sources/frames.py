"""Frames: files of one place over time, as one (T,C,Y,X) image; only those that a window touches are opened."""

import re
from collections import OrderedDict
from typing import Any

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources.base import Opening, Pixels, Source, SourceInfo, Valid, check_shape
from segcore.sources.files import SourceFile
from segcore.sources.joined import Joined, OpenSource

AXES = ("t", "c", "y", "x")

MAX_OPEN = 2
"""Frames that stay open: work goes through the shards of one time, then through those of the next."""

SAME = ("axes", "shape", "dtype", "channels", "spacing", "georef", "nodata", "has_valid")
"""What the first frame decides for all."""


class FramesSource(Source):
    """A sequence of files, in the natural order of their names."""

    def __init__(self, joined: Joined, opening: Opening, open_source: OpenSource) -> None:
        self.uri = joined.uri
        self._parts = sorted(joined.parts, key=natural_order)
        self._opening, self._open_source = opening, open_source
        self._kept: OrderedDict[int, Source] = OrderedDict()
        with open_source(self._parts[0], opening) as source:
            first = self._first = source.info
        if first.axes != ("c", "y", "x"):
            raise SourceError(f"{first.uri}: a frame is one picture (c, y, x), this has {', '.join(first.axes)}")
        shape = (len(self._parts), *first.shape)
        check_shape(joined.uri, AXES, shape, np.dtype(first.dtype), opening.limits)
        self.info = SourceInfo(
            uri=joined.uri,
            reader="frames",
            reader_version=first.reader_version,
            axes=AXES,
            shape=shape,
            dtype=first.dtype,
            channels=first.channels,
            spacing=first.spacing,
            georef=first.georef,
            nodata=first.nodata,
            has_valid=first.has_valid,
            num_bytes=sum(SourceFile(part).num_bytes for part in self._parts),
            details={"kind": f"frames ({first.reader})", "frames": len(self._parts), "first": first.details},
        )

    def _frame(self, index: int) -> Source:
        """An open frame, which is like the first one."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        while len(self._kept) >= MAX_OPEN:
            self._kept.popitem(last=False)[1].close()
        frame = self._open_source(self._parts[index], self._opening)
        for name in SAME:
            expected, got = getattr(self._first, name), getattr(frame.info, name)
            if expected != got:
                frame.close()
                raise SourceError(
                    f"{frame.uri}: frames of one sequence have to agree; its {name} is {_said(got)}, that of the "
                    f"first, {self._first.uri}, is {_said(expected)}"
                )
        self._kept[index] = frame
        return frame

    def _read(self, window: Window) -> Pixels:
        times, plane = range(window.start[0], window.stop[0]), Window(window.start[1:], window.shape[1:])
        return np.stack([self._frame(t).read(plane) for t in times])

    def _read_valid(self, window: Window) -> Valid:
        times, plane = range(window.start[0], window.stop[0]), Window(window.start[1:], window.shape[1:])
        return np.stack([self._frame(t).read_valid(plane) for t in times])

    def close(self) -> None:
        while self._kept:
            self._kept.popitem()[1].close()


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key by which img2 comes before img10: runs of digits count as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _said(value: Any) -> str:
    """A property for a person."""
    if value is None or value is False:
        return "none"
    return " x ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def open_joined(joined: Joined, opening: Opening, open_source: OpenSource) -> Source:
    """Open files as one sequence; see `Joined`."""
    return FramesSource(joined, opening, open_source)
