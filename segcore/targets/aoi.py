"""AOI: the area of interest of a target: outside it nothing is labelled, so that the target is ignore there.

target -----------+
AOI (shapes, or   +-> AoiTarget: inside as the target says, outside ignore and no object
a mask file) -----+
"""

import numpy as np
import numpy.typing as npt

from segcore.errors import SourceError
from segcore.geometry import Window
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
