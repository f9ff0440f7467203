"""Picture: one mask over its image, small enough to stand in a Prefect artifact."""

from typing import Any

import numpy.typing as npt

from segcore.geometry import Window
from segcore.report import pictures
from segcore.scoring.counts import foreground_rows
from segcore.store import Image, Label, Workspace

LONGEST_PX = 400


def thumbnail(uri: str, mask: str, image_id: str) -> str:
    """The mask over its image as a `data:` URI, from the coarsest level that is large enough.

    Args:
        uri: the workspace.
        mask: name of the mask under `labels/`.
        image_id: which image.

    Raises:
        StoreError: if image or mask is not there.
    """
    workspace = Workspace.open(uri)
    image, label = workspace.image(image_id), workspace.label(image_id, mask)
    levels = range(label.base_level, image.num_levels)
    level = max((n for n in levels if max(image.shape(n)[-2:]) >= LONGEST_PX), default=label.base_level)
    own = level - label.base_level  # of the mask
    pixels, ids = middle_plane(image, level), middle_plane(label, own)
    valid = image.read_valid(middle_window(label, own), level).reshape(pixels.shape[-2:])
    rgb = pictures.to_rgb(pixels.reshape(-1, *pixels.shape[-2:]), image.channels, valid)
    tinted = pictures.overlay(rgb, ids.reshape(ids.shape[-2:]), label.classes, foreground_rows(label.classes))
    return pictures.photo_uri(pictures.shrunk(tinted, LONGEST_PX))


def middle_plane(array: Image | Label, level: int) -> npt.NDArray[Any]:
    """All of y, x and channels, from the middle of z and t."""
    return array.read(middle_window(array, level), level)


def middle_window(array: Image | Label, level: int) -> Window:
    """All of y, x and channels, one z and one t."""
    sides = zip(array.axes, array.shape(level), strict=True)
    middle = [(n // 2, 1) if axis in ("z", "t") else (0, n) for axis, n in sides]
    return Window(tuple(start for start, _ in middle), tuple(length for _, length in middle))
