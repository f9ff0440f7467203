"""AOI: the area of interest of a target: outside it nothing is labelled, so that the target is ignore there.

target -----------+
AOI (shapes, or   +-> AoiTarget: inside as the target says, outside ignore and no object
a mask file) -----+

Predict asks `touched`, in a child process, where an AOI lies at all.
"""

import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely

from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.isolation import Beat
from segcore.sources import Opening, SourceInfo
from segcore.sources.base import Limits, Pixels, Valid, decoding
from segcore.targets.base import Target, TargetOpening
from segcore.targets.drawing import Drawing
from segcore.targets.masks import ValidMask
from segcore.targets.placing import place
from segcore.targets.vector import is_shapes, read_shapes


class Aoi:
    """Which pixels are inside: those whose centre lies in a polygon, or those of a mask file that are not 0."""

    notes: tuple[str, ...] = ()

    def __init__(self, uri: str, image: SourceInfo, buffer: float, limits: Limits) -> None:
        self._mask: ValidMask | None = None
        if not is_shapes(uri):
            self._mask = ValidMask(uri, image, Opening(limits=limits, indexed=True))
            return
        with decoding(uri):
            placed = place(read_shapes(uri, limits), image, buffer)
            self._drawing = Drawing(placed.areas, image.shape[-2:])
        if not self._drawing.pieces.size:
            raise SourceError(f"{uri}: holds no polygon, so that no pixel would count; draw one, or leave the AOI out")
        self.notes = tuple(f"AOI: {note}" for note in placed.notes)

    def read(self, window: Window) -> Valid:
        """Boolean, True = inside, of a window over (y, x), or over (z, y, x) or (t, y, x): all planes alike."""
        if self._mask is not None:
            return self._mask.read(window)
        plane = Window(window.start[-2:], window.shape[-2:])
        return np.broadcast_to(self._drawing.read(plane) > 0, window.shape)

    def close(self) -> None:
        """Give back the mask file."""
        if self._mask is not None:
            self._mask.close()


class AoiTarget(Target):
    """A target inside an AOI; outside it, ignore and no objects."""

    def __init__(self, target: Target, aoi: Aoi) -> None:
        self._target, self._aoi = target, aoi
        self.kind, self.classes = target.kind, target.classes
        self.dtype, self.ignore = target.dtype, target.ignore
        self.has_instances = target.has_instances
        self.notes = (*target.notes, *aoi.notes)

    def read(self, window: Window) -> Pixels:
        return np.where(self._aoi.read(window), self._target.read(window), self.dtype.type(self.ignore))

    def read_instances(self, window: Window) -> npt.NDArray[np.uint32]:
        return np.where(self._aoi.read(window), self._target.read_instances(window), np.uint32(0))

    def close(self) -> None:
        self._aoi.close()
        self._target.close()


def within(target: Target, uri: str, image: SourceInfo, how: TargetOpening) -> Target:
    """The target inside the AOI of a file: polygons, or a mask of the image's size (not 0 = inside).

    The target is closed with what this gives, or where this raises.

    Raises:
        SourceError: if the file cannot be read, or lies elsewhere than the image.
    """
    try:
        return AoiTarget(target, Aoi(uri, image, how.buffer, how.opening.limits))
    except BaseException:
        target.close()
        raise


def touched(beat: Beat, uri: str, image: SourceInfo, factor: int) -> Valid:
    """Which squares of `factor` x `factor` pixels an AOI touches: (Y, X), True = touched.

    Args:
        beat: called when the file is read.
        uri: polygons.
        image: what they lie over.
        factor: sides of a square.

    Raises:
        SourceError: if the file cannot be read, holds no polygon, or lies elsewhere than the image.
    """
    if not is_shapes(uri):
        raise SourceError(f"{uri}: expected polygons as AOI (GeoJSON, GeoPackage, shapefile)")
    with decoding(uri):
        shapes = read_shapes(uri, Limits())
        beat(0)
        num_thin = int((shapely.get_dimensions(shapes.geometries) < 2)[~shapely.is_empty(shapes.geometries)].sum())
        if num_thin:
            raise SourceError(f"{uri}: {num_thin} features are lines or points; leave them out of the AOI")
        areas = place(shapes, image, buffer=0.0).areas
        height, width = image.shape[-2:]
        inside = shapely.intersection(areas, shapely.box(0, 0, width, height))
        inside = inside[~shapely.is_empty(inside)]
        if not inside.size:
            raise SourceError(f"{uri}: no polygon of it lies on the image {image.uri}; draw one, or leave the AOI out")
        squares = shapely.transform(inside, lambda points: points / factor)
        shape = (-(-height // factor), -(-width // factor))
        drawn = rasterio.features.rasterize(squares.tolist(), out_shape=shape, all_touched=True, dtype=np.uint8)
        return np.asarray(drawn, dtype=np.bool_)
