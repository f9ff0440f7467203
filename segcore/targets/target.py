"""Target: what a mask file means, decided once over the whole file, then read window by window.

scan (every value or colour, with its count) -> Meaning (value -> class id) -> Target.read(window)
"""

import abc
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from segcore.classes import ClassInfo
from segcore.errors import SourceError
from segcore.geometry import Grid, Ints, Window
from segcore.sources import DEFAULT_OPENING, Limits, Opening, Source, SourceInfo, open_source
from segcore.sources.base import Pixels, Valid
from segcore.targets.class_table import ClassTable
from segcore.targets.meaning import (
    NUM_VALUES,
    Meaning,
    by_colors,
    by_values,
    count_runs,
    packed,
    two_classes,
    whole_numbers,
)

Kind = Literal["index", "rgb", "binary", "instances", "shapes"]
"""Ids as pixel values; colours of a class table; 0 and 1 or 255; one file per object; polygons by class name."""

SCAN_PX = 2048


class TargetOpening(BaseModel):
    """How target files are read; the same for all images of one call."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    table: ClassTable | None = None
    """Needed for RGB-coded masks and named shapes, and to be strict about ids."""
    threshold: float | None = None
    """Grey masks: values above it are class 1, others class 0."""
    tolerance: int = 0
    """Colour-coded masks: how far a colour may be from its class's, in each channel (JPEG noise)."""
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


class MaskTarget(Target):
    """A target from one mask file."""

    def __init__(self, source: Source, table: ClassTable | None) -> None:
        self._source = source
        counts = _scan(source)
        self._meaning: Meaning
        if isinstance(counts, dict):
            self._meaning = by_colors(source.uri, counts, table)
        else:
            palette = source.info.details.get("palette")
            self._meaning = by_values(source.uri, counts, table, palette, source.info.nodata)
        self.kind, self.classes = self._meaning.kind, self._meaning.classes
        self.dtype, self.ignore = np.dtype(self._meaning.dtype), self._meaning.ignore

    def read(self, window: Window) -> Pixels:
        channels = self._source.info.shape[0]
        pixels = self._source.read(Window((0, *window.start), (channels, *window.shape)))
        ids = self._meaning.ids(pixels).astype(self.dtype, copy=False)
        if self._source.info.has_valid:
            ids = np.where(self._source.read_valid(window), ids, self.dtype.type(self.ignore))
        return np.ascontiguousarray(ids)

    def close(self) -> None:
        self._source.close()


class InstanceTarget(Target):
    """A target from one file per object: any pixel that is not 0 belongs to it.

    Objects are numbered from 1 in the order of the sorted files; where two overlap, the earlier one keeps the pixel.
    """

    kind: Kind = "instances"
    has_instances = True

    def __init__(self, uris: Sequence[str], table: ClassTable | None, shape_yx: Ints, limits: Limits) -> None:
        if shape_yx[0] * shape_yx[1] > limits.max_whole_px:
            raise SourceError(
                f"{uris[0]}: one file per object is read for images of up to max_whole_px = {limits.max_whole_px} px, "
                f"this one has {shape_yx[0]} x {shape_yx[1]}; join the masks in one file"
            )
        known = two_classes(uris[0], table)
        self.classes, self.ignore, self.dtype = known.classes, known.ignore, np.dtype(known.dtype)
        self._objects = np.zeros(shape_yx, dtype=np.uint32)
        for number, uri in enumerate(sorted(uris), 1):
            with ValidMask(uri, shape_yx, limits) as file:
                for window in _windows(shape_yx):
                    part = self._objects[window.slices]
                    part[(part == 0) & file.read(window)] = number

    def read(self, window: Window) -> Pixels:
        return np.asarray(self._objects[window.slices] > 0).astype(self.dtype)

    def read_instances(self, window: Window) -> npt.NDArray[np.uint32]:
        return self._objects[window.slices].copy()

    def close(self) -> None:
        self._objects = np.zeros((0, 0), dtype=np.uint32)


