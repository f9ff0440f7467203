"""TIFF orientation: windows and pixels of a picture that is stored turned or mirrored (tag 274).

display[y, x] = stored[rows, columns]    rows and columns run backwards where flipped, and swap where transposed
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segcore.geometry import Window
from segcore.sources.base import Pixels

FLIPPED_ROWS, FLIPPED_COLUMNS, TRANSPOSED = (3, 4, 6, 7), (2, 3, 7, 8), (5, 6, 7, 8)
"""By the tag's values 1 to 8 (TIFF 6.0, page 36)."""


@dataclass(frozen=True)
class Orientation:
    """How a picture is stored; 1 = upright."""

    value: int = 1

    @property
    def is_transposed(self) -> bool:
        """True if y of the picture is x of what is stored."""
        return self.value in TRANSPOSED

    def shown(self, sides: tuple[int, int]) -> tuple[int, int]:
        """(y, x) of the picture, from those that are stored; or the other way round."""
        return (sides[1], sides[0]) if self.is_transposed else sides

    def stored_window(self, window: Window, sides: tuple[int, int]) -> Window:
        """The stored window that holds a window over (y, x) of the picture, whose stored sides are `sides`."""
        start, shape = self.shown((window.start[0], window.start[1])), self.shown((window.shape[0], window.shape[1]))
        flipped = self.value in FLIPPED_ROWS, self.value in FLIPPED_COLUMNS
        return Window(
            tuple(
                n - a - size if is_flipped else a
                for n, a, size, is_flipped in zip(sides, start, shape, flipped, strict=True)
            ),
            shape,
        )

    def turned(self, stored: npt.NDArray[np.generic]) -> Pixels:
        """(rows, columns, ...) as stored -> (Y, X, ...) of the picture; a view."""
        rows = slice(None, None, -1 if self.value in FLIPPED_ROWS else 1)
        columns = slice(None, None, -1 if self.value in FLIPPED_COLUMNS else 1)
        flipped = stored[rows, columns]
        return flipped.swapaxes(0, 1) if self.is_transposed else flipped
