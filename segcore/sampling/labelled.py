"""Labelled: an image and its target, read together: store -> *pixels and class numbers* -> tiles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segcore.errors import ConfigError
from segcore.geometry import Window, reflected
from segcore.sampling.codes import IGNORED, coded
from segcore.store import Image, Label
from segcore.stretch import Stretch
from segcore.taps import Axis

if TYPE_CHECKING:  # it lies in a package that loads torch
    from segcore.inference.model_grid import ModelGrid

Pixels = npt.NDArray[Any]
Int16s = npt.NDArray[np.int16]
Truth = npt.NDArray[np.int16 | np.int32]
"""Class numbers, or codes of class and object."""


class _Kept(NamedTuple):
    """Planes that stay in memory."""

    pixels: Pixels
    """(C, planes, Y, X)."""
    target: Truth
    """(planes, Y, X)."""
    there: set[int]
    """Planes that are decoded."""


class LabelledImage:
    """An image and its target at one size of pixel, read together, plane by plane (axes beside c, y, x are planes).

    With `tile_planes` over 1 what is read of a plane is a stack of planes around it, along the last of those axes.

    Args:
        image: complete.
        target: its classes.
        level: whose pixels are read.
        grid: of the image, where its pixels are resampled; it has a level of its own then.
    """

    def __init__(self, image: Image, target: Label, level: int = 0, grid: "ModelGrid | None" = None) -> None:
        level = level if grid is None else grid.level
        if level >= min(image.num_levels, target.num_levels):
            raise ConfigError(
                f"image {image.image_id}: expected a pyramid level below {image.num_levels}, got level {level}"
            )
        self.image, self.target, self.level = image, target, level
        self._grid = grid if grid is not None and grid.is_resampled else None
        shape = dict(zip(image.axes, image.shape(level), strict=True))
        self.num_channels = shape["c"]
        self.level_yx = (shape["y"], shape["x"])
        """Sides of the level in px."""
        self.step = (1.0, 1.0) if self._grid is None else self._grid.step
        """Sides (y, x) of a pixel as it is read, in pixels of the level."""
        self.shape_yx = self.level_yx if self._grid is None else self._grid.shape[-2:]
        """Sides in pixels as they are read."""
        self._plane_shape = tuple(n for axis, n in shape.items() if axis not in "cyx")
        self._num_classes = len(target.classes)
        self.tile_planes = 1
        """Planes that are read at once; where the image has fewer, they are mirrored."""
        self._kept: _Kept | None = None
        self.stretch: Stretch | None = None
        """What `read` does to the pixels first."""
        self.objects: Label | None = None
        """Ids of objects, where `read` is to tell them too: codes in place of class numbers (`sampling.codes`)."""

    @property
    def image_id(self) -> str:
        return self.image.image_id

    @property
    def labels(self) -> tuple[Image | Label, ...]:
        """The image, its target, and its objects where they are asked for."""
        return (self.image, self.target, *(() if self.objects is None else (self.objects,)))

    @property
    def num_planes(self) -> int:
        return int(np.prod(self._plane_shape, dtype=np.int64))

    @property
    def bytes_per_px(self) -> int:
        """Memory of a pixel of a plane, all bands, with its truth."""
        truth = np.dtype(np.int16 if self.objects is None else np.int32)
        return self.num_channels * self.image.dtype.itemsize + truth.itemsize

    @property
    def num_bytes(self) -> int:
        """Memory that pixels and target take when they are kept."""
        return self.num_planes * int(np.prod(self.shape_yx)) * self.bytes_per_px

    @property
    def is_kept(self) -> bool:
        """True if planes stay in memory, so that a window of them costs nothing."""
        return self._kept is not None

    def keep(self) -> None:
        """Decode each plane once, at its first use, and keep it; changes no pixel, only the time to read it."""
        sides, truth = (self.num_planes, *self.shape_yx), np.int16 if self.objects is None else np.int32
        self._kept = _Kept(
            np.empty((self.num_channels, *sides), self.image.dtype), np.empty(sides, truth), set()
        )  # memory that no plane has touched is not taken yet

    def read(self, plane: int, window: Window) -> tuple[Pixels, Truth]:
        """Pixels (C, Y, X) as `read_pixels` gives them and class numbers (Y, X), `IGNORED` where nothing is known.

        With `tile_planes` over 1 a stack of so many planes that holds this one: (C, planes, Y, X) and (planes, Y, X).

        Args:
            plane: number of the plane, in raster order of the axes beside c, y and x.
            window: over (y, x), inside the level.
        """
        if self.tile_planes == 1 and self._kept is None:
            return self._read(plane, window)
        first, count, order = self._stack(plane)
        if self._kept is None:
            read = [self._read(number, window) for number in range(first, first + count)]
            pixels, target = np.stack([part for part, _ in read], axis=1), np.stack([part for _, part in read])
        else:
            self._decode(self._kept, range(first, first + count))
            inside = (slice(first, first + count), *window.slices)
            pixels, target = self._kept.pixels[:, *inside], self._kept.target[inside]
        if self.tile_planes == 1:
            return pixels[:, 0], target[0]
        return (pixels, target) if order is None else (pixels[:, order], target[order])

    def _stack(self, plane: int) -> tuple[int, int, npt.NDArray[np.intp] | None]:
        """First plane and number of those to read around one; where these are too few, the order that mirrors them."""
        depth = self._plane_shape[-1] if self._plane_shape else 1
        count = min(self.tile_planes, depth)
        outer, place = divmod(plane, depth)
        first = min(max(0, place - count // 2), depth - count)
        order = (
            None
            if count == self.tile_planes
            else reflected(-((self.tile_planes - count) // 2), self.tile_planes, count)
        )
        return outer * depth + first, count, order

    def _decode(self, kept: "_Kept", planes: range) -> None:
        """Fill in what nobody has asked for yet; two threads would write the same."""
        for plane in planes:
            if plane not in kept.there:
                kept.pixels[:, plane], kept.target[plane] = self._read(plane, Window.whole(self.shape_yx))
                kept.there.add(plane)

    def read_reflected(self, plane: int, window: Window) -> tuple[Pixels, Truth]:
        """As `read`, of a window that may reach over the border; what lies outside is mirrored, target too."""
        inside = self.inside(window)
        pixels, target = self.read(plane, inside)
        if inside == window:
            return pixels, target
        sides = [(*whole.shape[:-2], *window.shape) for whole in (pixels, target)]
        out = np.empty(sides[0], pixels.dtype), np.empty(sides[1], target.dtype)
        for planes, mirrored in zip((pixels, target), out, strict=True):
            cut(planes, inside, window, self.shape_yx, mirrored)
        return out

    def inside(self, window: Window) -> Window:
        """The pixels from which a window is made that may reach over the border."""
        if Window.whole(self.shape_yx).contains(window):
            return window
        sides = [reflected(*side) for side in zip(window.start, window.shape, self.shape_yx, strict=True)]
        start = tuple(int(indices.min()) for indices in sides)
        return Window(start, tuple(int(indices.max()) + 1 - a for indices, a in zip(sides, start, strict=True)))

    def read_classes(self, plane: int, level: int) -> Int16s:
        """Class numbers (Y, X) of a whole plane at a level of its own."""
        window = Window.whole(self.target.shape(level)[-2:])
        pixels = self.read_pixels(plane, window, level) if self.image.pixels_tell else None
        return self._classes(plane, window, level, pixels)

    def read_pixels(self, plane: int, window: Window, level: int) -> Pixels:
        """Pixels (C, Y, X) of one plane at a level of its own, in the image's dtype; missing floats are NaN.

        Fill values such as -3.4e38 would reach their neighbours: NaN becomes an average value, band by band.
        """
        pixels = self.image.read(self._full(self.image.axes, plane, window), level)
        return self._without_fill(pixels.reshape(self.num_channels, *window.shape))

    def _without_fill(self, pixels: Pixels) -> Pixels:
        if np.issubdtype(pixels.dtype, np.floating):
            pixels[self.image.missing(pixels)] = np.nan
        return pixels

    def read_valid(self, plane: int, window: Window, level: int, pixels: Pixels | None) -> npt.NDArray[np.bool_]:
        """Usable pixels (Y, X) of one plane; `pixels` are needed where they, not a label, say so."""
        if self.image.has_valid:
            return self.image.read_valid(self._full(self.target.axes, plane, window), level).reshape(window.shape)
        assert pixels is not None, "only pixels tell what is usable"
        return self.image.usable(pixels)

    def _read(self, plane: int, window: Window) -> tuple[Pixels, Truth]:
        if self._grid is not None:
            return self._resampled(self._grid, plane, window)
        pixels = self.read_pixels(plane, window, self.level)
        classes = self._truth(plane, window, pixels)
        return self.stretched(pixels), classes

    def _resampled(self, grid: "ModelGrid", plane: int, window: Window) -> tuple[Pixels, Truth]:
        """Target and `valid` have the class of the level's pixel in which the centre of a read one lies."""
        pixels = grid.read(self._full(self.target.axes, plane, window)).reshape(self.num_channels, *window.shape)
        pixels = self._without_fill(pixels)
        sides = zip(self.step, self.level_yx, window.start, window.stop, strict=True)
        rows, columns = (Axis(step, n).nearest(start, stop) for step, n, start, stop in sides)
        start = (int(rows[0]), int(columns[0]))
        under = Window(start, (int(rows[-1]) + 1 - start[0], int(columns[-1]) + 1 - start[1]))
        classes = self._truth(plane, under, None)[np.ix_(rows - start[0], columns - start[1])]
        if self.image.pixels_tell:
            classes[~self.image.usable(pixels)] = IGNORED
        return self.stretched(pixels), classes

    def stretched(self, pixels: Pixels) -> Pixels:
        """Pixels as the model gets them: stretched, where this image is."""
        return pixels if self.stretch is None else self.stretch.apply(pixels)

    def _truth(self, plane: int, window: Window, pixels: Pixels | None) -> Truth:
        """Class numbers of the level, and the objects where these are asked for too."""
        classes = self._classes(plane, window, self.level, pixels)
        if self.objects is None:
            return classes
        ids = self.objects.read(self._full(self.target.axes, plane, window), self.level).reshape(window.shape)
        return coded(classes, ids, self._num_classes)

    def _classes(self, plane: int, window: Window, level: int, pixels: Pixels | None) -> Int16s:
        """Class numbers; `pixels` of the same window are needed where they, not a label, say what is usable."""
        ids = self.target.read(self._full(self.target.axes, plane, window), level).reshape(window.shape)
        classes = ids.astype(np.int16)
        if ids.max(initial=0) >= self._num_classes:
            is_ignored = ids == self.target.ignore
            classes[is_ignored] = IGNORED
            highest = ids.max(initial=0, where=~is_ignored)
            if highest >= self._num_classes:
                raise ConfigError(
                    f"target of {self.image_id}: expected class ids below {self._num_classes} or ignore "
                    f"({self.target.ignore}), got {highest}; complete the class table and ingest again"
                )
        if self.image.has_valid or (self.image.pixels_tell and pixels is not None):
            classes[~self.read_valid(plane, window, level, pixels)] = IGNORED
        return classes

    def _full(self, axes: tuple[str, ...], plane: int, window: Window) -> Window:
        """The window over all axes: every channel, one plane, and (y, x)."""
        place = iter(np.unravel_index(plane, self._plane_shape) if self._plane_shape else ())
        yx = dict(zip("yx", zip(window.start, window.shape, strict=True), strict=True))
        sides = [
            yx[axis] if axis in yx else (0, self.num_channels) if axis == "c" else (int(next(place)), 1)
            for axis in axes
        ]
        return Window(tuple(start for start, _ in sides), tuple(length for _, length in sides))


