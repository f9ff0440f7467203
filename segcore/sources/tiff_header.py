"""TIFF headers: the tags of a TIFF's directories, read without any format library.

Enough to choose the reader, and to refuse a hostile header before a C library sees it.
"""

import dataclasses
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Self

from segcore.errors import SourceError

WIDTH, LENGTH, SAMPLES, BITS, COMPRESSION, DESCRIPTION = 256, 257, 277, 258, 259, 270
TILE_WIDTH, TILE_LENGTH, ROWS_PER_STRIP, STRIP_BYTE_COUNTS, TILE_BYTE_COUNTS = 322, 323, 278, 279, 325
PLANAR, SUB_DIRECTORIES, XMP, GDAL_METADATA = 284, 330, 700, 42112
PHOTOMETRIC, FILL_ORDER, PREDICTOR, EXTRA_SAMPLES, SAMPLE_FORMAT = 262, 266, 317, 338, 339
GEO_TAGS = (34735, 34264, 33550, 33922, 50844)
"""GeoKeyDirectory, ModelTransformation, ModelPixelScale, ModelTiepoint, RPCCoefficient."""

CHECKED = frozenset(
    {
        *(WIDTH, LENGTH, SAMPLES, BITS, COMPRESSION, DESCRIPTION, PLANAR, SUB_DIRECTORIES, XMP, GDAL_METADATA),
        *(TILE_WIDTH, TILE_LENGTH, ROWS_PER_STRIP, STRIP_BYTE_COUNTS, TILE_BYTE_COUNTS),
        *(PHOTOMETRIC, FILL_ORDER, PREDICTOR, EXTRA_SAMPLES, SAMPLE_FORMAT),
    }
)
"""What is read of the directories behind the first."""

PRIVATE = 32768
"""Tags from here on belong to their makers, who may be careless; but not these: GeoTIFF's, GDAL's, ImageJ's."""
OURS = frozenset({*GEO_TAGS, 34736, 34737, 42112, 42113, 50838, 50839})

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""struct codes of the integer types."""

MAX_ENTRIES = 4096
MAX_VALUE_BYTES = 2**24


@dataclass(frozen=True)
class PageForm:
    """What pages must have in common to be read as planes of one image."""

    picture: tuple[tuple[int, ...], ...]
    """Sides, samples and their meaning: where these differ, pages are pictures of their own."""
    storage: tuple[tuple[int, ...], ...]
    """How they are cut and compressed."""
    is_page: bool
    """In the chain itself, not below a page."""


@dataclass(frozen=True)
class TiffHeader:
    """Tags of a directory: integers as tuples, text as bytes; other types only by their presence."""

    tags: dict[int, tuple[int, ...] | bytes]
    too_long: frozenset[int] = frozenset()
    """Tags whose values are over `MAX_VALUE_BYTES`: left out."""
    offset: int = 0
    """Its byte in the file."""
    is_page: bool = True
    """In the chain itself, not below a page."""

    @property
    def form(self) -> PageForm:
        """What other planes of the same image share with it."""
        alike = (PHOTOMETRIC, BITS, EXTRA_SAMPLES, SAMPLE_FORMAT)
        cut = (COMPRESSION, PREDICTOR, FILL_ORDER, PLANAR, TILE_LENGTH, TILE_WIDTH)
        rows = min(self.integer(ROWS_PER_STRIP, self.shape[1]), self.shape[1])
        return PageForm(
            (self.shape, *(self.integers(tag) for tag in alike)),
            ((rows,), *(self.integers(tag) for tag in cut)),
            self.is_page,
        )

    def integer(self, tag: int, default: int) -> int:
        """The first value of an integer tag."""
        value = self.tags.get(tag)
        return int(value[0]) if value else default

    def integers(self, tag: int) -> tuple[int, ...]:
        """All values of an integer tag; empty if it is missing."""
        value = self.tags.get(tag, ())
        return tuple(value)

    def text(self, tag: int) -> bytes:
        """The bytes of a text tag; empty if it is missing."""
        value = self.tags.get(tag, b"")
        return value if isinstance(value, bytes) else bytes(n & 255 for n in value)

    @property
    def description(self) -> bytes:
        """The ImageDescription, without its end mark."""
        value = self.tags.get(DESCRIPTION, b"")
        return value.rstrip(b"\0") if isinstance(value, bytes) else b""

    @property
    def is_geo(self) -> bool:
        """True if it has a georeference, or points or polynomials that give one."""
        return any(tag in self.tags for tag in GEO_TAGS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(samples, y, x) of the page."""
        return self.integer(SAMPLES, 1), self.integer(LENGTH, 0), self.integer(WIDTH, 0)


