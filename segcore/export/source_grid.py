"""Source grid: a mask on the pixels of the file that its image was made of; mask -> *planes* -> NIfTI, DICOM SEG.

    mask         |    0    |    1    |    2    |     factor = sides of a pixel of the mask, in pixels of the source
    source grid  |  0  |  1  |  2  |  3  |  4  |     pixel i takes the pixel of the mask in which its centre lies

The two differ where the image was resampled as it was ingested (`--spacing`), and where the model reads a coarser
level. Along y and x; z is never resampled.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.geometry import Ints, Window
from segcore.spatial import Affine, Spacing
from segcore.store import Image, Label
from segcore.taps import Axis

BAND_PX = 2**24
"""Pixels that are read at once."""


class SourceGrid:
    """A mask with the axes (y, x) or (z, y, x), as its source has them."""

    def __init__(self, image: Image, mask: Label) -> None:
        told = image.attributes.get("details", {}).get("resampled")
        step = (1.0, 1.0) if told is None else tuple(told["step"])
        sides = image.shape()[-2:] if told is None else tuple(told["source_shape"])
        self._image, self._mask, self._step = image, mask, step
        self.shape: Ints = (*mask.shape()[:-2], *sides)
        factors = (side * 2**mask.base_level for side in step)
        self._y, self._x = (Axis(1 / f, n) for f, n in zip(factors, mask.shape()[-2:], strict=True))

    @property
    def num_planes(self) -> int:
        return self.shape[0] if len(self.shape) > 2 else 1

    def read(self, window: Window) -> npt.NDArray[Any]:
        """The ids of a window."""
        if (self._y.step, self._x.step) == (1.0, 1.0) and self.shape == self._mask.shape():
            return self._mask.read(window)
        rows, columns = (axis.nearest(window.start[at], window.stop[at]) for at, axis in ((-2, self._y), (-1, self._x)))
        start = (int(rows[0]), int(columns[0]))
        sides = (int(rows[-1]) + 1 - start[0], int(columns[-1]) + 1 - start[1])
        found = self._mask.read(Window((*window.start[:-2], *start), (*window.shape[:-2], *sides)))
        return found.take(rows - start[0], axis=-2).take(columns - start[1], axis=-1)

    def bands(self) -> Iterator[npt.NDArray[Any]]:
        """All ids in C order, in pieces (rows, X) of one plane each."""
        height, width = self.shape[-2:]
        num_rows = max(1, BAND_PX // width)
        for plane in np.ndindex(self.shape[:-2]):
            for top in range(0, height, num_rows):
                window = Window((*plane, top, 0), (*(1,) * len(plane), min(num_rows, height - top), width))
                yield self.read(window).reshape(-1, width)

    @cached_property
    def affine(self) -> Affine | None:
        """Of the source, where it has one."""
        value = self._image.attributes.get("affine")
        affine = Affine.model_validate(value) if value else None
        if affine is None or self._step == (1.0, 1.0):
            return affine
        return affine.scaled(1 / self._step[1], 1 / self._step[0])

    @cached_property
    def spacing(self) -> Spacing | None:
        """Of the source, where it has one."""
        spacing = self._image.spacing
        if spacing is None:
            return None
        steps = dict(zip("yx", self._step, strict=True))
        return spacing.model_copy(
            update={"values": {axis: size / steps.get(axis, 1.0) for axis, size in spacing.values.items()}}
        )
