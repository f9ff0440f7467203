"""TIFF limits: every directory of a TIFF is looked at before a format library follows it."""

import math

from segcore.errors import SourceError
from segcore.sources.base import Limits
from segcore.sources.files import SourceFile
from segcore.sources.tiff_header import (
    BITS,
    COMPRESSION,
    DESCRIPTION,
    GDAL_METADATA,
    PLANAR,
    ROWS_PER_STRIP,
    STRIP_BYTE_COUNTS,
    TILE_BYTE_COUNTS,
    TILE_LENGTH,
    TILE_WIDTH,
    XMP,
    PageForm,
    TiffHeader,
    read_directories,
)

XML_TAGS = (DESCRIPTION, XMP, GDAL_METADATA)
"""Where TIFFs carry XML: OME's and the vendors' descriptions, XMP, GDAL's own."""


def check_directories(file: SourceFile, limits: Limits) -> dict[int, PageForm]:
    """Refuse a TIFF that would ask a format library for too much, in any of its pages.

    Returns:
        The form of every page, and of those below them, by the byte of its directory.

    Raises:
        SourceError: directories in a loop, too many or cut off; sides, tiles or metadata over the limits; more pixels
            than its bytes can hold; XML that declares entities.
    """
    decoded = 0
    forms: dict[int, PageForm] = {}
    known: dict[PageForm, PageForm] = {}  # thousands of pages share one
    with file.open() as opened:
        for page in read_directories(opened, file.num_bytes, file.uri, limits.max_pages):
            for tag in XML_TAGS:
                _check_xml_tag(file.uri, page, tag, limits)
            decoded += _decoded_bytes(file.uri, page, limits)
            forms[page.offset] = known.setdefault(page.form, page.form)
    if decoded > limits.max_ratio * file.num_bytes:
        raise SourceError(
            f"{file.uri}: its header asks for {decoded} bytes of pixels from a file of {file.num_bytes}, over the "
            f"limit max_ratio = {limits.max_ratio}; it is damaged, or made to fill memory"
        )
    return forms


def check_xml(uri: str, text: str | bytes, limits: Limits) -> None:
    """Refuse XML that is too long, or that declares a document type: entities can blow up or read files.

    Raises:
        SourceError: before anything parses it.
    """
    if len(text) > limits.max_metadata_bytes:
        raise _long_metadata(uri, len(text), limits)
    upper = text.upper() if isinstance(text, bytes) else text.upper().encode()
    if b"<!DOCTYPE" in upper or b"<!ENTITY" in upper:
        raise SourceError(f"{uri}: its XML declares a DOCTYPE or ENTITY, which OME-XML never needs; refused for safety")


def _check_xml_tag(uri: str, page: TiffHeader, tag: int, limits: Limits) -> None:
    if tag in page.too_long:
        raise SourceError(f"{uri}: its metadata (TIFF tag {tag}) is over 16 MiB, which is not read")
    if tag in page.tags:
        check_xml(uri, page.text(tag), limits)


def _long_metadata(uri: str, num_bytes: int, limits: Limits) -> SourceError:
    return SourceError(
        f"{uri}: {num_bytes} bytes of metadata are over the limit max_metadata_bytes = {limits.max_metadata_bytes}"
    )


def _decoded_bytes(uri: str, page: TiffHeader, limits: Limits) -> int:
    """Size of the pixels that a page stores; its sides and the size of its tiles or strips are checked."""
    samples, height, width = page.shape
    if height * width > limits.max_px:
        raise SourceError(f"{uri}: a page of {height} x {width} px is over the limit max_px = {limits.max_px}")
    bits = page.integer(BITS, 1)
    tile = page.integer(TILE_LENGTH, 0), page.integer(TILE_WIDTH, 0)
    is_tiled = min(tile) > 0
    cell = tile if is_tiled else (min(page.integer(ROWS_PER_STRIP, height), height), width)
    cell_bytes = math.prod(cell) * (samples if page.integer(PLANAR, 1) == 1 else 1) * bits // 8
    # Rows can be read out of strips of plain bytes: those may have any size.
    if cell_bytes > limits.max_tile_bytes and (is_tiled or page.integer(COMPRESSION, 1) != 1):
        raise SourceError(
            f"{uri}: a {'tile' if is_tiled else 'strip'} of {cell[0]} x {cell[1]} px takes {cell_bytes} bytes, over "
            f"the limit max_tile_bytes = {limits.max_tile_bytes}; save it tiled"
        )
    counts = page.integers(TILE_BYTE_COUNTS) or page.integers(STRIP_BYTE_COUNTS)
    stored = sum(count > 0 for count in counts) / len(counts) if counts else 1.0  # sparse files leave tiles out
    return int(samples * height * width * bits / 8 * stored)
