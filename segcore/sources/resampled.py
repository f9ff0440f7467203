"""Resampled: a source on the grid of another spacing, window by window, anchored at the image's origin.

    source    |  0  |  1  |  2  |  3  |  4  |     step = wanted / own spacing, in pixels of the source
    resampled |    0    |    1    |    2    |     pixel i covers [i * step, (i + 1) * step)

A window of it is that window of the whole resampled image, bit for bit: a pixel's weights depend on its index alone,
and are summed in one order, however the image is cut. Along y and x; other axes stay as they are.
"""

import math
from functools import cached_property
from typing import Any

import numpy as np

from segcore.errors import SourceError
from segcore.geometry import Grid, Ints, Window
from segcore.nodata import fitting_nodata, missing
from segcore.sources.base import Limits, Pixels, Source, SourceInfo, Valid
from segcore.spatial import METERS_PER_UNIT, Georef, Spacing, WantedSpacing
from segcore.taps import HALF, Axis, Taps

SAME = 0.01
"""A spacing that differs by no more than this part is the wanted one."""
MAX_STEP = 512
"""Source pixels that may go into one pixel, along an axis: a block of them is held in memory."""
BLOCK_VALUES = 2**23
"""Source values that are held at once."""


def with_spacing(source: Source, wanted: WantedSpacing, limits: Limits = Limits()) -> Source:  # noqa: B008 - frozen
    """A source at the spacing that the user asks for; the source itself where it has that already, or tells none.

    Args:
        source: open; it belongs to what is returned.
        wanted: along y and x. A source that tells no spacing takes it as its own, in micrometres without a unit.
        limits: of the size of the resampled image.

    Raises:
        SourceError: if the units cannot be converted, or the result would be over a limit.
    """
    info = source.info
    if info.spacing is None:
        own = dict.fromkeys("yx", wanted.value)
        spacing = Spacing(values=own, unit=wanted.unit or "micrometer", origin="user")
        source.info = info.model_copy(update={"spacing": spacing})
        return source
    value = _in_unit(info.uri, wanted, info.spacing.unit)
    if all(abs(value / info.spacing.values[axis] - 1) <= SAME for axis in "yx"):
        return source
    return ResampledSource(source, value, limits)


def _in_unit(uri: str, wanted: WantedSpacing, unit: str) -> float:
    """The wanted spacing in the unit of the source."""
    if wanted.unit in (None, unit):
        return wanted.value
    if unit not in METERS_PER_UNIT or wanted.unit not in METERS_PER_UNIT:
        raise SourceError(
            f"{uri}: its pixels are measured in {unit}, the wanted spacing of {wanted.value:g} in {wanted.unit}, and "
            f"one cannot be converted to the other; give --spacing in {unit}"
        )
    return wanted.value * METERS_PER_UNIT[wanted.unit] / METERS_PER_UNIT[unit]


