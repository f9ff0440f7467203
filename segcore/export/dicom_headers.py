"""DICOM headers: those of a mask's source, read again for what no workspace keeps: patient, study, frame of reference.

    image.reopened --child--> slices in the order of the image's planes --> one header per slice, or one of all frames

Only for DICOM SEG, which has to say to whom and to what it belongs; nothing of it is stored or logged.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from segcore.errors import SourceError, StoreError
from segcore.export.source_grid import SourceGrid
from segcore.geometry import Ints
from segcore.isolation import Beat, ChildPool, Task
from segcore.sources import Joined, SourceInfo, open_source, uri_of
from segcore.sources.dicom import DicomSource
from segcore.sources.dicom_series import Slice
from segcore.sources.files import SourceFile
from segcore.sources.slide_files import SlideFiles, vendor_of
from segcore.store import Image

EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
"""Elements that have to be there, but may be empty (type 2)."""
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
"""Elements that may not (type 1), the same for a whole series."""
CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
"""By modality, the SOP class of a file that does not tell its own."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


TOLERANCE_MM = 1e-2
"""By which a volume may have moved since it was ingested."""


def volume_headers(image: Image, grid: SourceGrid) -> tuple[list[Any], list[int]]:
    """The headers of a source that is no slide, and which plane of the image each of their frames shows.

    Raises:
        StoreError: if the source is no DICOM, or no longer the one that was ingested.
        SourceError: if it cannot be read.
    """
    found = _in_child(read_volume, image.reopened)
    if found is None:
        raise StoreError(_no_dicom(image))
    info, slices, headers = found
    if not _is_same(info, grid):
        raise StoreError(f"image {image.image_id}: its source is another volume now; ingest it again with --overwrite")
    if all(part.frame is None for part in slices):
        return completed(image, headers), list(range(grid.num_planes))
    if len(headers) > 1:
        raise StoreError(f"image {image.image_id}: a DICOM SEG refers to one file of many frames, got {len(headers)}")
    return completed(image, headers), sorted(range(grid.num_planes), key=lambda z: slices[z].frame or 0)


def slide_header(image: Image, shape_yx: Ints) -> Any:
    """The header of that file of a slide which holds its finest level.

    Raises:
        StoreError: if the source is no slide in DICOM, or none of its files is of that size.
        SourceError: if it cannot be read.
    """
    headers = _in_child(read_slide, image.reopened)
    if headers is None:
        raise StoreError(_no_dicom(image))
    for found in headers:
        if (found.get("TotalPixelMatrixRows"), found.get("TotalPixelMatrixColumns")) == shape_yx:
            return completed(image, [found])[0]
    raise StoreError(
        f"image {image.image_id}: no file of its source has {shape_yx[0]} x {shape_yx[1]} px (y x x); "
        "ingest the folder that holds all files of the slide"
    )


def _in_child(function: Callable[..., Any], source: str | Joined) -> Any:
    """What a function makes of a source: files come from outside, also when they are read again."""
    with ChildPool(1) as pool:
        (outcome,) = pool.run([Task(function, (source,), label=uri_of(source))])
    if outcome.error is not None:
        raise outcome.error
    return outcome.result


def read_volume(beat: Beat, source: str | Joined) -> tuple[SourceInfo, tuple[Slice, ...], list[Any]] | None:
    """In a child: what a source is, its slices, and the header of each of its files; None of what is no DICOM."""
    with open_source(source) as opened:
        if not isinstance(opened, DicomSource):
            return None
        info, slices = opened.info, opened.slices
    headers = []
    for uri in dict.fromkeys(part.file for part in slices):
        beat()
        headers.append(header(uri))
    return info, slices, headers


def read_slide(beat: Beat, source: str | Joined) -> list[Any] | None:
    """In a child: the headers of all files of a slide; None of what is no slide in DICOM."""
    file = SourceFile(uri_of(source))
    if vendor_of(file) != "dicom":
        return None
    files = SlideFiles.of(file, "dicom")
    headers = []
    for part in (files.main, *files.parts):
        beat()
        headers.append(header(part.uri))
    return headers


def header(uri: str) -> Any:
    """All of a file but its pixels.

    Raises:
        SourceError: if it cannot be parsed.
    """
    import pydicom

    with SourceFile(uri).open() as opened:
        try:
            found = pydicom.dcmread(opened, stop_before_pixels=True, force=True)
            found.decode()  # names and texts: the SEG has another character set
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise SourceError(f"{uri}: its DICOM header cannot be read ({type(error).__name__}: {reason})") from error
    plain = pydicom.Dataset(found)  # without the open file
    plain.file_meta = found.file_meta
    return plain


def _is_same(info: SourceInfo, grid: SourceGrid) -> bool:
    """True if the source has the planes and the place of the mask still."""
    if tuple(n for axis, n in zip(info.axes, info.shape, strict=True) if axis != "c") != grid.shape:
        return False
    if info.affine is None or grid.affine is None:
        return info.affine is grid.affine
    return bool(np.allclose(info.affine.matrix, grid.affine.matrix, rtol=0, atol=TOLERANCE_MM))


def completed(image: Image, headers: Sequence[Any]) -> list[Any]:
    """Headers with all that a SEG takes over: what is missing is empty, or, of UIDs, made of the source's digest."""
    for number, found in enumerate(headers):
        for name in EMPTY:
            if name not in found:
                setattr(found, name, None)
        for name in UIDS:
            if not found.get(name):
                setattr(found, name, uid_of(f"{image.digest} {name}"))
        meta = found.file_meta
        if not found.get("SOPInstanceUID"):
            found.SOPInstanceUID = meta.get("MediaStorageSOPInstanceUID") or uid_of(f"{image.digest} {number}")
        if not found.get("SOPClassUID"):
            known = CLASSES.get(str(found.get("Modality")), SECONDARY_CAPTURE)
            found.SOPClassUID = meta.get("MediaStorageSOPClassUID") or known
    return list(headers)


def uid_of(text: str) -> str:
    """A UID that is the same for the same text (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'segcore {text}').int}"


def _no_dicom(image: Image) -> str:
    what = f"a DICOM SEG refers to DICOM files, its source is none ({image.attributes.get('reader')})"
    return f"image {image.image_id}: {what}; export it as nifti"
