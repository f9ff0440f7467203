"""Grey: the one value a pixel that a method looks at, turned so that larger = more of the foreground.

Otsu, "A Threshold Selection Method from Gray-Level Histograms" (1979), of the tile, whose histogram has 256 levels.
"""

from typing import Literal

from pydantic import Field
from skimage import filters

from segcore.models.classic.base import ClassicArguments, Floats, checked_band

LEVELS = 256
"""Of a tile's histogram."""


class GreyArguments(ClassicArguments):
    """Of a method that looks at one value a pixel."""

    sigma: float = Field(default=1.0, ge=0, le=64)
    """Standard deviation in px of the Gaussian blur that comes first; 0 = none."""
    band: int | None = None
    """The band that is looked at, from 0, or from the end if negative; none = the mean of all (grey)."""
    foreground: Literal["bright", "dark", "rarer"] = "bright"
    """Which side has the higher class; rarer = of each tile that of fewer pixels, as Otsu's threshold divides it."""

    @property
    def sees_all(self) -> bool:
        return self.foreground == "rarer"


class Grey:
    """Tile -> its values, and by which side they were turned.

    Raises:
        ValueError: if there is no such band.
    """

    def __init__(self, arguments: GreyArguments) -> None:
        self._band = None if arguments.band is None else checked_band("band", arguments.band, arguments.in_channels)
        self._foreground = arguments.foreground

    def __call__(self, tile: Floats) -> tuple[Floats, float]:
        """(C, Y, X) -> (Y, X), and 1 or -1, by which a threshold of the user's is to be multiplied too."""
        grey: Floats = tile.mean(axis=0) if self._band is None else tile[self._band]
        is_bright = self._foreground == "bright"
        if self._foreground == "rarer":
            is_bright = bool((grey > otsu(grey)).mean() <= 0.5)
        sign = 1.0 if is_bright else -1.0
        return sign * grey, sign


def otsu(values: Floats, sign: float = 1.0) -> float:
    """The threshold that divides values best in two; of values that are all alike these themselves.

    Args:
        values: (Y, X).
        sign: -1 = of values that were turned over: the threshold is that of the others, turned over.
    """
    return sign * float(filters.threshold_otsu(sign * values, nbins=LEVELS))  # type: ignore[no-untyped-call]
