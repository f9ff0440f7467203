"""Morphology: binary opening and closing of each class, by a ball; codes of a window -> codes.

What is beyond the array, or `ignore`, is not known: it neither takes from a class nor adds to it, as in
`skimage.morphology` (mode "ignore"). A pixel depends on nothing farther away than `context` says.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from segcore.components.cells import Codes
from segcore.geometry import Ints

Bools = npt.NDArray[np.bool_]
ROUNDING = 1e-9
"""So that a radius of 3 um has the pixels that are 3 um away."""


class Ball(BaseModel):
    """All pixels whose centres are no farther away than `radius`: a disc in a plane."""

    model_config = ConfigDict(frozen=True)

    radius: float
    sides: tuple[float, ...]
    """Of a pixel by axis, in the radius's unit; 0 = not along this axis."""

    @property
    def reach(self) -> Ints:
        """How many px it reaches along each axis."""
        return tuple(int(self.radius * (1 + ROUNDING) / side) if side else 0 for side in self.sides)

    def lines(self) -> list[tuple[Ints, int]]:
        """Its lines along x: where they lie on the axes before it, and how many px they reach to both sides."""
        found = []
        for offset in itertools.product(*(range(-n, n + 1) for n in self.reach[:-1])):
            off = sum((d * side) ** 2 for d, side in zip(offset, self.sides[:-1], strict=True))
            left = self.radius**2 * (1 + ROUNDING) - off
            if left >= 0:
                found.append((offset, int(math.sqrt(left) * (1 + ROUNDING) / self.sides[-1])))
        return found


def context(balls: Sequence[Ball | None], ndim: int) -> Ints:
    """How far around a pixel has to be seen, by axis, to open and close by these balls."""
    reaches = [ball.reach for ball in balls if ball is not None]
    return tuple(2 * sum(reach[axis] for reach in reaches) for axis in range(ndim))


def dilated(mask: Bools, ball: Ball) -> Bools:
    """Pixels with a pixel of the mask in the ball around them; none lies beyond the array."""
    out, by_width = np.zeros_like(mask), dict[int, Bools]()
    for offset, reach in ball.lines():
        if reach not in by_width:
            by_width[reach] = _smeared(mask, reach)
        if any(abs(d) >= n for d, n in zip(offset, mask.shape[:-1], strict=True)):
            continue
        there = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(offset, mask.shape[:-1], strict=True))
        here = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip(offset, mask.shape[:-1], strict=True))
        out[here] |= by_width[reach][there]
    return out


def _smeared(mask: Bools, reach: int) -> Bools:
    """Pixels with one of the mask within so many px along x; spans of a length are two of half of it."""
    spans, length = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(reach, reach)]), 1
    while 2 * length <= 2 * reach + 1:
        spans = spans[..., :-length] | spans[..., length:]
        length *= 2
    rest, width = 2 * reach + 1 - length, mask.shape[-1]
    return np.asarray(spans[..., :width] | spans[..., rest : rest + width])


def eroded(mask: Bools, ball: Ball) -> Bools:
    """Pixels with nothing but the mask in the ball around them; what lies beyond the array is of the mask."""
    return ~dilated(~mask, ball)


def opened(codes: Codes, wanted: Sequence[int], ball: Ball, ignore: int, instead: int) -> Codes:
    """Each class opened; what it loses becomes `instead`.

    Args:
        codes: of a window.
        wanted: classes that are opened.
        ball: by which.
        ignore: the code of pixels that nobody knows.
        instead: the code that comes in the place of what goes.
    """
    unknown, out = codes == ignore, codes.copy()
    for code in wanted:
        own = codes == code
        if own.any():
            out[own & ~dilated(eroded(own | unknown, ball) & ~unknown, ball)] = instead
    return out


def closed(codes: Codes, wanted: Sequence[int], ball: Ball, ignore: int, free: Sequence[int]) -> Codes:
    """Each class closed, over what is free; where several close over a pixel, the first of them has it.

    Args:
        codes: of a window.
        wanted: classes that are closed, in their order.
        ball: by which.
        ignore: the code of pixels that nobody knows.
        free: codes that may be closed over.
    """
    unknown, out = codes == ignore, codes.copy()
    left = np.logical_or.reduce([codes == code for code in free])
    for code in wanted:
        own = codes == code
        if own.any():
            taken = left & eroded(dilated(own, ball) | unknown, ball)
            out[taken] = code
            left &= ~taken
    return out