def keep_what_fits(images: Sequence[LabelledImage], cache_mib: int) -> None:
    """Let as many images as the limit allows stay decoded in memory, in their order."""
    left = cache_mib << 20
    for image in images:
        if image.num_bytes <= left:
            image.keep()
            left -= image.num_bytes


def middle(values: Pixels, ndim: int) -> Pixels:
    """Of a tile of several planes the one in the middle, with so many axes; of another the tile itself."""
    return values if values.ndim == ndim else values.take(values.shape[-3] // 2, axis=-3)


def cut(planes: Pixels, region: Window, window: Window, shape_yx: tuple[int, ...], out: Pixels) -> None:
    """Copy a window out of a region of an image; what lies over the image's border is mirrored.

    Args:
        planes: the region's pixels, (..., Y, X).
        region: over (y, x), inside the image; it holds all that the window is made from.
        window: over (y, x).
        shape_yx: of the image.
        out: (..., *window.shape).
    """
    if region.contains(window):
        out[...] = planes[window.relative_to(region.start).behind]
        return
    inside = window.intersected(Window.whole(shape_yx))
    before = [b - a for a, b in zip(window.start, inside.start, strict=True)]
    behind = [a - b for a, b in zip(window.stop, inside.stop, strict=True)]
    if any(max(over) >= n for *over, n in zip(before, behind, inside.shape, strict=True)):  # mirrored more than once
        sides = zip(window.start, window.shape, shape_yx, region.start, strict=True)
        rows, columns = (reflected(start, n, size) - origin for start, n, size, origin in sides)
        out[...] = planes[..., rows[:, None], columns]
        return
    out[inside.relative_to(window.start).behind] = planes[inside.relative_to(region.start).behind]
    for axis, (low, high, n) in enumerate(zip(before, behind, window.shape, strict=True)):
        side = np.moveaxis(out, axis - 2, 0)
        side[:low] = side[low + 1 : 2 * low + 1][::-1]
        side[n - high :] = side[n - 2 * high - 1 : n - high - 1][::-1]
