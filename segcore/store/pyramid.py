"""Pyramid: how an image is laid out in levels, shards and chunks, and how one level becomes the next."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from segcore.geometry import Grid, Ints, Window, halved, level_shapes
from segcore.nodata import missing, off_nodata

CHUNK_PX = 256
CHUNK_PX_V2 = 512
"""Of OME-NGFF 0.4, where every chunk is an object of its own."""
UNIT_SHARDS = 4
"""A work unit is this many shards wide and high."""
MAX_INTERLEAVED_CHANNELS = 4
MAX_SHARD_BYTES = 64 << 20
ROWS_AT_ONCE = 16

Kind = Literal["image", "mask", "instances"]
Ngff = Literal["0.5", "0.4"]
"""Version of OME-NGFF: 0.5 is Zarr v3 and sharded, 0.4 is Zarr v2."""
Pixels = npt.NDArray[Any]


class PyramidSpec(BaseModel):
    """The layout of one multiscale array.

    `kind` decides how levels go down: images by the mean, masks by the mode, instances by nearest.
    """

    model_config = ConfigDict(frozen=True)

    axes: tuple[str, ...]
    """Axis names, e.g. ("c", "y", "x"); only y and x are halved."""
    shape: Ints
    dtype: str
    kind: Kind
    fill: float = 0
    """Value of pixels that no shard holds."""
    nodata: float | None = None
    """Left out of the mean."""
    shard_px: int = 2048
    ngff: Ngff = "0.5"
    linked: bool = False
    """True for an image that holds metadata only: its pixels stay at the source."""
    base_level: int = 0
    """The level of its image that is the finest of this label."""
    num_levels: int = 0
    """0 = as many as its size needs; a label has as many as its image (NGFF), whatever its finest is."""

    @property
    def num_shards(self) -> int:
        """Shards of level 0 that are stored."""
        return 0 if self.linked else self.grid(0).num_cells

    @property
    def frozen(self) -> dict[str, Any]:
        """JSON for `plan.json`; what was added later is not named where it is as it was before there was a choice."""
        added = ("ngff", "linked", "base_level", "num_levels")
        unsaid = {name for name in added if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=unsaid)

    @property
    def halve(self) -> tuple[bool, ...]:
        return tuple(axis in "yx" for axis in self.axes)

    @property
    def levels(self) -> list[Ints]:
        """Shape of every level, finest first."""
        shapes = level_shapes(self.shape, self.halve)
        while len(shapes) < self.num_levels:
            shapes.append(halved(shapes[-1], self.halve))
        return shapes

    @property
    def chunk(self) -> Ints:
        """Smallest unit read.

        0.5: 256 px in y and x, and up to 4 channels together. 0.4: 512 px, or what of it divides a shard; one channel.
        """
        if self.ngff == "0.4":
            side_px = math.gcd(self.shard_px, CHUNK_PX_V2)
            return tuple({"y": side_px, "x": side_px}.get(axis, 1) for axis in self.axes)
        num_channels = self.shape[self.axes.index("c")] if "c" in self.axes else 1
        together = num_channels if num_channels <= MAX_INTERLEAVED_CHANNELS else 1
        side_px = math.gcd(self.shard_px, CHUNK_PX)  # shards of coarse layers are smaller than a chunk
        return tuple({"c": together, "y": side_px, "x": side_px}.get(axis, 1) for axis in self.axes)

    @property
    def is_interleaved(self) -> bool:
        """True if the channels of a pixel lie side by side in a chunk's bytes."""
        return "c" in self.axes and self.chunk[self.axes.index("c")] > 1

    def stored(self, pixels: Pixels) -> Pixels:
        """The same pixels as a C-order array in the order of a chunk's bytes: channels last where they interleave."""
        ordered = np.moveaxis(pixels, self.axes.index("c"), -1) if self.is_interleaved else pixels
        return np.ascontiguousarray(ordered, dtype=self.dtype)

    def empty(self, shape: Ints) -> Pixels:
        """Pixels of the fill value, in memory in the order of a chunk's bytes."""
        if not self.is_interleaved:
            return np.full(shape, self.fill, dtype=self.dtype)
        channel = self.axes.index("c")
        ordered = (*shape[:channel], *shape[channel + 1 :], shape[channel])
        return np.moveaxis(np.full(ordered, self.fill, dtype=self.dtype), -1, channel)

    @property
    def shard(self) -> Ints:
        """Unit of writing: all channels, one z and one t, `shard_px` in y and x."""
        num_channels = self.shape[self.axes.index("c")] if "c" in self.axes else 1
        side = {"c": num_channels, "y": self.shard_px, "x": self.shard_px}
        return tuple(side.get(axis, 1) for axis in self.axes)

    def grid(self, level: int) -> Grid:
        """The shards of a level."""
        return Grid(self.levels[level], self.shard)

    @property
    def units(self) -> Grid:
        """The work units of level 0: 4x4 shards."""
        return self.groups(UNIT_SHARDS)

    def groups(self, side: int, depth: int = 1) -> Grid:
        """Aligned groups of side x side shards of level 0, and of `depth` planes of z and t."""
        times = [{"y": side, "x": side, "c": 1}.get(axis, depth) for axis in self.axes]
        return Grid(self.shape, tuple(n * factor for n, factor in zip(self.shard, times, strict=True)))

    def parent(self, shard: Ints) -> Ints:
        """The shard of the next level that this one goes into."""
        return tuple(i // 2 if h else i for i, h in zip(shard, self.halve, strict=True))

    def children(self, level: int, shard: Ints) -> list[Ints]:
        """The shards of `level - 1` that go into a shard of `level`."""
        window = self.grid(level).window(shard)
        finer = Window(
            tuple(a * 2 if h else a for a, h in zip(window.start, self.halve, strict=True)),
            tuple(n * 2 if h else n for n, h in zip(window.shape, self.halve, strict=True)),
        )
        return list(self.grid(level - 1).touching(finer))

    def reduced(self, pixels: Pixels) -> Pixels:
        """Pixels of one level -> those of the next: y and x halved, the last odd row or column alone."""
        assert self.axes[-2:] == ("y", "x"), f"y and x must come last, got {self.axes}"
        if self.kind == "instances":
            return pixels[..., ::2, ::2]
        pad = [(0, 0)] * (pixels.ndim - 2) + [(0, n % 2) for n in pixels.shape[-2:]]
        padded = np.pad(pixels, pad, mode="edge") if any(after for _, after in pad) else pixels
        if self.kind == "mask":
            return mode_2x2(padded)
        if np.issubdtype(pixels.dtype, np.floating):  # band by band: a fill value would spoil every mean
            return valid_mean_2x2(padded, float("nan") if self.nodata is None else self.nodata, None)
        if self.nodata is None:
            return mean_2x2(padded)
        channel = self.axes.index("c") if "c" in self.axes else None
        return valid_mean_2x2(padded, self.nodata, channel)


def fitting_shard_px(axes: tuple[str, ...], shape: Ints, dtype: str, wanted_px: int) -> int:
    """The largest shard side, halved from `wanted_px`, at which a shard is at most 64 MiB."""
    num_channels = shape[axes.index("c")] if "c" in axes else 1
    side = wanted_px
    while side > CHUNK_PX and side % 2 == 0 and side // 2 % CHUNK_PX == 0:
        if math.prod((num_channels, side, side, np.dtype(dtype).itemsize)) <= MAX_SHARD_BYTES:
            break
        side //= 2
    return side


def mean_2x2(pixels: Pixels) -> Pixels:
    """Mean of every 2x2 block of the last two (even) axes; integers are rounded half up."""
    if np.issubdtype(pixels.dtype, np.floating):
        quarter: Pixels = _sum_2x2(pixels) / pixels.dtype.type(4)
        return quarter
    if pixels.dtype == np.bool_:
        return mode_2x2(pixels)
    if pixels.ndim == 3 and pixels.strides[0] == pixels.itemsize < pixels.strides[2]:
        return _interleaved_mean_2x2(pixels)
    wide = np.dtype(np.int64 if pixels.dtype.itemsize > 2 else np.int32 if pixels.dtype.itemsize == 2 else np.int16)
    rows = pixels[..., ::2, :].astype(wide)
    rows += pixels[..., 1::2, :]
    total: Pixels = rows[..., ::2] + rows[..., 1::2]
    total += 2
    total >>= 2
    return total.astype(pixels.dtype)


def _interleaved_mean_2x2(pixels: Pixels) -> Pixels:
    """`mean_2x2` of integers (C, Y, X) whose channels lie side by side, given back in that order too.

    Band by band of rows, so that the sums stay in the cache; channel by channel, so that no inner loop is as short as
    the pixel is wide.
    """
    by_row = np.moveaxis(pixels, 0, -1)
    height, width, num_channels = by_row.shape[0] // 2, by_row.shape[1] // 2, by_row.shape[2]
    wide = np.dtype(np.int64 if pixels.dtype.itemsize > 2 else np.int32 if pixels.dtype.itemsize == 2 else np.int16)
    out = np.empty((height, width, num_channels), pixels.dtype)
    for top in range(0, height, ROWS_AT_ONCE):
        upper, lower = (by_row[2 * top + i : 2 * (top + ROWS_AT_ONCE) : 2] for i in (0, 1))
        rows = upper.astype(wide)
        rows += lower
        for channel in range(num_channels):
            total = rows[:, ::2, channel] + rows[:, 1::2, channel]
            total += 2
            total >>= 2
            out[top : top + ROWS_AT_ONCE, :, channel] = total
    return np.moveaxis(out, -1, 0)


def valid_mean_2x2(pixels: Pixels, nodata: float, channel: int | None) -> Pixels:
    """`mean_2x2` of the valid pixels only; nodata where a block has none, and there alone.

    Band by band of rows and channel by channel, so that the wide sums stay small.

    Args:
        pixels: last two axes y and x, even.
        nodata: the fill value; a pixel is valid where any channel differs from it. NaN and Inf never are.
        channel: the axis of the channels; None = every element for itself.
    """
    if all(_valid(band, nodata).all() for band in _bands(pixels, channel, 2 * ROWS_AT_ONCE)):
        out = mean_2x2(pixels)
        for means in _bands(out, channel, ROWS_AT_ONCE):
            _keep_values(means, np.True_, nodata)
        return out
    out = np.empty_like(pixels[..., ::2, ::2])  # in memory in the same order
    fine, coarse = _bands(pixels, channel, 2 * ROWS_AT_ONCE), _bands(out, channel, ROWS_AT_ONCE)
    for band, means in zip(fine, coarse, strict=True):
        valid = _valid(band, nodata)
        for values, mean in zip(band, means, strict=True):
            mean[:] = _mean_where(valid, values, nodata)
        _keep_values(means, _sum_2x2(valid.astype(np.uint8)) > 0, nodata)
    return out


def _keep_values(means: Pixels, has_value: npt.NDArray[np.bool_] | np.bool_, nodata: float) -> None:
    """Move means (C, rows, X) that came out as nodata in every channel off it, in place, where there was a value."""
    lost = ~_valid(means, nodata) & has_value
    if lost.any():
        means[0][lost] = off_nodata(means[0][lost], nodata)


def _bands(pixels: Pixels, channel: int | None, num_rows: int) -> Iterator[Pixels]:
    """Views (C, rows, X) of a few rows each; C is 1 where every element counts for itself."""
    grouped = pixels[..., None, :, :] if channel is None else np.moveaxis(pixels, channel, -3)
    for at in np.ndindex(grouped.shape[:-3]):
        for top in range(0, grouped.shape[-2], num_rows):
            yield grouped[at][:, top : top + num_rows]


def _valid(band: Pixels, nodata: float) -> npt.NDArray[np.bool_]:
    """Pixels (rows, X) of a band (C, rows, X) with a value in any channel."""
    absent = missing(band[0], nodata)
    for values in band[1:]:  # one by one: an inner loop over channels that lie side by side would be short
        absent &= missing(values, nodata)
    return ~absent


def _mean_where(valid: npt.NDArray[np.bool_], values: Pixels, nodata: float) -> Pixels:
    """Mean of the valid ones of every 2x2 block of (Y, X); nodata where there are none."""
    integer = np.issubdtype(values.dtype, np.integer)
    total = _sum_2x2(np.where(valid, values, 0).astype(np.int64 if integer else np.float64))
    count = _sum_2x2(valid.astype(np.int64))
    safe = np.maximum(count, 1)
    mean = (2 * total + safe) // (2 * safe) if integer else total / safe
    return np.where(count > 0, mean, nodata).astype(values.dtype)


def _sum_2x2(values: Pixels) -> Pixels:
    rows: Pixels = values[..., ::2, :] + values[..., 1::2, :]
    total: Pixels = rows[..., ::2] + rows[..., 1::2]
    return total


def mode_2x2(pixels: Pixels) -> Pixels:
    """Most frequent id of every 2x2 block of the last two (even) axes.

    Ties go to the lowest id; `ignore` is the highest, so it wins only where it is the more frequent.
    """
    a, b = pixels[..., ::2, ::2], pixels[..., ::2, 1::2]
    c, d = pixels[..., 1::2, ::2], pixels[..., 1::2, 1::2]
    # A sorting network for four values, so that equal ids stand together.
    low1, high1, low2, high2 = np.minimum(a, b), np.maximum(a, b), np.minimum(c, d), np.maximum(c, d)
    first, last = np.minimum(low1, low2), np.maximum(high1, high2)
    middle1, middle2 = np.maximum(low1, low2), np.minimum(high1, high2)
    second, third = np.minimum(middle1, middle2), np.maximum(middle1, middle2)
    out = np.where(third == last, third, first)
    out = np.where(second == third, second, out)
    return np.where(first == second, first, out)
