"""Regions: a tile is divided in many small, even regions, and each gets the class of its mean.

    tile -> regions -> neighbours of similar colour merged -> mean of each -> class

A region has no end that is known beforehand: these methods see all of a tile.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage import segmentation

from segcore.models.classic.base import ClassicModel, Floats, Ids
from segcore.models.classic.grey import Grey, GreyArguments
from segcore.models.classic.thresholds import check_num_classes, classed, multi_otsu

Regions = npt.NDArray[np.int64]
"""(Y, X), numbers from 0."""


class RegionArguments(GreyArguments):
    """Of a method that divides a tile in regions, by all of its bands."""

    merge: float = Field(default=0.0, ge=0)
    """Neighbours whose mean colours are nearer than this, as a fraction of the range of the image's type, merge; 0 =
    none do."""
    threshold: float | None = None
    """Two classes: regions whose mean is above it (dark: below it) are foreground, as a fraction of the range of the
    image's type; none = Otsu's, of the tile after each pixel got its region's mean."""


class RegionModel(ClassicModel):
    """Regions by their mean; `band` says of which band, the regions themselves are of all.

    Raises:
        ValueError: if there are too many classes, or a threshold is given for more than two.
    """

    def __init__(self, arguments: RegionArguments) -> None:
        super().__init__(arguments)
        check_num_classes(arguments.num_classes)
        if arguments.threshold is not None and arguments.num_classes > 2:
            raise ValueError(f"threshold: one tells two classes apart, got {arguments.num_classes}; leave it out")
        self._grey, self._threshold, self._merge = Grey(arguments), arguments.threshold, arguments.merge

    def regions(self, tile: Floats) -> Regions:
        """Of a tile (Y, X, C), bands last."""
        raise NotImplementedError

    def ids(self, tile: Floats) -> Ids:
        colours = np.ascontiguousarray(tile.transpose(1, 2, 0))
        regions = self.regions(colours)
        if self._merge:
            regions = merged(colours, regions, self._merge)
        values, sign = self._grey(tile)
        means = means_of(values, regions)[regions]
        if self._threshold is not None:
            return classed(means, np.array([sign * self._threshold]))
        return classed(means, multi_otsu(means, self.num_classes, sign))


def means_of(values: Floats, regions: Regions) -> Floats:
    """Mean value of each region; 0 of a number that no region has."""
    found = regions.ravel()
    return np.bincount(found, values.ravel()) / np.maximum(1, np.bincount(found))


def merged(colours: Floats, regions: Regions, limit: float) -> Regions:
    """Neighbours whose mean colours are nearer than `limit` become one, and theirs with them.

    As scikit-image's `rag_mean_color` and `cut_threshold`, without a loop over the pixels.
    """
    means = np.stack([means_of(band, regions) for band in colours.transpose(2, 0, 1)], axis=-1)
    first, second = _neighbours(regions)
    near = np.linalg.norm(means[first] - means[second], axis=-1) < limit
    pairs = (np.ones(int(near.sum())), (first[near], second[near]))
    numbers = connected_components(coo_array(pairs, shape=(len(means),) * 2), directed=False)[1]
    found: Regions = numbers.astype(np.int64)[regions]
    return found


def _neighbours(regions: Regions) -> npt.NDArray[Any]:
    """(2, pairs): which regions touch, at a corner too; each pair once or more."""
    shifts = [
        (regions[1:], regions[:-1]),
        (regions[:, 1:], regions[:, :-1]),
        (regions[1:, 1:], regions[:-1, :-1]),
        (regions[1:, :-1], regions[:-1, 1:]),
    ]
    pairs = np.concatenate([np.stack((a[a != b], b[a != b])) for a, b in shifts], axis=1)
    return np.unique(pairs, axis=1)


class FelzenszwalbArguments(RegionArguments):
    """What Felzenszwalb's regions are built from."""

    scale: float = Field(default=100.0, gt=0)
    """Larger = larger regions; of values of 0..255, as in the paper."""
    min_size: int = Field(default=20, ge=1)
    """Smaller regions, in px, are joined to a neighbour."""


class Felzenszwalb(RegionModel):
    """Regions whose differences within are small against those to their neighbours.

    Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation" (2004).
    """

    def __init__(self, arguments: FelzenszwalbArguments) -> None:
        super().__init__(arguments)
        self._scale, self._min_size = arguments.scale, arguments.min_size

    def regions(self, tile: Floats) -> Regions:
        found = segmentation.felzenszwalb(tile, self._scale, sigma=0, min_size=self._min_size)
        return np.asarray(found, np.int64)


class SlicArguments(RegionArguments):
    """What superpixels are built from."""

    segment_px: int = Field(default=16, ge=2)
    """Side of a superpixel, about; their number in a tile follows from it."""
    compactness: float = Field(default=0.1, gt=0)
    """How much nearness in space counts against that in colour, of colours stretched to 0..1 in each tile; larger =
    squarer."""


class Slic(RegionModel):
    """Superpixels: k-means in space and colour, each near the place where it began.

    Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods" (2012).
    """

    def __init__(self, arguments: SlicArguments) -> None:
        super().__init__(arguments)
        self._area, self._compactness = arguments.segment_px**2, arguments.compactness

    def regions(self, tile: Floats) -> Regions:
        count = max(1, round(tile.shape[0] * tile.shape[1] / self._area))
        found = segmentation.slic(tile, count, self._compactness, convert2lab=False, start_label=0)
        return np.asarray(found, np.int64)
