"""JPEG 2000 headers: the size that a codestream asks for, read without any format library.

Enough to refuse a hostile header before a C library sees it.
Boxes: ISO/IEC 15444-1 annex I; the SIZ marker: annex A.5.1.
"""

import struct
from dataclasses import dataclass
from typing import IO

from segcore.errors import SourceError
from segcore.sources.base import Limits

SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
"""What a JP2 file begins with."""
CODESTREAM = b"\xff\x4f\xff\x51"
"""What a bare codestream begins with: its SOC and SIZ markers."""

MAX_BOXES = 4096
MAX_TILE_COMPONENTS = 2**18
"""Tiles times components: OpenJPEG takes about a kilobyte for each as soon as it opens the file."""


@dataclass(frozen=True)
class Jpeg2000Header:
    """What the SIZ marker tells."""

    num_components: int
    height: int
    width: int
    tile_height: int
    tile_width: int
    """Of the largest tile, which is never larger than the image."""
    num_tiles: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(components, y, x)."""
        return self.num_components, self.height, self.width


def is_jpeg2000(head: bytes) -> bool:
    """True for the first bytes of a JP2 file or of a bare codestream."""
    return head.startswith((SIGNATURE, CODESTREAM))


def read_header(opened: IO[bytes], num_bytes: int, uri: str, limits: Limits) -> Jpeg2000Header:
    """The size of the image, its tiles and its components.

    Args:
        opened: the file, anywhere in it.
        num_bytes: its size.
        uri: what errors name.
        limits: of metadata boxes.

    Raises:
        SourceError: if the header is damaged or cut off, or a metadata box is over the limit.
    """
    opened.seek(0)
    try:
        offset = 0 if opened.read(4) == CODESTREAM else _codestream_offset(opened, num_bytes, uri, limits)
        opened.seek(offset)
        return _read_siz(opened.read(42), uri)
    except struct.error as error:
        raise SourceError(f"{uri}: its JPEG 2000 header is damaged or cut off; copy it again") from error


def check_tiles(uri: str, header: Jpeg2000Header, limits: Limits) -> None:
    """Refuse tiles that are too large, or too many, for a decoder.

    Raises:
        SourceError: naming the limit.
    """
    tile_px = header.tile_height * header.tile_width
    # All components of a tile are decoded together; a picture of that size has up to four.
    if tile_px * max(header.num_components, 4) > limits.max_whole_px * 4:
        raise SourceError(
            f"{uri}: a tile of {header.tile_height} x {header.tile_width} px, {header.num_components} components, is "
            f"over the limit max_whole_px = {limits.max_whole_px} (of up to 4); save it with smaller tiles, or as a "
            "tiled GeoTIFF"
        )
    if header.num_tiles * header.num_components > MAX_TILE_COMPONENTS:
        raise SourceError(
            f"{uri}: its header asks for {header.num_tiles} tiles of {header.num_components} components, "
            f"over the limit of {MAX_TILE_COMPONENTS} together; save it with larger tiles"
        )


def _codestream_offset(opened: IO[bytes], num_bytes: int, uri: str, limits: Limits) -> int:
    """Where the first codestream begins; all boxes are looked at, as GDAL does."""
    found: int | None = None
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > num_bytes:
            break
        opened.seek(at)
        start = opened.read(16)
        size, kind = struct.unpack(">I4s", start[:8])
        header_bytes = 8
        if size == 1:
            (size,) = struct.unpack(">Q", start[8:16])
            header_bytes = 16
        elif size == 0:
            size = num_bytes - at  # the last box goes on to the end of the file
        if size < header_bytes:
            raise SourceError(f"{uri}: its JPEG 2000 boxes are damaged: one of {size} bytes at byte {at}")
        if kind == b"jp2c":
            found = at + header_bytes if found is None else found
        elif size > limits.max_metadata_bytes:
            raise SourceError(
                f"{uri}: a metadata box of {size} bytes is over the limit "
                f"max_metadata_bytes = {limits.max_metadata_bytes}"
            )
        at += size
    else:
        raise SourceError(f"{uri}: more than {MAX_BOXES} JPEG 2000 boxes; save it anew, with its metadata in few")
    if found is None:
        raise SourceError(f"{uri}: a JPEG 2000 file without a codestream; it is damaged or cut off")
    return found


def _read_siz(data: bytes, uri: str) -> Jpeg2000Header:
    """The SIZ marker, behind SOC at the very beginning of a codestream."""
    if data[:4] != CODESTREAM:
        raise SourceError(f"{uri}: its JPEG 2000 codestream is damaged: it begins with {data[:4]!r}")
    # Lsiz and Rsiz; the grid's size and the image's offset in it; a tile's size and the first one's offset; components.
    _, _, x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack(">2H8IH", data[4:42])
    if not (x0 < x1 and y0 < y1 and components > 0 and tile_x0 <= x0 < tile_x0 + tile_x):
        raise SourceError(f"{uri}: its JPEG 2000 header describes no image (x {x0}..{x1}, y {y0}..{y1})")
    if not tile_y0 <= y0 < tile_y0 + tile_y:
        raise SourceError(f"{uri}: its JPEG 2000 tiles do not cover the image; it is damaged")
    return Jpeg2000Header(
        num_components=components,
        height=y1 - y0,
        width=x1 - x0,
        tile_height=min(tile_y, y1 - y0),
        tile_width=min(tile_x, x1 - x0),
        num_tiles=-(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y),
    )
