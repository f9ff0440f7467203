"""Scan: what a mask file holds, counted once over the whole file before anything is decided about it."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from segcore.errors import SourceError
from segcore.sources import Source
from segcore.sources.base import Pixels
from segcore.targets.base import planes_of
from segcore.targets.class_table import IGNORE_16
from segcore.targets.colors import packed
from segcore.targets.regridded import LEFT_OUT_PX, Regrid, plane_shape, read_planes

NUM_VALUES = 65536
MAX_COLORS = 2**18
"""More are no code of classes, whatever noise JPEG adds, but a picture."""

Counts = npt.NDArray[np.int64]


def _zeros() -> Counts:
    return np.zeros(NUM_VALUES, dtype=np.int64)


@dataclass(eq=False)
class Values:
    """Of a mask of one channel, by value: how many pixels have it, and how many runs along x they form."""

    counts: Counts = field(default_factory=_zeros)
    runs: Counts = field(default_factory=_zeros)

    @property
    def present(self) -> set[int]:
        return {int(value) for value in np.flatnonzero(self.counts)}

    def add(self, numbers: npt.NDArray[np.uint16]) -> None:
        """Count one window."""
        flat = numbers.ravel()
        starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
        firsts = flat[starts]
        self.runs += np.bincount(firsts, minlength=NUM_VALUES)
        self.counts += np.bincount(firsts, weights=np.diff(starts, append=flat.size), minlength=NUM_VALUES).astype(int)


@dataclass(eq=False)
class Scan:
    """A mask file: its values, or its colours as 0xRRGGBB where it has three channels."""

    values: Values | None
    colors: dict[int, int]
    outside: dict[int, int]
    """Values or colours of the pixels that no pixel of the image is under."""


def scan(source: Source, regrid: Regrid | None) -> Scan:
    """Count a whole mask.

    Args:
        source: of one channel or three.
        regrid: how it lies under its image, where the two have different grids.

    Raises:
        SourceError: if a value cannot be a class id, or a colour has no 8 bits.
    """
    is_colored = source.info.shape[source.info.axes.index("c")] == 3
    found = Scan(None if is_colored else Values(), {}, {})
    back = regrid.inverse() if regrid is not None else None
    for window in planes_of(plane_shape(source.info)):
        pixels = read_planes(source, window)
        if found.values is None:
            codes: Pixels = packed(source.uri, pixels)
            _add_colors(source.uri, found.colors, codes)
        else:
            codes = whole_numbers(source.uri, pixels[0], source.info.nodata)
            found.values.add(codes)
        if back is not None:
            _add(found.outside, count_runs(codes[~back.inside(window, LEFT_OUT_PX)]))
    return found


def _add_colors(uri: str, counts: dict[int, int], codes: Pixels) -> None:
    """Count the colours of a window, as far as they can be a code."""
    if len(np.unique(codes)) <= MAX_COLORS:
        _add(counts, count_runs(codes))
        if len(counts) <= MAX_COLORS:
            return
    raise SourceError(f"{uri}: holds over {MAX_COLORS} colours, as a picture does; a mask has one per class")


def _add(counts: dict[int, int], more: dict[int, int]) -> None:
    for value, count in more.items():
        counts[value] = counts.get(value, 0) + count


def whole_numbers(uri: str, values: Pixels, nodata: float | None) -> npt.NDArray[np.uint16]:
    """Mask values as uint16; nodata that does not fit becomes 65535, which always means ignore.

    Raises:
        SourceError: if a value is negative, over 65535 or not whole.
    """
    if values.dtype == np.uint8 or values.dtype == np.uint16:
        return values.astype(np.uint16, copy=False)
    usable = np.ones(values.shape, dtype=np.bool_)
    if nodata is not None and not 0 <= nodata <= IGNORE_16:
        usable = ~np.isnan(values) if np.isnan(nodata) else values != nodata
    kept = values[usable]
    wrong = kept[~((kept >= 0) & (kept <= IGNORE_16) & (kept == np.floor(kept)))]
    if wrong.size:
        raise SourceError(
            f"{uri}: class ids are whole numbers from 0 to {IGNORE_16}, the mask holds {wrong[0]}; "
            "grey levels and probabilities need --threshold, object numbers --target-values objects, and what is to be "
            "ignored is 255"
        )
    numbers = np.full(values.shape, IGNORE_16, dtype=np.uint16)
    numbers[usable] = kept.astype(np.uint16)
    return numbers


def count_runs(values: Pixels) -> dict[int, int]:
    """How often each value occurs; quick where equal pixels follow each other, as in masks they do."""
    flat = values.ravel()
    if flat.size == 0:
        return {}
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(starts, append=flat.size)
    found, place = np.unique(flat[starts], return_inverse=True)
    counts = np.bincount(place.ravel(), weights=lengths)
    return {int(value): int(count) for value, count in zip(found, counts, strict=True)}