class ValidMask:
    """A mask file that says which pixels are usable: those that are not 0 (black), and not transparent."""

    def __init__(self, uri: str, shape_yx: Ints, limits: Limits) -> None:
        self._source = _open_mask(uri, shape_yx, Opening(limits=limits, indexed=True))
        palette = self._source.info.details.get("palette")
        self._is_colored: Valid | None = None if palette is None else np.asarray(np.any(palette, axis=1))

    def read(self, window: Window) -> Valid:
        """Boolean, True = usable, of a window over (y, x), or over (z, y, x) or (t, y, x): all planes alike."""
        channels = self._source.info.shape[0]
        plane = Window(window.start[-2:], window.shape[-2:])
        pixels = self._source.read(Window((0, *plane.start), (channels, *plane.shape)))
        usable = (pixels != 0).any(axis=0) if self._is_colored is None else self._is_colored[pixels[0]]
        return np.broadcast_to(usable & self._source.read_valid(plane), window.shape)

    def close(self) -> None:
        """Give back files and memory."""
        self._source.close()

    def __enter__(self) -> "ValidMask":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_target(uris: Sequence[str], image: SourceInfo, how: TargetOpening, *, instances: bool | None = None) -> Target:
    """Open the mask file, or files, of one image.

    Args:
        uris: one mask, or one file per object.
        image: what the source is: its size, and where it lies.
        how: how the files are read.
        instances: are these files of one object each? By default: if there are several.

    Raises:
        SourceError: one line with the file: unreadable, of another size than its source, or with values or
            colours that the table does not know.
    """
    assert uris, "a target needs at least one file"
    if image.axes != ("c", "y", "x"):
        raise SourceError(f"{image.uri}: targets are read for (c, y, x) images, got axes {image.axes}")
    shape_yx = image.shape[-2:]
    if len(uris) > 1 if instances is None else instances:
        return InstanceTarget(uris, how.table, shape_yx, how.opening.limits)
    source = _open_mask(uris[0], shape_yx, how.opening)
    try:
        return MaskTarget(source, how.table)
    except BaseException:
        source.close()
        raise


def open_valid(uri: str, image: SourceInfo, opening: Opening = DEFAULT_OPENING) -> ValidMask:
    """Open a file that says which pixels are usable (not 0).

    Raises:
        SourceError: if it cannot be read, or has another size than its source.
    """
    return ValidMask(uri, image.shape[-2:], opening.limits)


def _open_mask(uri: str, shape_yx: Ints, opening: Opening) -> Source:
    """Open a mask file and check that it fits its source."""
    source = open_source(uri, opening)
    info = source.info
    fits = tuple(info.shape[-2:]) == tuple(shape_yx)
    if fits and info.axes == ("c", "y", "x") and info.shape[0] in (1, 3):
        return source
    source.close()
    if not fits:
        (y, x), (height, width) = info.shape[-2:], shape_yx
        raise SourceError(
            f"{uri}: the mask has {y} x {x} px (y x x), its source {height} x {width}; they must be equal"
        )
    said = " x ".join(f"{axis} {n}" for axis, n in zip(info.axes, info.shape, strict=True))
    raise SourceError(f"{uri}: a mask has one channel of values or three of colour, this file has {said}")


def _windows(shape_yx: Ints) -> list[Window]:
    grid = Grid(tuple(shape_yx), (SCAN_PX, SCAN_PX))
    return [grid.window(index) for index in grid.indices()]


def _scan(source: Source) -> npt.NDArray[np.int64] | dict[int, int]:
    """Every value of a mask, counted: by value, or by colour as 0xRRGGBB where the three channels differ."""
    info = source.info
    values = np.zeros(NUM_VALUES, dtype=np.int64)
    colors: dict[int, int] = {}
    for window in _windows(info.shape[-2:]):
        pixels = source.read(Window((0, *window.start), (info.shape[0], *window.shape)))
        if info.shape[0] == 3:
            for code, count in count_runs(packed(source.uri, pixels)).items():
                colors[code] = colors.get(code, 0) + count
        else:
            numbers = whole_numbers(source.uri, pixels[0], info.nodata)
            values += np.bincount(numbers.ravel(), minlength=NUM_VALUES)
    return colors if info.shape[0] == 3 else values
