"""A workspace with one image and its mask."""

import numpy as np
import numpy.typing as npt

from segcore.classes import ClassInfo, default_classes
from segcore.geometry import Window
from segcore.spatial import Georef, Spacing
from segcore.store import Workspace
from tests.synthetic import put_image, put_label

BACKGROUND = ClassInfo(id=0, name="background", color=(0, 0, 0))


def put_mask(
    ws: Workspace,
    ids: npt.NDArray[np.uint8],
    num_classes: int,
    axes: tuple[str, ...] = ("y", "x"),
    has_background: bool = True,
    spacing: Spacing | None = None,
    georef: Georef | None = None,
    image_id: str = "a",
    version: int = 0,
) -> None:
    """Class 0 is the background, or a class like the others."""
    classes = default_classes(num_classes if num_classes > 2 else 3)[:num_classes]
    put_image(ws, image_id, np.ones((1, *ids.shape), np.uint8), axes=("c", *axes), spacing=spacing, georef=georef)
    classes = (BACKGROUND, *classes[1:]) if has_background else classes
    put_label(ws, image_id, "m", ids, classes=classes, axes=axes, version=version)


def whole(ws: Workspace, name: str, level: int = 0, image_id: str = "a") -> npt.NDArray[np.integer]:  # type: ignore[type-arg]
    label = ws.label(image_id, name)
    return np.asarray(label.read(Window.whole(label.shape(level)), level))
