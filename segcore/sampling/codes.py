"""Codes: class numbers and object ids as one number a pixel, so that both go the way of a target together.

code = class + number of classes * object; below 2^24, so that float32 holds it while a tile is bent
"""

from typing import Any

import numpy as np
import numpy.typing as npt

IGNORED = -1
"""Class number, in tiles, of pixels that change neither loss nor score: `ignore` in the target, or not usable."""
MAX_CODE = 1 << 24


def coded(classes: npt.NDArray[np.int16], ids: npt.NDArray[Any], num_classes: int) -> npt.NDArray[np.int32]:
    """Codes of pixels; `IGNORED` where the class is.

    Ids beyond what fits begin again at 1: two objects of one number would have to touch, millions of objects apart.

    Args:
        classes: class numbers, `IGNORED` among them.
        ids: of objects, 0 = none.
        num_classes: of the target.
    """
    most = MAX_CODE // num_classes - 1
    objects = np.where(ids > 0, (ids.astype(np.int64) - 1) % most + 1, 0)
    return np.where(classes == IGNORED, IGNORED, classes + num_classes * objects).astype(np.int32)
