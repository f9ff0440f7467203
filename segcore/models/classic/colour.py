"""Colour: a pixel's class by how its bands relate: stains of histology, plants and water of satellites.

stain   optical density -> amounts of haematoxylin, eosin and DAB -> one of them above a threshold
index   (a - b) / (a + b) above a threshold
"""

import math
from typing import Literal

import numpy as np
from pydantic import Field
from skimage.color import hed_from_rgb

from segcore.models.classic.base import Floats, Mask, MaskArguments, MaskModel, checked_band

DARKEST = 1e-6
"""Light that is let through at least; scikit-image takes the same."""
STAINS = {"haematoxylin": 0, "eosin": 1, "dab": 2}


class StainArguments(MaskArguments):
    """What a stain's mask is built from."""

    stain: Literal["haematoxylin", "eosin", "dab"] = "haematoxylin"
    """What is looked for: nuclei are haematoxylin, plasma and fibres eosin, what an antibody marks DAB."""
    threshold: float = 0.3
    """Amount of the stain from which a pixel is foreground, in optical density (-log10 of the light let through)."""


class Stain(MaskModel):
    """Colour deconvolution with the published stains, of the first three bands (red, green, blue).

    Ruifrok and Johnston, "Quantification of Histochemical Staining by Color Deconvolution" (2001). What is let through
    is a fraction of the type's range, so that white, the glass, has none of any stain.

    Raises:
        ValueError: if there are fewer than three bands.
    """

    def __init__(self, arguments: StainArguments) -> None:
        super().__init__(arguments, reach_px=0)
        if arguments.in_channels < 3:
            raise ValueError(f"stains are told by red, green and blue, got {arguments.in_channels} bands")
        self._mix = hed_from_rgb[:, STAINS[arguments.stain]]
        self._threshold = arguments.threshold

    def mask(self, tile: Floats) -> Mask:
        return self.amount(tile) > self._threshold

    def amount(self, tile: Floats) -> Floats:
        """Optical density (Y, X) of the stain alone."""
        density = -np.log(np.maximum(tile[:3], DARKEST)) / math.log(10)
        red, green, blue = (share * band for share, band in zip(self._mix, density, strict=True))
        return np.asarray(red + green + blue)


class IndexArguments(MaskArguments):
    """Of an index of two bands, one of them near infrared; training finds bands by their names (training/bands.py)."""

    nir: int = -1
    """Band of near infrared, by its name, by its number from 0, or from the end if negative. Where it is not given:
    by the names of the images' bands, and this where they do not tell."""


class NDVIArguments(IndexArguments):
    """What the rule for plants is built from."""

    red: int = 0
    """Band of red, likewise."""
    threshold: float = Field(default=0.3, ge=-1, le=1)
    """Index above which a pixel is foreground: sparse green from 0.2, dense from 0.5."""


class NDWIArguments(IndexArguments):
    """What the rule for open water is built from."""

    green: int = 1
    """Band of green, likewise."""
    threshold: float = Field(default=0.0, ge=-1, le=1)
    """Index above which a pixel is foreground."""


class NormalizedDifference(MaskModel):
    """(a - b) / (a + b) > threshold; 0 where both are 0.

    Raises:
        ValueError: if there is no such band.
    """

    def __init__(self, arguments: MaskArguments, bands: tuple[int, int], threshold: float) -> None:
        super().__init__(arguments, reach_px=0)
        self._bands, self._threshold = bands, threshold

    def mask(self, tile: Floats) -> Mask:
        a, b = (tile[band] for band in self._bands)
        total = a + b
        index = np.divide(a - b, total, out=np.zeros_like(total), where=total != 0)
        return np.asarray(index > self._threshold)


def ndvi(arguments: NDVIArguments) -> NormalizedDifference:
    """Plants reflect near infrared and swallow red: Rouse et al. (1974)."""
    bands = (_band("nir", arguments.nir, arguments), _band("red", arguments.red, arguments))
    return NormalizedDifference(arguments, bands, arguments.threshold)


def ndwi(arguments: NDWIArguments) -> NormalizedDifference:
    """Water reflects green and swallows near infrared: McFeeters (1996)."""
    bands = (_band("green", arguments.green, arguments), _band("nir", arguments.nir, arguments))
    return NormalizedDifference(arguments, bands, arguments.threshold)


def _band(argument: str, band: int, arguments: MaskArguments) -> int:
    return checked_band(argument, band, arguments.in_channels)
