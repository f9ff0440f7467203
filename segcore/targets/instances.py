"""Instances: one mask file per object, as in the Data Science Bowl of 2018."""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from segcore.geometry import Window
from segcore.sources import SourceInfo
from segcore.sources.base import Pixels, Valid
from segcore.targets.base import Kind, Target, TargetOpening, planes_of
from segcore.targets.masks import MaskTarget, ValidMask, check_whole
from segcore.targets.meaning import two_classes
from segcore.targets.regridded import check_shapes, plane_shape


class _ObjectFile(ExitStack):
    """Where one object is: what is not 0, or above the threshold."""

    def __init__(self, uri: str, image: SourceInfo, how: TargetOpening) -> None:
        super().__init__()
        self._mask: ValidMask | MaskTarget
        if how.threshold is None:
            self._mask = ValidMask(uri, image, how.opening)
            if self._mask.is_plane:
                self._mask.close()
                check_shapes(self._mask.info, image)
        else:
            self._mask = MaskTarget(uri, image, how.model_copy(update={"table": None}))
        self.callback(self._mask.close)

    def read(self, window: Window) -> Valid:
        return np.asarray(self._mask.read(window) == 1)


class InstanceTarget(Target):
    """A target from one file per object: any pixel that is not 0, or is above the threshold, belongs to it.

    Objects are numbered from 1 in the order of the sorted files; where two overlap, the earlier one keeps the pixel.
    """

    kind: Kind = "instances"
    has_instances = True

    def __init__(self, uris: Sequence[str], image: SourceInfo, how: TargetOpening) -> None:
        check_whole(uris[0], image, how.opening.limits.max_whole_px)
        known = two_classes(uris[0], how.table)
        self.classes, self.ignore, self.dtype = known.classes, known.ignore, np.dtype(known.dtype)
        shape = plane_shape(image)
        self._objects: Pixels = np.zeros(shape, dtype=np.min_scalar_type(len(uris)))  # held whole: no wider than needed
        num_shared, empty = 0, []
        for number, uri in enumerate(sorted(uris), 1):
            num_px = 0
            with _ObjectFile(uri, image, how) as file:
                for window in planes_of(shape):
                    part, found = self._objects[window.slices], file.read(window)
                    num_px += int(found.sum())
                    num_shared += int((found & (part > 0)).sum())
                    part[(part == 0) & found] = number
            if num_px == 0:
                empty.append(uri)
        if num_shared:
            self.notes += (f"objects overlap on {num_shared} px; the earlier file keeps them",)
        if empty:
            self.notes += (f"{len(empty)} object files are empty, {empty[0]} among them",)

    def read(self, window: Window) -> Pixels:
        return np.asarray(self._objects[window.slices] > 0).astype(self.dtype)

    def read_instances(self, window: Window) -> npt.NDArray[np.uint32]:
        return self._objects[window.slices].astype(np.uint32)

    def close(self) -> None:
        self._objects = self._objects[:0].copy()
