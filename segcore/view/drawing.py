"""Drawing: an address of the viewer -> *its picture, or its values*. What an address may hold is checked here.

shelf (what is open) --planes--> pixels --paint--> picture
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from segcore.classes import ClassInfo
from segcore.errors import ConfigError
from segcore.geometry import Window
from segcore.report import pictures
from segcore.scoring.counts import foreground_rows
from segcore.store import Image, Label, Layer
from segcore.view import paint
from segcore.view.paint import Paints, Picture
from segcore.view.planes import Place, read_bands, read_ids, read_values, tile_window
from segcore.view.shelf import Limits, Shelf, shown_bands, stretch

THUMBNAIL_PX = 256
NOT_USABLE = ClassInfo(id=0, name="not usable", color=(150, 60, 60))
"""What the label `valid` shows."""


@dataclass(frozen=True)
class Look:
    """How a tile is drawn; each means something for one kind alone."""

    bands: tuple[int, ...] = ()
    """Of an image: one as grey, or three as red, green, blue; none = as the image is shown by default."""
    limits: Limits | None = None
    """Of an image: what becomes black and white; None = chosen from its pixels."""
    lossless: bool = False
    """Of an image."""
    outline: bool = False
    """Of a mask: lines instead of areas."""
    hidden: frozenset[int] = frozenset()
    """Of a mask: ids that are not shown, beside the background."""
    channel: int = 0
    """Of a layer."""


def tile(shelf: Shelf, image_id: str, opened: Image | Label | Layer, place: Place, look: Look) -> Picture:
    """A whole tile of an image, a mask or a layer.

    Raises:
        ConfigError: if the address is none.
        StoreError: if the pixels cannot be read.
    """
    box = tile_window(opened, place)
    level = place.level - opened.base_level
    if isinstance(opened, Image):
        return image_tile(shelf, opened, level, box, place.at, look)
    if isinstance(opened, Label):
        return label_tile(opened, level, box, place.at, look)
    if not 0 <= look.channel < len(opened.channels):
        raise ConfigError(f"layer {opened.name}: expected a channel below {len(opened.channels)}, got {look.channel}")
    values = read_values(opened, level, box, place.at, look.channel)
    entries = paint.value_tile(values, opened.nodata)
    return paint.painted(entries, paint.value_colors(), paint.value_alphas())


def image_tile(shelf: Shelf, image: Image, level: int, box: Window, at: Mapping[str, int], look: Look) -> Picture:
    """A tile of an image, stretched for eyes."""
    bands = list(look.bands) or shown_bands(image)
    if len(bands) not in (1, 3) or not all(0 <= band < len(image.channels) for band in bands):
        raise ConfigError(f"bands: expected one or three below {len(image.channels)}, got {bands}")
    pixels, valid = read_bands(image, level, box, at, bands)
    low, high = look.limits or stretch(shelf.limits(image.image_id), bands, image.dtype)
    return paint.photo(paint.eight_bit(pixels, low, high), valid, look.lossless)


def label_tile(label: Label, level: int, box: Window, at: Mapping[str, int], look: Look) -> Picture:
    """A tile of class or object ids."""
    reach = paint.LINE_PX if look.outline else 0
    around = box.expanded((reach, reach)).intersected(Window.whole(label.shape(level)[-2:]))
    ids = read_ids(label, level, around, at)
    if is_of_objects(label):
        entries, colors = paint.object_tile(ids), paint.object_colors()
    else:
        paints = Paints.of_classes(shown_classes(label), look.hidden | background(label))
        entries, colors = paint.class_tile(ids, paints), paints.colors
    if look.outline:
        entries = paint.outlines(entries, ids)
    return paint.painted(entries[box.relative_to(around.start).slices], colors)


def is_of_objects(label: Label) -> bool:
    """True for ids of objects, and for numbers of which nobody says what they mean."""
    return label.tells_objects or not shown_classes(label)


def shown_classes(label: Label) -> tuple[ClassInfo, ...]:
    """Names and colours of a label's ids."""
    return (NOT_USABLE,) if label.name == "valid" else label.classes


def background(label: Label) -> frozenset[int]:
    """Ids that are never painted: the background's, and of `valid` what is usable."""
    if label.name == "valid":
        return frozenset({1})
    classes = label.classes
    return frozenset({info.id for info in classes} - {classes[row].id for row in foreground_rows(classes)})


def thumbnail(shelf: Shelf, image: Image) -> Picture:
    """The image from its coarsest level, the middle plane."""
    level = image.num_levels - 1
    sides = image.shape(level)[-2:]
    pixels, valid = read_bands(image, level, Window.whole(sides), {}, shown_bands(image))
    names = [image.channels[band] for band in shown_bands(image)]
    picture = pictures.shrunk(pictures.to_rgb(pixels, names, valid), THUMBNAIL_PX)
    factor = THUMBNAIL_PX // (2 * max(picture.shape[:2]))
    if factor > 1:  # tiny images
        picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return paint.jpeg(picture)


def values_at(shelf: Shelf, image_id: str, y: int, x: int, at: Mapping[str, int], names: list[str]) -> dict[str, Any]:
    """What stands at a pixel of level 0: all bands, and of masks and layers those that are asked for.

    Args:
        shelf: what is open.
        image_id: the image.
        y: row.
        x: column.
        at: the plane.
        names: `labels/NAME` and `layers/MASK.KIND`.

    Raises:
        ConfigError: if there is no such pixel.
    """
    image, _ = shelf.image(image_id)
    height, width = image.shape()[-2:]
    if not (0 <= y < height and 0 <= x < width):
        raise ConfigError(f"pixel: expected y below {height} and x below {width}, got {y}, {x}")
    pixels, valid = read_bands(image, 0, Window((y, x), (1, 1)), at, range(len(image.channels)))
    values = [_json_value(value) for value in pixels[:, 0, 0]]
    found: dict[str, Any] = {"bands": values, "usable": valid is None or bool(valid[0, 0])}
    for name in names:
        group, _, own = name.partition("/")
        if group not in ("labels", "layers"):
            raise ConfigError(f"pixel: expected labels/NAME or layers/MASK.KIND, got {name}")
        found[name] = _value(shelf.opened(image_id, "labels" if group == "labels" else "layers", own).pyramid, y, x, at)
    return found


def _value(opened: Image | Label | Layer, y: int, x: int, at: Mapping[str, int]) -> Any:
    sides = opened.shape()[-2:]
    own = tuple(min(n >> opened.base_level, side - 1) for n, side in zip((y, x), sides, strict=True))
    box = Window(own, (1, 1))
    if isinstance(opened, Label):
        return int(read_ids(opened, 0, box, at)[0, 0])
    assert isinstance(opened, Layer), f"{opened}"
    scale = 255 if opened.dtype == np.uint8 else 1
    channels = range(len(opened.channels))
    return [_json_value(read_values(opened, 0, box, at, channel)[0, 0] / scale) for channel in channels]


def _json_value(value: Any) -> float | int | None:
    """A number that JSON has; None for NaN and Inf."""
    number = value.item()
    return None if isinstance(number, float) and not math.isfinite(number) else number
