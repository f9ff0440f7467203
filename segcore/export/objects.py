"""Objects: the class of each object of a mask, which most of its pixels have."""

from typing import Any

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo
from segcore.geometry import Grid, Window
from segcore.scoring.counts import foreground_rows
from segcore.store import Label

WINDOW_PX = 2048


def object_classes(objects: Label, mask: Label) -> list[ClassInfo]:
    """Of object 1, 2, 3...: the class of most of its pixels, the lowest id of several; 4 bytes each and by class.

    Args:
        objects: ids, 0 = none.
        mask: that they were made of.
    """
    classes = [mask.classes[row] for row in foreground_rows(mask.classes)]
    counts = np.zeros((int(objects.attributes["objects"]), len(classes)), np.uint32)
    grid = Grid(objects.shape(), (WINDOW_PX, WINDOW_PX))
    for window in map(grid.window, grid.indices()) if len(classes) > 1 else ():
        ids, found = objects.read(window), mask.read(window)
        for column, info in enumerate(classes):
            numbers, num_px = np.unique(ids[(found == info.id) & (ids > 0)], return_counts=True)
            counts[numbers.astype(np.int64) - 1, column] += num_px.astype(np.uint32)
    return [classes[column] for column in counts.argmax(axis=1)]


def signed(objects: Label, window: Window) -> npt.NDArray[Any]:
    """Ids as GDAL traces them, int32."""
    ids = objects.read(window)
    assert ids.max(initial=0) < 2**31, f"objects of image {objects.image_id}: more than GDAL can trace"
    return ids.astype(np.int32)
