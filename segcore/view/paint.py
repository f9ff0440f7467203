"""Paint: pixels, class ids, object ids, values -> *encoded pictures* of whole tiles. numpy and Pillow only.

Photographs are JPEG, or PNG where a part is see-through (not usable) or no bit may be lost. Masks and layers are PNG
with a palette, see-through where there is nothing to show; how much they cover what is below is the browser's part.
"""

import colorsys
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from segcore.classes import RGB, ClassInfo
from segcore.report.pictures import OUT_OF_SCORE
from segcore.view.planes import TILE_PX

Pixels = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

LINE_PX = 2
"""Width of an outline, inside of what it goes around."""
NUM_OBJECT_COLORS = 254
GOLDEN = 0.618034
"""Steps of this part of the circle never come close to an earlier hue soon."""
COLORMAP = "inferno"
FADE = 0.25
"""Of a layer, values below this share of the range let more and more of the image through."""


@dataclass(frozen=True)
class Picture:
    """A file for the browser."""

    data: bytes
    media_type: str


def eight_bit(pixels: Pixels, low: float, high: float) -> Bytes:
    """`low` becomes 0, `high` 255, what lies outside is clipped; what is not finite becomes 0."""
    if pixels.dtype == np.uint8 and (low, high) == (0, 255):
        return pixels
    if pixels.dtype.kind in "ui" and pixels.dtype.itemsize <= 2:
        limits = np.iinfo(pixels.dtype)
        table = _scaled(np.arange(limits.min, limits.max + 1), low, high)
        scaled: Bytes = table[pixels.astype(np.int32) - limits.min]
        return scaled
    return _scaled(np.nan_to_num(pixels, posinf=high, neginf=low), low, high)


def _scaled(values: Pixels, low: float, high: float) -> Bytes:
    scaled = (values.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    eight: Bytes = np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
    return eight


def photo(bands: Bytes, valid: npt.NDArray[np.bool_] | None, lossless: bool) -> Picture:
    """A picture of an image.

    Args:
        bands: (1 or 3, Y, X), at most TILE_PX wide and high; what lacks is filled with the last row and column.
        valid: (Y, X), True = usable, others are see-through; None = all are.
        lossless: PNG, whatever it costs.
    """
    height, width = bands.shape[-2:]
    lacks = (0, TILE_PX - height), (0, TILE_PX - width)
    whole = np.pad(np.moveaxis(bands, 0, -1), (*lacks, (0, 0)), mode="edge")
    if valid is not None:
        alpha = np.where(np.pad(valid, lacks, mode="edge"), 255, 0).astype(np.uint8)
        return Picture(_png(Pillow.fromarray(np.dstack([whole, alpha]))), "image/png")
    picture = whole[..., 0] if whole.shape[-1] == 1 else np.ascontiguousarray(whole)
    return Picture(_png(Pillow.fromarray(picture)), "image/png") if lossless else jpeg(picture)


def jpeg(picture: Bytes) -> Picture:
    """A photograph (Y, X) or (Y, X, 3): in a tenth of the time of a PNG."""
    buffer = io.BytesIO()
    Pillow.fromarray(picture).save(buffer, "JPEG", quality=90, subsampling=0)
    return Picture(buffer.getvalue(), "image/jpeg")


@dataclass(frozen=True)
class Paints:
    """The colours of a mask's ids."""

    entry: npt.NDArray[np.uint8]
    """Of each of 65536 ids, its entry in the palette; 0 is see-through."""
    colors: tuple[RGB, ...]
    """From entry 1 on."""

    @classmethod
    def of_classes(cls, classes: Sequence[ClassInfo], hidden: frozenset[int]) -> "Paints":
        """Each class in its colour, but for those that are hidden; every other id is light grey.

        Palettes have 255 entries: of classes of more colours, those that come late share the last one.
        """
        colors: dict[RGB, int] = {OUT_OF_SCORE: 1}
        entry = np.full(65536, 1, np.uint8)
        for info in classes:
            entry[info.id] = colors.setdefault(info.color, min(len(colors) + 1, 255))
        entry[list(hidden)] = 0
        return cls(entry, tuple(colors)[:255])


def class_tile(ids: Pixels, paints: Paints) -> Bytes:
    """Entries of the palette of class ids (Y, X)."""
    entries: Bytes = paints.entry[ids]
    return entries


def object_tile(ids: Pixels) -> Bytes:
    """Entries of the palette of `object_colors` for object ids (Y, X); 0 is none. Ids that follow on differ."""
    entries: Bytes = np.where(ids == 0, 0, 1 + (ids.astype(np.uint64) % NUM_OBJECT_COLORS)).astype(np.uint8)
    return entries


@functools.cache
def object_colors() -> tuple[RGB, ...]:
    """Colours far from each other where they follow each other."""
    found = []
    for number in range(NUM_OBJECT_COLORS):
        bright = 1.0 if number % 2 else 0.82
        red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.55 + 0.4 * (number % 3) / 2, bright)
        found.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(found)


def outlines(entries: Bytes, ids: Pixels) -> Bytes:
    """The entries of a line along the inner border of every id that is shown; 0 elsewhere.

    Args:
        entries: (Y, X), from a window that reaches LINE_PX over the tile where the image goes on.
        ids: (Y, X), which tell neighbours apart that have one colour.
    """
    shown = np.where(entries > 0, ids.astype(np.int64) + 1, 0)
    near = np.zeros(ids.shape, np.bool_)
    for step in range(1, LINE_PX + 1):
        down, right = shown[step:] != shown[:-step], shown[:, step:] != shown[:, :-step]
        near[step:] |= down
        near[:-step] |= down
        near[:, step:] |= right
        near[:, :-step] |= right
    return np.where(near, entries, 0).astype(np.uint8)


def value_tile(values: Pixels, nodata: float | None) -> Bytes:
    """Entries of the colour map for a layer's values (Y, X): 0 to 255, or 0 to 1 where they are no integers."""
    missing = ~np.isfinite(values)
    if nodata is not None and np.isfinite(nodata):
        missing |= values == values.dtype.type(nodata)
    high = 255 if values.dtype == np.uint8 else 1
    scaled = np.clip(np.nan_to_num(values.astype(np.float32)) / high, 0, 1)
    entries: Bytes = np.where(missing, 0, 1 + np.rint(scaled * 254)).astype(np.uint8)
    return entries


@functools.cache
def value_colors() -> tuple[RGB, ...]:
    """The colour map, from entry 1 on."""
    colors = matplotlib.colormaps[COLORMAP](np.linspace(0, 1, 255), bytes=True)
    return tuple((int(red), int(green), int(blue)) for red, green, blue, _ in colors)


def value_alphas() -> bytes:
    """How little the colour map lets through: of low values the image shows."""
    return bytes(min(255, round(255 * entry / (FADE * 254))) for entry in range(255))


def painted(entries: Bytes, colors: Sequence[RGB], alphas: bytes | None = None) -> Picture:
    """A PNG with a palette; what lacks of the whole tile is see-through.

    Args:
        entries: (Y, X); 0 is see-through.
        colors: from entry 1 on.
        alphas: of these entries; None = they cover all.
    """
    height, width = entries.shape
    whole = np.pad(entries, ((0, TILE_PX - height), (0, TILE_PX - width)))
    picture = Pillow.fromarray(whole)
    picture.putpalette([0, 0, 0, *(value for color in colors for value in color)])
    picture.info["transparency"] = b"\0" + (alphas or b"\xff" * len(colors))
    return Picture(_png(picture), "image/png")


def _png(picture: Pillow.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
