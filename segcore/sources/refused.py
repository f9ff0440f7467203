"""Formats that are recognised but not read: a clear line is better than a decoder's complaint."""

from typing import NoReturn

from segcore.errors import SourceError
from segcore.sources.base import Opening, Reader
from segcore.sources.files import SourceFile
from segcore.sources.npy import is_npz

MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (344, b"ni1\0", "NIfTI in a pair of files (.hdr, .img)", "save it as one file: .nii or .nii.gz"),
    (4, b"ni2\0", "NIfTI-2 in a pair of files (.hdr, .img)", "save it as one file: .nii or .nii.gz"),
    (0, b"\x1f\x8b", "gzip", "unpack it first"),
    (0, b"PK\x03\x04", "ZIP", "unpack it first"),
    (0, b"%PDF", "PDF", "export its pages as TIFF or PNG"),
    (0, b"<VRTDataset", "GDAL VRT", "build a GeoTIFF from it: a VRT can refer to any file or address"),
)
"""Offset, bytes, name, and what to do instead."""


def _recognised(file: SourceFile) -> tuple[str, str] | None:
    """Name of the format and what to do, if it is one of ours to refuse."""
    if is_npz(file.head):
        return None
    head = file.inner_head
    for offset, magic, name, advice in MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name, advice
    return None


def _refuse(file: SourceFile, opening: Opening) -> NoReturn:
    recognised = _recognised(file)
    assert recognised is not None, "asked to refuse a file that was not recognised"
    name, advice = recognised
    raise SourceError(f"{file.uri}: {name} is not a format that segcore reads yet; {advice}")


READER = Reader(name="refused", rank=0, matches=lambda file: _recognised(file) is not None, open=_refuse)