@dataclass(frozen=True)
class _Form:
    """How the file writes numbers."""

    order: str
    """"<" or ">"."""
    big: bool
    """BigTIFF."""
    first: int
    """Byte of the first directory."""

    @classmethod
    def of(cls, start: bytes, num_bytes: int) -> Self | None:
        """From the first 16 bytes, and the size of the file; None if they are not those of a TIFF."""
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        if order is None or len(start) < 8:
            return None
        magic = struct.unpack(f"{order}H", start[2:4])[0]
        if magic == 42:
            offset = struct.unpack(f"{order}I", start[4:8])[0]
            if num_bytes > 2**32:
                # NDPI: a classic TIFF over 4 GiB, whose offset goes on in the next four bytes.
                long_offset = struct.unpack(f"{order}Q", start[4:12])[0]
                offset = long_offset if long_offset < num_bytes else offset
            return cls(order, False, offset)
        return cls(order, True, struct.unpack(f"{order}Q", start[8:16])[0]) if magic == 43 else None

    @property
    def offset_code(self) -> str:
        return f"{self.order}{'Q' if self.big else 'I'}"


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
    try:
        form = _Form.of(opened.read(16), num_bytes)
    except struct.error as error:
        raise _damaged(uri) from error
    return None if form is None else _read_directory(opened, form.first, form, num_bytes, uri, None)[0]


def read_directories(opened: IO[bytes], num_bytes: int, uri: str, max_pages: int) -> Iterator[TiffHeader]:
    """All directories of a TIFF, with those below them (SubIFDs); of each the tags in `CHECKED`.

    Args:
        opened: the file, anywhere in it.
        num_bytes: its size.
        uri: what errors name.
        max_pages: how many there may be.

    Raises:
        SourceError: if one is missing or cut off, if one comes twice (a loop), or if there are too many.
    """
    opened.seek(0)
    form = _Form.of(opened.read(16), num_bytes)
    assert form is not None, "asked for the directories of what is no TIFF"
    waiting, seen = [(form.first, True)], set[int]()
    while waiting:
        offset, is_page = waiting.pop()
        if offset in seen:
            raise SourceError(
                f"{uri}: its TIFF directories run in a loop (the one at byte {offset} comes twice); "
                "the file is damaged: save it again from where it came"
            )
        if len(seen) >= max_pages:
            raise SourceError(f"{uri}: has more pages than the limit max_pages = {max_pages}")
        seen.add(offset)
        header, following = _read_directory(opened, offset, form, num_bytes, uri, CHECKED)
        yield dataclasses.replace(header, offset=offset, is_page=is_page)
        # Those below a page stand in its list; that some writers chain them too is nothing that readers follow.
        if is_page and following:
            waiting.append((following, True))
        below = header.integers(SUB_DIRECTORIES)[:max_pages]
        waiting.extend((at, False) for at in reversed(below) if at)


def _read_directory(
    opened: IO[bytes], offset: int, form: _Form, num_bytes: int, uri: str, wanted: frozenset[int] | None
) -> tuple[TiffHeader, int]:
    """A directory, of all or of the wanted tags, and the byte of the next one (0 = none)."""
    if offset >= num_bytes:
        raise SourceError(f"{uri}: the file is cut off: a TIFF directory is at byte {offset} of {num_bytes}")
    try:
        header, following, end = _read_tags(opened, offset, form, wanted)
    except struct.error as error:
        raise _damaged(uri) from error
    if wanted is not None and end > num_bytes:
        raise SourceError(f"{uri}: the file is cut off: a TIFF directory refers to byte {end} of {num_bytes}")
    return header, following


def _damaged(uri: str) -> SourceError:
    return SourceError(f"{uri}: its TIFF directory is damaged or cut off; copy it again from where it came")


def _read_tags(
    opened: IO[bytes], offset: int, form: _Form, wanted: frozenset[int] | None
) -> tuple[TiffHeader, int, int]:
    """Entries of one directory, the byte of the next one, and the byte behind the last value that matters.

    Values that cannot be read are left out, as their owners would warn and go on.
    """
    opened.seek(offset)
    count_code, entry_code, inline = ("Q", "HHQ", 8) if form.big else ("H", "HHI", 4)
    count_size, entry_size = struct.calcsize(f"<{count_code}"), struct.calcsize(f"<{entry_code}") + inline
    (count,) = struct.unpack(f"{form.order}{count_code}", opened.read(count_size))
    if count > MAX_ENTRIES:
        raise struct.error(f"{count} entries")
    entries = opened.read(entry_size * count)
    (following,) = struct.unpack(form.offset_code, opened.read(inline))
    tags: dict[int, tuple[int, ...] | bytes] = {}
    too_long, end = set(), 0
    for at in range(0, len(entries) - entry_size + 1, entry_size):
        tag, kind, number = struct.unpack_from(f"{form.order}{entry_code}", entries, at)
        raw = entries[at + entry_size - inline : at + entry_size]
        size = SIZES.get(kind, 0) * number
        place = struct.unpack(form.offset_code, raw)[0] if size > inline else 0
        if tag < PRIVATE or tag in OURS:
            end = max(end, place + size if place else 0)
        if wanted is not None and tag not in wanted:
            continue
        if size > MAX_VALUE_BYTES:
            too_long.add(tag)
            size = 0
        if size > inline:
            opened.seek(place)
            raw = opened.read(size)
        tags[tag] = _value(raw[:size], kind, form.order)
    return TiffHeader(tags, frozenset(too_long)), following, end


def _value(raw: bytes, kind: int, order: str) -> tuple[int, ...] | bytes:
    """A tag's value, from its bytes."""
    if kind not in CODES:
        return raw
    number = len(raw) // SIZES[kind]
    return struct.unpack(f"{order}{number}{CODES[kind]}", raw[: number * SIZES[kind]])
