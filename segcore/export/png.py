"""PNG: a mask as a picture with a palette, whose pixel values stay the class ids."""

import json
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngImageFile, PngInfo

from segcore.classes import IGNORE
from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.stamp import KEY, LINEAGE, lineage, stamp
from segcore.geometry import Grid
from segcore.store import Image, Label

MAX_PX = 100_000_000
"""A PNG is made in memory, one byte a pixel, and few programs open a larger one."""
WINDOW_PX = 2048


def write_png(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write a palette PNG: pixel = class id, 255 = ignore (transparent), colours of the classes.

    Raises:
        StoreError: if the mask has more than `MAX_PX` pixels, or a class id above 254.
    """
    height, width = mask.shape()
    if height * width > MAX_PX:
        raise StoreError(
            f"image {image.image_id}: {width} x {height} px is too large for a PNG, expected at most "
            f"{MAX_PX // 1_000_000} Mpx; export it as geotiff"
        )
    if mask.tells_objects:
        raise StoreError(f"image {image.image_id}: a PNG holds class ids, not those of objects; export as geotiff")
    largest = max((info.id for info in mask.classes), default=0)
    if largest >= IGNORE:
        raise StoreError(f"image {image.image_id}: a PNG holds class ids up to 254, got {largest}; export as geotiff")
    ids = np.empty((height, width), np.uint8)
    grid = Grid((height, width), (WINDOW_PX, WINDOW_PX))
    for index in grid.indices():
        window = grid.window(index)
        pixels = mask.read(window)
        ids[window.slices] = np.where(pixels == mask.ignore, IGNORE, pixels)
    palette = np.zeros((256, 3), np.uint8)
    for info in mask.classes:
        palette[info.id] = info.color
    picture = Pillow.fromarray(ids)
    picture.putpalette(palette.tobytes())
    text = PngInfo()
    text.add_text(KEY, stamp(mask, config))
    text.add_text(LINEAGE, json.dumps(lineage(image, mask)))
    picture.save(path, "PNG", transparency=IGNORE, pnginfo=text)
    return {"width": width, "height": height}


def png_stamp(stream: IO[bytes]) -> str | None:
    """The stamp in a file that may be anything; its pixels are not read."""
    try:
        found = PngImageFile(stream).info.get(KEY)
    except (SyntaxError, OSError, ValueError, EOFError):  # what Pillow raises for no PNG, or a damaged one
        return None
    return found if isinstance(found, str) else None
