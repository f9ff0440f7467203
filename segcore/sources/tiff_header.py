"""TIFF headers: the tags of a TIFF's first directory, read without any format library.

Enough to choose the reader, and to refuse a hostile header before a C library sees it.
"""

import struct
from dataclasses import dataclass
from typing import IO

from segcore.errors import SourceError

WIDTH, LENGTH, SAMPLES, BITS, DESCRIPTION = 256, 257, 277, 258, 270
TILE_WIDTH, TILE_LENGTH, ROWS_PER_STRIP, STRIP_BYTE_COUNTS, TILE_BYTE_COUNTS = 322, 323, 278, 279, 325
GEO_TAGS = (34735, 34264, 33550)
"""GeoKeyDirectory, ModelTransformation, ModelPixelScale."""

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 13: 4, 16: 8, 17: 8, 18: 8}
CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""struct codes of the integer types."""

MAX_ENTRIES = 4096
MAX_VALUE_BYTES = 2**24


@dataclass(frozen=True)
class TiffHeader:
    """Tags of the first directory: integers as tuples, text as bytes; other types only by their presence."""

    tags: dict[int, tuple[int, ...] | bytes]

    def integer(self, tag: int, default: int) -> int:
        """The first value of an integer tag."""
        value = self.tags.get(tag)
        return int(value[0]) if value else default

    def integers(self, tag: int) -> tuple[int, ...]:
        """All values of an integer tag; empty if it is missing."""
        value = self.tags.get(tag, ())
        return tuple(value)

    @property
    def description(self) -> bytes:
        """The ImageDescription, without its end mark."""
        value = self.tags.get(DESCRIPTION, b"")
        return value.rstrip(b"\0") if isinstance(value, bytes) else b""

    @property
    def is_geo(self) -> bool:
        """True if it has a georeference."""
        return any(tag in self.tags for tag in GEO_TAGS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(samples, y, x) of the first page."""
        return self.integer(SAMPLES, 1), self.integer(LENGTH, 0), self.integer(WIDTH, 0)


def read_header(opened: IO[bytes], num_bytes: int, uri: str) -> TiffHeader | None:
    """The first directory of a TIFF or BigTIFF.

    Args:
        opened: the file, anywhere in it.
        num_bytes: its size.
        uri: what errors name.

    Returns:
        None if the file does not begin like a TIFF.

    Raises:
        SourceError: if its first directory is missing or cut off.
    """
    opened.seek(0)
    start = opened.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 8:
        return None
    magic = struct.unpack(f"{order}H", start[2:4])[0]
    if magic not in (42, 43):
        return None
    big = magic == 43
    try:
        offset = struct.unpack(f"{order}Q", start[8:16])[0] if big else struct.unpack(f"{order}I", start[4:8])[0]
        if not big and num_bytes > 2**32:
            # NDPI: a classic TIFF over 4 GiB, whose offset goes on in the next four bytes.
            long_offset = struct.unpack(f"{order}Q", start[4:12])[0]
            offset = long_offset if long_offset < num_bytes else offset
        if offset >= num_bytes:
            raise SourceError(f"{uri}: the file is cut off: its TIFF directory is at byte {offset} of {num_bytes}")
        return TiffHeader(_read_tags(opened, offset, order, big))
    except struct.error as error:
        raise SourceError(
            f"{uri}: its TIFF directory is damaged or cut off; copy it again from where it came"
        ) from error


def _read_tags(opened: IO[bytes], offset: int, order: str, big: bool) -> dict[int, tuple[int, ...] | bytes]:
    """Entries of one directory; values that cannot be read are left out, as their owners would warn and go on."""
    opened.seek(offset)
    count_code, entry_code, inline = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    count_size, entry_size = struct.calcsize(f"<{count_code}"), struct.calcsize(f"<{entry_code}") + inline
    (count,) = struct.unpack(f"{order}{count_code}", opened.read(count_size))
    entries = opened.read(entry_size * min(count, MAX_ENTRIES))
    tags: dict[int, tuple[int, ...] | bytes] = {}
    for at in range(0, len(entries) - entry_size + 1, entry_size):
        tag, kind, number = struct.unpack_from(f"{order}{entry_code}", entries, at)
        raw = entries[at + entry_size - inline : at + entry_size]
        size = SIZES.get(kind, 0) * number
        if size > MAX_VALUE_BYTES:
            size = 0
        if size > inline:
            opened.seek(struct.unpack(f"{order}{'Q' if big else 'I'}", raw)[0])
            raw = opened.read(size)
        tags[tag] = _value(raw[:size], kind, order)
    return tags


def _value(raw: bytes, kind: int, order: str) -> tuple[int, ...] | bytes:
    """A tag's value, from its bytes."""
    if kind not in CODES:
        return raw
    number = len(raw) // SIZES[kind]
    return struct.unpack(f"{order}{number}{CODES[kind]}", raw[: number * SIZES[kind]])
