"""Base: what all classic methods share; tiles (N, C, Y, X) -> *class ids of each* -> logits (N, K, Y, X).

    tile (C, Y, X) -> Gaussian blur -> method -> ids (Y, X) -> small objects and holes removed -> logits

There is nothing to learn: arguments take the place of weights, and `segcore tune` searches them. So that they mean the
same everywhere, pixels come as fractions of the range of their type: 0..1 for unsigned integers (uint8: value / 255),
floats as they are. Of a stretched image it is the fraction of the image's own range.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy import ndimage
from torch import nn

from segcore.models.arguments import ModelArguments

CERTAIN = 10.0
"""Logit of the class that a method answers, the others have 0: its probability is over 0.9999 for two classes."""
TRUNCATE = 4.0
"""The Gaussian kernel ends after so many deviations, as scikit-image's does."""
EIGHT = np.ones((3, 3), bool)
"""Pixels that touch at a corner are neighbours."""

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class ClassicArguments(ModelArguments):
    """Of every classic method."""

    sigma: float = Field(default=0.0, ge=0, le=64)
    """Standard deviation in px of the Gaussian blur that comes first; 0 = none."""

    @property
    def sees_all(self) -> bool:
        """Whether what they ask for depends on all of a tile, however little the method sees otherwise."""
        return False


class MaskArguments(ClassicArguments):
    """Of a method that tells foreground, class 1, from the rest."""

    min_size: int = Field(default=0, ge=0)
    """Objects, and then holes, of fewer px are removed; it adds twice as many px to what a tile needs to see."""


class ClassicModel(nn.Module):
    """A model that has no weights: it answers with class ids, tile by tile, on the CPU."""

    stride = 1

    def __init__(self, arguments: ClassicArguments, reach_px: int | None = None) -> None:
        """The method itself sees `reach_px` around a pixel of the blurred tile; None = all of the tile."""
        super().__init__()
        self.num_classes, self._sigma = arguments.num_classes, arguments.sigma
        if arguments.sees_all:
            reach_px = None
        self.context_px = None if reach_px is None else reach_px + gaussian_reach(arguments.sigma)
        """What a tile needs to see around the part that it writes; None = all of it, so that no halo is enough."""

    def ids(self, tile: Floats) -> Ids:
        """Class ids (Y, X) of a tile (C, Y, X), blurred by now."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, Y, X) of tiles (N, C, Y, X), on their device, in their dtype."""
        values = np.ascontiguousarray(tiles.detach().to("cpu", torch.float64).numpy())
        found = torch.from_numpy(np.stack([self.ids(self._blurred(tile)) for tile in values]))
        one_hot = F.one_hot(found, self.num_classes).movedim(-1, 1)
        return (CERTAIN * one_hot).to(tiles.device, tiles.dtype)

    def _blurred(self, tile: Floats) -> Floats:
        return blurred(tile, self._sigma) if self._sigma else tile


class MaskModel(ClassicModel):
    """A classic method of two classes.

    Raises:
        ValueError: if there are more.
    """

    def __init__(self, arguments: MaskArguments, reach_px: int | None = None) -> None:
        # An object of fewer px lies, with all its neighbours, within that many px of each of its own.
        super().__init__(arguments, None if reach_px is None else reach_px + 2 * arguments.min_size)
        if arguments.num_classes != 2:
            raise ValueError(
                f"it tells two classes apart, got {arguments.num_classes}; multi_otsu, felzenszwalb and slic take more"
            )
        self._min_size = arguments.min_size

    def mask(self, tile: Floats) -> Mask:
        """True where the foreground is."""
        raise NotImplementedError

    def ids(self, tile: Floats) -> Ids:
        mask = self.mask(tile)
        mask = without_small(mask, self._min_size)
        return (~without_small(~mask, self._min_size)).astype(np.int64)


def checked_band(argument: str, band: int, in_channels: int) -> int:
    """The band's place from 0.

    Raises:
        ValueError: if there is no such band.
    """
    if not -in_channels <= band < in_channels:
        raise ValueError(f"{argument} {band}: expected one of the image's {in_channels} bands, 0 to {in_channels - 1}")
    return band % in_channels


def blurred(values: Floats, sigma: float) -> Floats:
    """Gaussian blur of the last two axes."""
    sigmas = (*(0,) * (values.ndim - 2), sigma, sigma)
    return np.asarray(ndimage.gaussian_filter(values, sigmas, truncate=TRUNCATE))


def gaussian_reach(sigma: float) -> int:
    """Px from a pixel to the farthest that its blurred value depends on."""
    return int(TRUNCATE * sigma + 0.5)


def without_small(mask: Mask, min_size: int) -> Mask:
    """The mask without its objects of fewer than `min_size` px; those that touch at a corner are one."""
    if min_size < 2:
        return mask
    labels: npt.NDArray[Any] = ndimage.label(mask, EIGHT)[0]
    kept: Mask = np.bincount(labels.ravel()) >= min_size
    kept[0] = False
    return np.asarray(kept[labels])
