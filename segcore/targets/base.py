"""What every kind of target shares: the Target it gives, and how its files are opened."""

import abc
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from segcore.classes import ClassInfo
from segcore.geometry import Grid, Ints, Window
from segcore.sources import Opening
from segcore.sources.base import Pixels
from segcore.targets.class_table import ClassTable

Kind = Literal["index", "rgb", "binary", "objects", "instances", "classes", "segments", "shapes"]
"""Ids as pixel values; colours of a class table; 0 and 255, or above a threshold; object numbers as pixel values; one
file per object; one file per class; DICOM SEG; polygons, lines and points by class name."""

SCAN_PX = (512, 8192)
"""(y, x); wide, so that the strips of a large mask are decoded once."""


class TargetOpening(BaseModel):
    """How target files are read; the same for all images of one call."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    table: ClassTable | None = None
    """Needed for RGB-coded masks and named shapes, and to be strict about ids."""
    threshold: float | None = None
    """Grey masks: values above it are class 1, others class 0."""
    tolerance: int = 0
    """Colour-coded masks: how far a colour may be from its class's, in each channel (JPEG noise)."""
    values: Literal["classes", "objects"] | None = None
    """What the pixel values of a mask are; None = class ids; refused where they look like object numbers."""
    buffer: float = 0.0
    """Shapes: lines and points are widened by this on every side, in the image's spacing unit (px without)."""
    class_property: str | None = None
    """Shapes: the property that names their class; found by itself where not given."""
    opening: Opening = Opening(indexed=True)


class Target(abc.ABC):
    """Class ids of one image, and its object ids where the files tell them.

    Windows are over the image's axes without c: (y, x), (z, y, x) or (t, y, x).
    """

    kind: Kind
    classes: tuple[ClassInfo, ...]
    """In the order of their ids."""
    dtype: np.dtype[Any]
    """uint8, or uint16 where an id is over 254."""
    ignore: int
    """The id of pixels that count as nothing: 255, or 65535 in uint16."""
    has_instances: bool = False
    notes: tuple[str, ...] = ()
    """What its author should know: objects that overlap, shapes outside the image... One line each."""

    @abc.abstractmethod
    def read(self, window: Window) -> Pixels:
        """Class ids of a window, in `dtype`."""

    def read_instances(self, window: Window) -> npt.NDArray[np.uint32]:
        """Object ids of a window, 0 = none; only where `has_instances`."""
        raise AssertionError(f"{self.kind} targets have no instances")

    @abc.abstractmethod
    def close(self) -> None:
        """Give back files and memory."""


def planes_of(shape: Ints) -> list[Window]:
    """Windows that cover an array over (y, x), (z, y, x) or (t, y, x), plane by plane."""
    grid = Grid(tuple(shape), (*(1,) * (len(shape) - 2), *SCAN_PX))
    return [grid.window(index) for index in grid.indices()]
