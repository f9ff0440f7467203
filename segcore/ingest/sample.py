"""Sample: a few windows of a source, compressed, for an honest guess of what it takes in the workspace."""

import zlib

import numpy as np

from segcore.geometry import Window
from segcore.sources import Source

SIDE_PX = 256
LEVEL = 1
"""Of zlib, which is always there and packs about as well as the store's zstd does at its level 1."""


def compressed_share(source: Source) -> float:
    """Compressed size of five windows of one plane, in the middle and halfway to the corners, by that uncompressed."""
    shape = source.info.shape
    stored = packed = 0
    for y, x in ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3)):
        start, sides = [], []
        for axis, n in zip(source.info.axes, shape, strict=True):
            size = n if axis == "c" else min(n, SIDE_PX) if axis in "yx" else 1
            centre = n * {"y": y, "x": x}.get(axis, 2) // 4
            start.append(0 if axis == "c" else min(max(centre - size // 2, 0), n - size))
            sides.append(size)
        pixels = source.read(Window(tuple(start), tuple(sides)))
        values = np.ascontiguousarray(np.moveaxis(pixels, source.info.axes.index("c"), -1))
        stored += values.nbytes
        packed += len(zlib.compress(values.data, LEVEL))
    return packed / stored
