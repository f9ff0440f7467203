"""OME-TIFF: a mask as a tiled, pyramidal TIFF for QuPath, ASAP and others; written tile by tile.

Planes (z or t) are pages, coarser levels their SubIFDs, as Bio-Formats writes and reads them. Of a single plane each
level has a second directory, of the same tiles, among the pages: OpenSlide and ASAP look for levels there alone.

    first page --next--> level 1 --next--> level 2     pages
        +--SubIFDs-----> level 1,          level 2     of the same tiles

The pixels are ids, not colours: names and colours of the classes stand in the XML, with the mask's lineage.
Source: OME-TIFF specification 2016-06, "Storing pyramidal images in OME-TIFF".
"""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import tifffile

from segcore.config import ExportConfig
from segcore.errors import StoreError
from segcore.export.stamp import KEY, lineage, plain, stamp
from segcore.geometry import Grid, level_shapes, rounded_up
from segcore.store import Image, Label

TILE_PX = 512
BIG_BYTES = 2**32 - 2**25
"""From so many bytes of pixels on, before they are compressed, it is a BigTIFF."""
SYMBOLS = {
    "nanometer": "nm",
    "micrometer": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "kilometer": "km",
    "inch": "in",
    "foot": "ft",
}
"""NGFF units that are lengths -> OME's symbols."""
DTYPES = ("uint8", "uint16", "uint32")
HEAD_BYTES = 2**20
"""Of an OME-XML in which the stamp is looked for."""


def write_ome_tiff(image: Image, mask: Label, path: Path, config: ExportConfig) -> dict[str, Any]:
    """Write the ids of a mask, or of its objects, with the mask's own levels and the physical size of a pixel.

    Raises:
        StoreError: if the ids take more than 32 bits.
    """
    if mask.dtype.name not in DTYPES:
        raise StoreError(f"image {image.image_id}: an OME-TIFF holds ids of up to 32 bits, got {mask.dtype.name}")
    halve = tuple(axis in "yx" for axis in mask.axes)
    shapes = level_shapes(mask.shape(), halve)
    num_bytes = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes) * mask.dtype.itemsize
    how: dict[str, Any] = {
        "dtype": mask.dtype,
        "tile": (TILE_PX, TILE_PX),
        "compression": "zlib",
        "photometric": "minisblack",
        "maxworkers": 1,
    }
    with tifffile.TiffWriter(path, bigtiff=num_bytes > BIG_BYTES, ome=True) as sink:
        for level, shape in enumerate(shapes):
            first = {"subifds": len(shapes) - 1, "metadata": _metadata(image, mask, config)}
            own = {"subfiletype": 1} if level else first
            sink.write(_tiles(mask, level), shape=shape, **how, **own, **_resolution(image, mask, level))
    if len(mask.axes) == 2:
        _chain_levels(path)
    return {"width": mask.shape()[-1], "height": mask.shape()[-2], "levels": len(shapes)}


def _tiles(mask: Label, level: int) -> Iterator[npt.NDArray[Any]]:
    """Those of a level, plane by plane in raster order; all are whole."""
    shape = mask.shape(level)
    grid = Grid(shape, (*(1,) * (len(shape) - 2), TILE_PX, TILE_PX))
    for index in grid.indices():
        pixels = mask.read(grid.window(index), level)[(0,) * (len(shape) - 2)]
        missing = [(0, TILE_PX - side) for side in pixels.shape]
        yield np.pad(pixels, missing) if any(after for _, after in missing) else pixels


def _chain_levels(path: Path) -> None:
    """Append a second directory of each level, of the same tiles, as the page after the one before it."""
    with tifffile.TiffFile(path, mode="r+") as found:
        file, kind, first = found.filehandle, found.tiff, found.pages.first

        def table(offset: int) -> bytes:
            """Number of tags, and the tags; the offset of the next directory follows."""
            file.seek(offset)
            head: bytes = file.read(kind.tagnosize)
            return head + bytes(file.read(struct.unpack(kind.tagnoformat, head)[0] * kind.tagsize))

        link = first.offset + len(table(first.offset))
        for offset in first.subifds or ():
            copy = table(offset)
            file.seek(0, os.SEEK_END)
            place = rounded_up(file.tell(), 2)  # where a word may begin
            file.seek(place)
            file.write(copy + struct.pack(kind.offsetformat, 0))
            file.seek(link)
            file.write(struct.pack(kind.offsetformat, place))
            link = place + len(copy)


def _resolution(image: Image, mask: Label, level: int) -> dict[str, Any]:
    """TIFF's pixels per centimetre, for those who read no XML."""
    spacing = image.spacing and image.spacing.at_level(mask.base_level + level)
    if spacing is None or spacing.px_per_cm is None:
        return {}
    return {"resolution": spacing.px_per_cm, "resolutionunit": "CENTIMETER"}


def _metadata(image: Image, mask: Label, config: ExportConfig) -> dict[str, Any]:
    """What tifffile writes as OME-XML."""
    found: dict[str, Any] = {
        "axes": "".join(mask.axes).upper(),
        "Name": image.image_id,
        "Channel": {"Name": [mask.name]},
        "MapAnnotation": {"Namespace": "segcore", KEY: stamp(mask, config), **lineage(image, mask), **_classes(mask)},
    }
    spacing = image.spacing and image.spacing.at_level(mask.base_level)
    if spacing is not None and spacing.unit in SYMBOLS:
        for axis in mask.axes:
            if axis in spacing.values:
                found[f"PhysicalSize{axis.upper()}"] = spacing.values[axis]
                found[f"PhysicalSize{axis.upper()}Unit"] = SYMBOLS[spacing.unit]
    return found


def _classes(mask: Label) -> dict[str, str]:
    """Id, name and colour of each class; of objects there are none."""
    return {f"class {info.id}": "{} #{:02x}{:02x}{:02x}".format(plain(info.name), *info.color) for info in mask.classes}


def ome_tiff_stamp(stream: IO[bytes]) -> str | None:
    """The stamp in a file that may be anything; only its first directory is read."""
    try:
        with tifffile.TiffFile(stream) as found:
            text = found.pages.first.description[:HEAD_BYTES]
    except Exception:  # noqa: BLE001 - tifffile raises anything on a damaged file: there is no stamp in it
        return None
    matched = re.search(rf'<M K="{KEY}">([A-Za-z0-9-]+)</M>', text)
    return matched[1] if matched else None