class ResampledSource(Source):
    """A source at another spacing: area average along an axis that gets coarser, bilinear along one that gets finer.

    It reads the coarsest level that the file stores and that is at least as fine as wanted. Sides are rounded half up:
    a last pixel that would lie less than half in the image is left out. A pixel is nodata (band by band), or not usable
    (`read_valid`), where less than half of its support has values; what has none never enters an average, and nothing
    becomes nodata by averaging. Integers are rounded half up. Classes, which a colour table tells, are taken from the
    pixel in which the centre lies.
    """

    def __init__(self, source: Source, wanted: float, limits: Limits) -> None:
        """`wanted`: along y and x, in the unit of the source's own spacing."""
        info = source.info
        assert info.spacing is not None, "a source without spacing is not resampled"
        factors = (wanted / info.spacing.values["y"], wanted / info.spacing.values["x"])
        self.uri = source.uri
        self._source = source
        self._dtype = np.dtype(info.dtype)
        self._nodata = fitting_nodata(info.nodata, self._dtype)
        told = range(info.shape[info.axes.index("c")]) if "palette" in info.details else info.details.get("classes", ())
        self._classes = frozenset(told)
        self._level, scales = _level_for(source, factors)
        sides = [_num_out(n, factor) for n, factor in zip(info.shape[-2:], factors, strict=True)]
        shape = (*info.shape[:-2], *sides)
        if math.prod(sides) > limits.max_px:
            raise SourceError(
                f"{self.uri}: resampled from {_said(info)} to {wanted:.6g} it would have {sides[0]} x {sides[1]} px "
                f"(y x x), over the limit max_px = {limits.max_px}; give a coarser --spacing"
            )
        self._steps = (factors[0] / scales[0], factors[1] / scales[1])
        if max(self._steps) > MAX_STEP:
            raise SourceError(
                f"{self.uri}: the wanted spacing is {max(factors):.6g} times its own of "
                f"{_said(info)}; expected at most {MAX_STEP} times that of a level that it stores"
            )
        stored = source.shape(self._level)[-2:]
        self._y, self._x = (Axis(*each) for each in zip(self._steps, stored, strict=True))
        self.info = _resampled_info(info, wanted, shape, self._told(stored))

    def _told(self, stored: Ints) -> dict[str, Any]:
        """How, for `inspect` and the store."""
        return {
            "from": _said(self._source.info),
            "level": self._level,
            "level_shape": list(stored),
            "kernel": {
                axis: "area average" if step > 1 else "bilinear" for axis, step in zip("yx", self._steps, strict=True)
            },
            **({"nearest": sorted(self._classes)} if self._classes else {}),
        }

    def _read(self, window: Window) -> Pixels:
        out = np.empty(window.shape, dtype=self._dtype)
        for block in self._blocks(window):
            out[block.relative_to(window.start).slices] = self._read_block(block)
        return out

    def _read_valid(self, window: Window) -> Valid:
        out = np.empty(window.shape, dtype=np.bool_)
        for block in self._blocks(window):
            taps = self._taps(block)
            valid = self._source.read_valid(taps.support(block), self._level)
            planes = out[block.relative_to(window.start).slices]
            for plane in np.ndindex(block.shape[:-2]):
                planes[plane] = taps.total(valid[plane].astype(np.float64)) >= HALF
        return out

    def _blocks(self, window: Window) -> list[Window]:
        """A window in pieces whose support fits in memory."""
        planes = max(1, math.prod(window.shape[:-2]))
        side = max(16, math.isqrt(BLOCK_VALUES // planes))
        cell = tuple(max(1, int(side / max(step, 1.0))) for step in self._steps)
        grid = Grid(window.shape[-2:], cell)
        parts = (grid.window(index) for index in grid.indices())
        return [
            Window(
                (*window.start[:-2], *(a + b for a, b in zip(window.start[-2:], part.start, strict=True))),
                (*window.shape[:-2], *part.shape),
            )
            for part in parts
        ]

    def _taps(self, block: Window) -> Taps:
        return Taps(self._y.taps(block.start[-2], block.stop[-2]), self._x.taps(block.start[-1], block.stop[-1]))

    def _read_block(self, block: Window) -> Pixels:
        """Plane by plane, so that floats are held of one plane alone."""
        taps = self._taps(block)
        support = taps.support(block)
        pixels = self._source.read(support, self._level)
        valid = self._valid_of(support)
        out = np.empty(block.shape, dtype=self._dtype)
        channel = self.info.axes.index("c")
        for plane in np.ndindex(block.shape[:-2]):
            if block.start[channel] + plane[channel] in self._classes:
                out[plane] = self._nearest(pixels[plane], block, support)
                continue
            usable = ~missing(pixels[plane], self._nodata) if self._can_miss else None
            if valid is not None:
                told = valid[self._valid_plane(plane)]
                usable = told if usable is None else usable & told
            out[plane] = taps.averaged(pixels[plane], usable, self._nodata)
        return out

    def _nearest(self, pixels: Pixels, block: Window, support: Window) -> Pixels:
        """A plane of a block, of the support's."""
        rows = self._y.nearest(block.start[-2], block.stop[-2]) - support.start[-2]
        columns = self._x.nearest(block.start[-1], block.stop[-1]) - support.start[-1]
        return np.asarray(pixels[rows[:, None], columns])

    def _valid_of(self, support: Window) -> Valid | None:
        """What the source itself says of the support, over its axes without c; None if it says nothing."""
        if not self._source.info.has_valid:
            return None
        channel = self.info.axes.index("c")
        start, shape = list(support.start), list(support.shape)
        del start[channel], shape[channel]
        return self._source.read_valid(Window(tuple(start), tuple(shape)), self._level)

    def _valid_plane(self, plane: Ints) -> Ints:
        """Index of a plane's validity: without its channel."""
        channel = self.info.axes.index("c")
        return plane[:channel] + plane[channel + 1 :]

    @cached_property
    def _can_miss(self) -> bool:
        """True if a pixel's own value can say that it has none."""
        return self._nodata is not None or self._dtype.kind == "f"

    def close(self) -> None:
        self._source.close()


def _num_out(num_in: int, factor: float) -> int:
    """Pixels of a side, rounded half up; at least one."""
    return max(1, math.floor(num_in / factor + 0.5))


def _level_for(source: Source, factors: tuple[float, float]) -> tuple[int, tuple[float, float]]:
    """The coarsest stored level that is at least as fine as wanted, and (y, x) sides of its pixels in those of level 0.

    Level 0 alone, where the source knows what is usable only there.
    """
    found, scales = 0, (1.0, 1.0)
    if source.info.has_valid and not source.levels_have_valid:
        return found, scales
    for level, sides in enumerate(source.info.levels):
        y, x = (_scale(n, side) for n, side in zip(source.info.shape[-2:], sides, strict=True))
        if y <= factors[0] * (1 + 1e-9) and x <= factors[1] * (1 + 1e-9) and y * x > scales[0] * scales[1]:
            found, scales = level, (y, x)
    return found, scales


def _scale(num_px: int, level_px: int) -> float:
    """How many pixels of level 0 one of a level spans: a whole number, where the side is that part of it, rounded."""
    whole = round(num_px / level_px)
    return float(whole) if level_px in (num_px // whole, -(-num_px // whole)) else num_px / level_px


def _said(info: SourceInfo) -> str:
    """A spacing for a person: "0.499 micrometer", or "0.5 x 0.25 micrometer (y x x)"."""
    assert info.spacing is not None, "a source without spacing is not resampled"
    y, x = info.spacing.values["y"], info.spacing.values["x"]
    return f"{y:.6g} {info.spacing.unit}" if y == x else f"{y:.6g} x {x:.6g} {info.spacing.unit} (y x x)"


def _resampled_info(info: SourceInfo, wanted: float, shape: tuple[int, ...], told: dict[str, Any]) -> SourceInfo:
    """The source's own info on the new grid."""
    assert info.spacing is not None, "a source without spacing is not resampled"
    own = info.spacing
    y, x = wanted / own.values["y"], wanted / own.values["x"]
    spacing = Spacing(
        values=own.values | {"y": wanted, "x": wanted}, unit=own.unit, origin=f"resampled from {_said(info)}"
    )
    georef = info.georef
    if georef is not None:
        a, b, c, d, e, f = georef.transform
        georef = Georef(crs_wkt=georef.crs_wkt, epsg=georef.epsg, transform=(a * x, b * y, c, d * x, e * y, f))
    told["step"] = [
        y,
        x,
    ]  # pixels of the source that one of these spans: shapes and masks in its pixels are placed by it
    told["source_shape"] = list(info.shape[-2:])
    return info.model_copy(
        update={
            "shape": shape,
            "spacing": spacing,
            "georef": georef,
            "affine": info.affine and info.affine.scaled(x, y),
            "levels": (),
            "details": info.details | {"resampled": told},
        }
    )
