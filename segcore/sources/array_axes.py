"""Array axes: which axis of a bare array is which, for the formats that store arrays rather than images (NPY, HDF5).

    stored array (any order of t c z y x) --> Arrangement --> (C,Y,X), (C,Z,Y,X) or (T,C,Y,X)

The axes are what the user says (`Opening.axes`), else what the file says, else a guess from the shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Ints, Window
from segcore.sources.base import Limits, Pixels, check_shape

MAX_CHANNELS_GUESSED = 4
"""A side of up to this many pixels is taken for the channels."""

KNOWN_SIZES = (2, 3, 4, 5)
"""Numbers of dimensions that can be an image."""

READ_AS = {"bool": "uint8", "float16": "float32", "int64": "int32", "uint64": "uint32"}
"""Types that the store does not hold, and what holds their values; 64-bit integers are checked as they are read."""

From = Literal["given", "file", "guessed"]


@dataclass(frozen=True)
class Arrangement:
    """How a stored array becomes an image."""

    stored: str
    """A letter per axis of the stored array: "zyx"."""
    stored_shape: Ints
    axes_from: From

    @property
    def axes(self) -> tuple[str, ...]:
        """Those of the image, channel first; t or z of length 1 is left out where the other is longer."""
        sides = dict(zip(self.stored, self.stored_shape, strict=True))
        if sides.get("t", 1) > 1 or ("t" in sides and "z" not in sides):
            return ("t", "c", "y", "x")
        return ("c", "z", "y", "x") if "z" in sides else ("c", "y", "x")

    @property
    def shape(self) -> Ints:
        """Of the image."""
        sides = dict(zip(self.stored, self.stored_shape, strict=True))
        return tuple(sides.get(axis, 1) for axis in self.axes)

    def slices(self, window: Window) -> tuple[slice, ...]:
        """A window of the image, in the stored array."""
        found = dict(zip(self.axes, window.slices, strict=True))
        return tuple(found.get(axis, slice(0, 1)) for axis in self.stored)

    def arranged(self, stored: Pixels, shape: Ints) -> Pixels:
        """What was read of the stored array, in the order of the image's axes."""
        kept = [axis for axis in self.axes if axis in self.stored]
        dropped = [axis for axis in self.stored if axis not in kept]
        order = [self.stored.index(axis) for axis in dropped + kept]
        return stored.transpose(order).reshape(shape)


def arrange(
    uri: str, shape: Ints, dtype: np.dtype[Any], given: str | None, named: Sequence[str] | None, limits: Limits
) -> Arrangement:
    """Decide the axes of a stored array, and check it against the limits.

    Args:
        uri: for the errors.
        shape: as stored.
        dtype: as stored.
        given: by the user, a letter of "tczyx" per axis.
        named: by the file, a letter per axis; None = it says nothing.
        limits: what the array may ask for.

    Raises:
        SourceError: if the axes do not fit the array, it has both times and planes, or it is over a limit.
    """
    said = " x ".join(str(n) for n in shape)
    axes_from: From = "given" if given is not None else "file" if named is not None else "guessed"
    if len(shape) not in KNOWN_SIZES:
        raise SourceError(f"{uri}: an array of {said or 'one value'} is no image; expected 2 to 5 dimensions")
    found = given or "".join(named or ()) or guessed(uri, shape)
    if len(found) != len(shape) or len(set(found)) != len(found) or not {"y", "x"} <= set(found) <= set("tczyx"):
        raise SourceError(
            f"{uri}: axes '{found}' ({axes_from}) do not fit an array of {said}; expected y, x and others of t, c, z, "
            f"once each and {len(shape)} in all: say --array-axes"
        )
    sides = dict(zip(found, shape, strict=True))
    if sides.get("t", 1) > 1 and sides.get("z", 1) > 1:
        raise SourceError(
            f"{uri}: has {sides['t']} times of {sides['z']} planes each (axes '{found}', {axes_from}); an image has "
            "either: store each time as an array of its own, or say --array-axes if the axes are others"
        )
    arrangement = Arrangement(found, shape, axes_from)
    check_shape(uri, arrangement.axes, arrangement.shape, np.dtype(read_as(dtype)), limits)
    return arrangement


def guessed(uri: str, shape: Ints) -> str:
    """Axes from the shape: a short side (1 to 4) is c, of the others the last two are y and x, before them z.

    Looked at for a short side: the last, the first, and of four the second. Five dimensions are tczyx, or tzyxc.

    Raises:
        SourceError: for four dimensions without a short side: they could be anything.
    """
    short = [n <= MAX_CHANNELS_GUESSED for n in shape]
    if len(shape) == 2:
        return "yx"
    if len(shape) == 5:
        return "tzyxc" if short[4] and not short[2] else "tczyx"
    plain = "zyx" if len(shape) == 4 else "yx"
    if short[-1]:
        return plain + "c"
    if short[0]:
        return "c" + plain
    if len(shape) == 3:
        return "zyx"
    if short[1]:
        return "zcyx"
    said = " x ".join(str(n) for n in shape)
    raise SourceError(f"{uri}: nothing tells which axis of {said} is which; say it: --array-axes czyx, tcyx, zyxc...")


def read_as(dtype: np.dtype[Any]) -> str:
    """The pixel type as which a stored type is read."""
    return READ_AS.get(dtype.name, dtype.name)


def converted(uri: str, pixels: Pixels) -> Pixels:
    """Pixels in the type as which theirs is read, in this machine's byte order.

    Raises:
        SourceError: if a 64-bit integer does not fit into 32.
    """
    wanted = np.dtype(read_as(pixels.dtype))
    if pixels.dtype.name in ("int64", "uint64") and pixels.size:
        low, high, bounds = int(pixels.min()), int(pixels.max()), np.iinfo(wanted)
        if low < bounds.min or high > bounds.max:
            raise SourceError(
                f"{uri}: {pixels.dtype.name} is read as {wanted.name}, but it holds values from {low} to {high}; "
                "store it in a type of 32 bits or as float64"
            )
    return pixels.astype(wanted, copy=False)
