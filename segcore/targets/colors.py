"""Colours of a mask: packed into one number each, and looked up in a class table, exactly or nearly."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segcore.classes import RGB
from segcore.errors import SourceError
from segcore.sources.base import Pixels
from segcore.targets.class_table import ClassTable

UNKNOWN = -1
"""Instead of an id: no colour of the table is near."""
CHUNK = 1 << 16

Codes = npt.NDArray[np.uint32]


def packed(uri: str, pixels: Pixels) -> Codes:
    """Colours (3, ...) as 0xRRGGBB (...).

    Raises:
        SourceError: if they do not have 8 bits per channel.
    """
    if pixels.dtype != np.uint8:
        raise SourceError(f"{uri}: a colour-coded mask has 8 bits per channel, this one {pixels.dtype}")
    red, green, blue = pixels.astype(np.uint32)
    return np.asarray(red << 16 | green << 8 | blue)


def ids_of_colors(codes: Codes, table: ClassTable, tolerance: int) -> npt.NDArray[np.int64]:
    """The id of each colour: that of the table's nearest, if no channel differs by more than `tolerance`.

    Args:
        codes: colours 0xRRGGBB, each once: there are far fewer of them than pixels.
        table: a class table with colours, which lie more than twice the tolerance apart.
        tolerance: the largest difference in a channel.

    Returns:
        Ids, the table's `ignore` for ignored colours, UNKNOWN where none is near.
    """
    known = np.array([color for color, _ in table.colors], dtype=np.int16).reshape(-1, 3)
    ids = np.array([number for _, number in table.colors], dtype=np.int64)
    found = np.full(codes.shape, UNKNOWN, dtype=np.int64)
    for start in range(0, len(codes) if len(ids) else 0, CHUNK):
        some = codes[start : start + CHUNK]
        colors = np.stack([some >> 16 & 0xFF, some >> 8 & 0xFF, some & 0xFF], axis=1).astype(np.int16)
        nearest, distance = np.zeros(len(some), np.int64), np.full(len(some), 256, np.int16)
        for number, color in zip(ids, known, strict=True):
            here = np.abs(colors - color).max(axis=1)
            nearest[here < distance] = number
            distance = np.minimum(distance, here)
        found[start : start + CHUNK] = np.where(distance <= tolerance, nearest, UNKNOWN)
    return found


def code_of(color: Sequence[int]) -> int:
    """Red, green, blue as 0xRRGGBB."""
    return color[0] << 16 | color[1] << 8 | color[2]


def rgb_of(code: int) -> RGB:
    """0xRRGGBB as red, green, blue."""
    return code >> 16, code >> 8 & 0xFF, code & 0xFF
