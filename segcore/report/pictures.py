"""Pictures: pixels and class ids -> *small pictures* as data URIs. numpy and Pillow only.

Images come in as (C, Y, X) in any number type, ids as (Y, X); pictures are (Y, X, 3) uint8 RGB.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from segcore.classes import ClassInfo

Rgb = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.integer[Any]]

DARK = 160
"""8-bit images whose 99.8th percentile is below this are brightened: fluorescence would look black."""
TINT = 0.5
OUT_OF_SCORE: tuple[int, int, int] = (200, 200, 200)
"""Grey of pixels that are ignored or not usable."""
HATCH_PX = 14
"""From one line of a hatching to the next."""
CASING = 30
"""Grey of the line outside of an outline, which lets its colour show on a ground of the same one."""
WRONG: tuple[int, int, int] = (213, 40, 40)
RIGHT: tuple[int, int, int] = (0, 140, 90)
NEITHER: tuple[int, int, int] = (40, 90, 200)


def to_rgb(pixels: npt.NDArray[Any], channels: Sequence[str] = (), valid: npt.NDArray[np.bool_] | None = None) -> Rgb:
    """A picture that eyes can read: red, green, blue (or the first three, or grey), stretched where needed.

    8-bit images that use their range stay as they are; others are stretched between their 0.2nd and 99.8th
    percentile, all channels alike, so that colours keep their ratio. Only pixels that are usable and finite
    take part; the others are light grey.

    Args:
        pixels: (C, Y, X), any number type.
        channels: their names; red, green and blue are found by name.
        valid: (Y, X), True = usable; None = all are.
    """
    picture = np.moveaxis(pixels[color_channels(pixels.shape[0], channels)], 0, -1)
    shown = np.isfinite(picture).all(axis=-1)
    if valid is not None:
        shown &= valid
    values = picture[shown]
    out = np.full(picture.shape, OUT_OF_SCORE, np.uint8)
    if values.size:
        out[shown] = _stretched(values)
    return out


def _stretched(values: npt.NDArray[Any]) -> Rgb:
    low, high = (float(v) for v in np.percentile(values, (0.2, 99.8)))
    if values.dtype == np.uint8:
        if high >= DARK:
            return values
        low = 0.0
    scaled = (values.astype(np.float32) - low) * (255.0 / max(high - low, 1e-12))
    stretched: Rgb = np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
    return stretched


def color_channels(num_channels: int, channels: Sequence[str]) -> list[int]:
    """Indices of what is shown as red, green and blue: by name, else the first three, else the first as grey."""
    names = [name.strip().lower() for name in channels]
    if all(color in names for color in ("red", "green", "blue")):
        return [names.index(color) for color in ("red", "green", "blue")]
    return [0, 1, 2] if num_channels >= 3 else [0, 0, 0]


def colored(ids: Ids, classes: Sequence[ClassInfo]) -> Rgb:
    """Class ids in the colours of their classes; every other value is light grey."""
    colors = np.full((65536, 3), OUT_OF_SCORE, np.uint8)
    for info in classes:
        colors[info.id] = info.color
    picture: Rgb = colors[ids]
    return picture


def overlay(picture: Rgb, ids: Ids, classes: Sequence[ClassInfo], foreground: Sequence[int]) -> Rgb:
    """The picture tinted with the class colours of the foreground, with a firm line along its borders.

    Args:
        picture: (Y, X, 3).
        ids: (Y, X) class ids.
        classes: their colours.
        foreground: indices into `classes` that are tinted, see `counts.foreground_rows`.
    """
    shown = np.isin(ids, [classes[row].id for row in foreground])
    color = colored(ids, classes)
    blended = picture.astype(np.float32) * (1 - TINT) + color * np.float32(TINT)
    out = np.where(shown[..., None], blended.astype(np.uint8), picture)
    line = _borders(np.where(shown, ids, 65535)) & shown
    out[line] = color[line]
    return out


def outlined(picture: Rgb, ids: Ids, classes: Sequence[ClassInfo], foreground: Sequence[int]) -> Rgb:
    """The picture with a line in the class colours inside the borders of the foreground, and a dark one outside.

    Args:
        picture: (Y, X, 3).
        ids: (Y, X) class ids.
        classes: their colours.
        foreground: indices into `classes` that are outlined, see `counts.foreground_rows`.
    """
    shown = np.isin(ids, [classes[row].id for row in foreground])
    line = _borders(np.where(shown, ids, 65535))
    out = picture.copy()
    out[line] = CASING
    out[line & shown] = colored(ids, classes)[line & shown]
    return out


def hatched(picture: Rgb, where: npt.NDArray[np.bool_]) -> Rgb:
    """The picture with slanting lines, light beside dark so that they show on any ground.

    Args:
        picture: (Y, X, 3).
        where: (Y, X), True = hatched.
    """
    out = picture.copy()
    slant = np.indices(where.shape).sum(axis=0) % HATCH_PX
    out[where & (slant < 2)] = 255
    out[where & (slant >= 2) & (slant < 4)] = CASING
    return out


def _borders(ids: Ids) -> npt.NDArray[np.bool_]:
    """Pixels with another id to the right or below, on either side of the step."""
    edge = np.zeros(ids.shape, bool)
    down, right = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def errors(picture: Rgb, target: Ids, mask: Ids, counted: npt.NDArray[np.bool_]) -> Rgb:
    """The picture in pale grey, with red where the mask is wrong, and darker where nothing was counted."""
    grey = picture.mean(axis=-1, keepdims=True).astype(np.float32)
    pale = np.repeat(150 + grey * (105 / 255), 3, axis=-1).astype(np.uint8)
    pale[~counted] = pale[~counted] // 2
    pale[counted & (target != mask)] = WRONG
    return pale


def changes(picture: Rgb, masks: tuple[Ids, Ids], target: Ids | None, counted: npt.NDArray[np.bool_]) -> Rgb:
    """The picture in pale grey, with what two masks give differently: where only the first is right, only the second,
    or neither; darker where nothing was counted.

    Args:
        picture: (Y, X, 3).
        masks: (Y, X) class ids of the first and the second.
        target: likewise; None where there is none, so that nobody knows who is right.
        counted: (Y, X), True = usable in both.
    """
    grey = picture.mean(axis=-1, keepdims=True).astype(np.float32)
    pale = np.repeat(150 + grey * (105 / 255), 3, axis=-1).astype(np.uint8)
    pale[~counted] = pale[~counted] // 2
    one, other = masks
    differs = counted & (one != other)
    pale[differs] = NEITHER
    if target is not None:
        pale[differs & (one == target)] = RIGHT
        pale[differs & (other == target)] = WRONG
    return pale


def reddened(picture: Rgb, saliency: npt.NDArray[np.float32]) -> Rgb:
    """The picture in pale grey, redder where there is more.

    Args:
        picture: (Y, X, 3).
        saliency: (Y, X), 0 to 1.
    """
    grey = 150 + picture.mean(axis=-1, keepdims=True).astype(np.float32) * (105 / 255)
    red: Rgb = (grey + saliency[..., None] * (np.asarray(WRONG, np.float32) - grey)).astype(np.uint8)
    return red


def shrunk(picture: Rgb, longest_px: int) -> Rgb:
    """The picture with its longer side at most `longest_px`; smaller ones stay as they are."""
    height, width = picture.shape[:2]
    factor = longest_px / max(height, width)
    if factor >= 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Pillow.fromarray(picture).resize(size, Pillow.Resampling.BOX))


def sampled(ids: Ids, sides: tuple[int, ...]) -> Ids:
    """Class ids (Y, X) at another size: each takes the nearest pixel's, none are mixed."""
    rows, columns = ((np.arange(n) * 2 + 1) * side // (2 * n) for n, side in zip(sides, ids.shape, strict=True))
    chosen: Ids = ids[rows[:, None], columns]
    return chosen


def photo_uri(picture: Rgb) -> str:
    """WebP: for pictures of the world, at two thirds of the bytes of a JPEG."""
    return _uri(Pillow.fromarray(picture), "webp", quality=80, method=4)


def ids_uri(ids: Ids, classes: Sequence[ClassInfo]) -> str:
    """Class ids as a PNG in the colours of their classes: with a palette where that is large enough."""
    if len(classes) > 255:
        return _uri(Pillow.fromarray(colored(ids, classes)), "png", optimize=True)
    entry = np.full(65536, len(classes), np.uint8)
    entry[[info.id for info in classes]] = np.arange(len(classes))
    flat = Pillow.fromarray(entry[ids])
    flat.putpalette([value for color in (*(info.color for info in classes), OUT_OF_SCORE) for value in color])
    return _uri(flat, "png", optimize=True)


def png(picture: Rgb) -> bytes:
    """The picture as a PNG file; the same pixels are the same bytes."""
    buffer = io.BytesIO()
    Pillow.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def svg_uri(svg: bytes) -> str:
    """A drawing, in an image element of its own: its ids cannot meet those of another."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def png_uri(png: bytes) -> str:
    """A drawing as pixels, for pages that show no SVG."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _uri(image: Pillow.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind.upper(), **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
