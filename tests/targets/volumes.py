"""Sources in memory for the tests of targets, and volumes with a place in the patient."""

from contextlib import closing
from typing import Any

import numpy as np

from segcore.geometry import Window
from segcore.sources import Source, SourceInfo
from segcore.spatial import Affine
from segcore.targets import Target

CT_AXES = ("c", "z", "y", "x")


class Memory(Source):
    """A source of an array in memory."""

    def __init__(self, pixels: Any, axes: tuple[str, ...] = CT_AXES, **fields: Any) -> None:
        self.uri, self.pixels = str(fields.pop("uri", "labels.nii")), pixels
        self.info = source_info(pixels.shape, axes, uri=self.uri, dtype=pixels.dtype.name, **fields)
        self.largest_px = 0
        """Of all windows that were read."""

    def _read(self, window: Window) -> Any:
        self.largest_px = max(self.largest_px, window.num_px)
        return self.pixels[window.slices]

    def close(self) -> None:
        self.pixels = self.pixels[:0]


def source_info(shape: tuple[int, ...], axes: tuple[str, ...] = CT_AXES, **fields: Any) -> SourceInfo:
    channels = tuple(f"c{i}" for i in range(shape[axes.index("c")]))
    given = {"uri": "image.nii", "reader": "memory", "reader_version": "-", "num_bytes": 1, "dtype": "int16"}
    return SourceInfo(**{**given, "axes": axes, "shape": shape, "channels": channels, **fields})


def whole(target: Target, shape: tuple[int, ...]) -> Any:
    """All ids of a target, which is closed."""
    with closing(target):
        return target.read(Window.whole(shape))


def affine(matrix: Any) -> Affine:
    rows: Any = tuple(tuple(float(value) for value in row) for row in np.asarray(matrix))
    return Affine(matrix=rows, orientation="RAS")


def rotation(degrees: float, axis: int) -> Any:
    """4 x 4, about x, y or z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = [at for at in range(3) if at != axis]
    found = np.eye(4)
    found[first, first], found[first, second], found[second, first], found[second, second] = c, -s, s, c
    return found
