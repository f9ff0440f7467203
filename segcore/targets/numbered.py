"""Numbered: one mask file whose pixel values are object numbers, as Cellpose and StarDist write them."""

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo, default_classes
from segcore.errors import SourceError
from segcore.geometry import Window
from segcore.sources import Joined, SourceInfo
from segcore.sources.base import Pixels
from segcore.targets.base import Kind, Target, TargetOpening, planes_of
from segcore.targets.class_table import ClassTable
from segcore.targets.masks import MaskFile
from segcore.targets.meaning import two_classes
from segcore.targets.regridded import LEFT_OUT_PX, plane_shape, read_planes

OBJECT = "object"
HIGHEST = 2**32 - 1
HIGHEST_WHOLE = {np.dtype(np.float16): 2**11, np.dtype(np.float32): 2**24}
"""Up to here such a float holds every whole number; above, two objects may have become one."""

Numbers = npt.NDArray[np.uint32]


class NumberedTarget(Target):
    """A target from one mask of object numbers: 0 is background, every other value is one object of class 1.

    Numbers are kept as they are, gaps and all. Nothing is read before it is asked for: what a number means needs no
    look at the others. What the file does not know (its nodata but 0, transparent pixels, another field of view) is
    ignored.
    """

    kind: Kind = "objects"
    has_instances = True

    def __init__(self, uri: str | Joined, image: SourceInfo, how: TargetOpening) -> None:
        self._file = MaskFile.open(uri, image, how.opening)
        try:
            info = self._file.source.info
            if info.shape[info.axes.index("c")] != 1:
                raise SourceError(f"{info.uri}: object numbers are one channel of values, this mask has three")
            known = object_classes(info.uri, how.table)
            self.classes, self.ignore, self.dtype = known.classes, known.ignore, np.dtype(known.dtype)
            self._note_regridded()
        except BaseException:
            self._file.close()
            raise

    def _note_regridded(self) -> None:
        """What becomes of a mask on another grid, and how much of it no pixel of the image is under."""
        source, regrid = self._file.source, self._file.regrid
        if regrid is None:
            return
        self.notes += (f"{source.uri}: labels of another grid, brought to the image's by nearest",)
        back, lost = regrid.inverse(), 0
        for window in planes_of(plane_shape(source.info)) if back is not None else ():
            assert back is not None
            numbers, _ = self._numbers(read_planes(source, window)[0])
            lost += int(((numbers > 0) & ~back.inside(window, LEFT_OUT_PX)).sum())
        if lost:
            self.notes += (f"{source.uri}: {lost} labelled px lie outside the image",)

    def read(self, window: Window) -> Pixels:
        numbers, known = self._read(window)
        return np.where(known, (numbers > 0).astype(self.dtype), self.dtype.type(self.ignore))

    def read_instances(self, window: Window) -> Numbers:
        return self._read(window)[0]

    def _read(self, window: Window) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """Object numbers, 0 where unknown; and which pixels are known."""
        pixels, known = self._file.read(window)
        numbers, usable = self._numbers(pixels[0])
        usable = usable & known
        numbers[~usable] = 0
        return numbers, usable

    def _numbers(self, values: Pixels) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """Mask values as numbers, and which of them are not nodata.

        Raises:
            SourceError: if a value is negative, not whole, or more than its type or ours tells apart.
        """
        nodata = self._file.source.info.nodata
        usable = np.ones(values.shape, dtype=np.bool_)
        if nodata:  # 0 is the background, whatever the header calls it
            usable = ~np.isnan(values) if np.isnan(nodata) else values != nodata
        if values.dtype.kind in "iuf" and values.dtype not in (np.uint8, np.uint16, np.uint32):
            highest = HIGHEST_WHOLE.get(values.dtype, HIGHEST)
            kept = values[usable]
            wrong = kept[~((kept >= 0) & (kept <= highest) & (kept == np.floor(kept)))]
            if wrong.size:
                raise SourceError(
                    f"{self._file.source.uri}: object numbers of {values.dtype} are whole, from 0 to {highest}, the "
                    f"mask holds {wrong[0]}; number the objects anew, e.g. in uint32"
                )
        numbers = np.zeros(values.shape, dtype=np.uint32)
        numbers[usable] = values[usable].astype(np.uint32)
        return numbers, usable

    def close(self) -> None:
        self._file.close()


def object_classes(uri: str, table: ClassTable | None) -> ClassTable:
    """Background and what the objects are: by the table, else `object`.

    Raises:
        SourceError: if the table has not the two classes 0 and 1.
    """
    if table is None:
        ground, other = default_classes(2)
        return ClassTable(classes=(ground, ClassInfo(id=1, name=OBJECT, color=other.color)))
    if len(table.classes) > 2:
        names = ", ".join(info.name for info in table.classes if info.id != 0)
        raise SourceError(
            f"{uri}: object numbers do not say of which class an object is, and the class table has several ({names}); "
            "give a table of two, 0 and 1"
        )
    return two_classes(uri, table)
