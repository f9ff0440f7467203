"""Formats that are recognised but not read: a clear line is better than a decoder's complaint."""

import gzip
import io
import zlib
from typing import NoReturn

from segcore.errors import SourceError
from segcore.sources.base import Opening, Reader
from segcore.sources.files import SourceFile
from segcore.sources.slide_files import is_whole_slide_dicom

MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (128, b"DICM", "DICOM", "convert it to TIFF, or to PNG"),
    (344, b"n+1\0", "NIfTI", "convert it to OME-TIFF"),
    (344, b"ni1\0", "NIfTI", "convert it to OME-TIFF"),
    (4, b"n+2\0", "NIfTI-2", "convert it to OME-TIFF"),
    (0, b"\x89HDF", "HDF5", "convert it to OME-TIFF"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000", "convert it to GeoTIFF or OME-TIFF"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", "convert it to GeoTIFF or OME-TIFF"),
    (0, b"\x1f\x8b", "gzip", "unpack it first"),
    (0, b"PK\x03\x04", "ZIP", "unpack it first"),
    (0, b"%PDF", "PDF", "export its pages as TIFF or PNG"),
    (0, b"<VRTDataset", "GDAL VRT", "build a GeoTIFF from it: a VRT can refer to any file or address"),
)
"""Offset, bytes, name, and what to do instead."""

BARE_DICOM = (b"\x02\x00\x00\x00UL", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")
"""Tags near the beginning of a DICOM file that lacks its preamble; only believed under a .dcm name."""


def _recognised(file: SourceFile) -> tuple[str, str] | None:
    """Name of the format and what to do, if it is one of ours to refuse."""
    head = file.head
    if is_whole_slide_dicom(head):
        return None
    if head[:2] == b"\x1f\x8b":
        head = _inflated(head)
    for offset, magic, name, advice in MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name, advice
    if file.name.lower().endswith((".dcm", ".dicom")) and any(tag in head[:16] for tag in BARE_DICOM):
        return MAGIC[0][2], MAGIC[0][3]
    return None


def _inflated(head: bytes) -> bytes:
    """The first bytes inside a gzip stream; those of the stream itself if it cannot be read."""
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(head)).read1(1024)
    except (OSError, EOFError, zlib.error):
        return head


def _refuse(file: SourceFile, opening: Opening) -> NoReturn:
    recognised = _recognised(file)
    assert recognised is not None, "asked to refuse a file that was not recognised"
    name, advice = recognised
    raise SourceError(f"{file.uri}: {name} is not a format that segcore reads yet; {advice}")


READER = Reader(name="refused", rank=0, matches=lambda file: _recognised(file) is not None, open=_refuse)
